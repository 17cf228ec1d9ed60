"""`parley up`, `down`, `status` and `demo`: a cluster on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.errors import UNREACHABLE
from coordinator.cli.output import Format, FormatOption, print_record, print_rows, say

Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of the cluster (default: PARLEY_LOCAL_CLUSTER, or one of your own)."),
]


class DemoModel(StrEnum):
    """The demo's models."""

    softmax = "softmax"
    mlp = "mlp"


def up(
    parties: Annotated[int | None, typer.Option(help="How many parties (default: 3, or what is there).")] = None,
    directory: Directory = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the nodes may take to serve.", min=1)] = 90.0,
    format: FormatOption = Format.table,
) -> None:
    """Start a cluster of real processes on this machine, with certificates of its own, and wait until it serves."""
    from coordinator.client import cluster_directory
    from coordinator.local_cluster import LocalCluster

    cluster = LocalCluster(cluster_directory(directory))
    cluster.make(parties or (len(cluster.parties) if cluster.exists else 3), say)
    cluster.start(say, timeout)
    if cluster_directory().resolve() != cluster.directory:
        say(f"for the commands to find it: export PARLEY_LOCAL_CLUSTER={cluster.directory}")
    rows = [
        {"node": node.name, "role": node.role, "address": node.address, "pid": node.pid()} for node in cluster.nodes
    ]
    print_rows(rows, ["node", "role", "address", "pid"], format)


def down(directory: Directory = None) -> None:
    """Stop the processes of the cluster, and no others. Its data and certificates stay."""
    from coordinator.client import cluster_directory
    from coordinator.local_cluster import LocalCluster

    cluster = LocalCluster(cluster_directory(directory))
    if not cluster.stop(say):
        say(f"nothing ran in {cluster.directory}")


def status(directory: Directory = None, format: FormatOption = Format.table) -> None:
    """Say of every node of the cluster whether it serves; exit code 3 where one does not."""
    from coordinator.client import cluster_directory
    from coordinator.local_cluster import LocalCluster

    cluster = LocalCluster(cluster_directory(directory))
    rows = []
    for node in cluster.nodes:
        pid = node.pid()
        state = cluster.healthy(node) if pid is not None else "stopped"
        rows.append(
            {
                "node": node.name,
                "role": node.role,
                "state": state,
                "address": node.address,
                "pid": pid,
                "settings": str(node.settings_path),
            }
        )
    print_rows(rows, ["node", "role", "state", "address", "pid", "settings"], format)
    if any(row["state"] != "serving" for row in rows):
        raise typer.Exit(UNREACHABLE)


def demo(
    rows: Annotated[int | None, typer.Option(help="Training images in all (default: all 60,000).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs (default: the job's, 3).", min=1)] = None,
    parties: Annotated[int, typer.Option(help="Parties among which the images are split.", min=2, max=8)] = 3,
    model: Annotated[DemoModel, typer.Option(help="softmax regression, or 784-128-128-10 with ReLU.")] = (
        DemoModel.softmax
    ),
    out: Annotated[Path, typer.Option(help="Directory for the model, the curves and the cluster.")] = Path("out/demo"),
    digits: Annotated[bool, typer.Option("--digits", help="Take scikit-learn's small images of digits.")] = False,
) -> None:
    """Train on Fashion-MNIST with three parties, a dealer and a coordinator on this machine, and stop them again.

    The last line of standard output is JSON: accuracies, times, rounds and bytes as measured, and where the model is.
    """
    from coordinator.demo import run_demo

    summary = run_demo(rows=rows, epochs=epochs, parties=parties, model=model.value, out=out, digits=digits)
    print_record(summary, Format.json)
