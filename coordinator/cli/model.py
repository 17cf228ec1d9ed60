"""`parley model`: models that were revealed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import Cluster, Coordinator, Identity, JobId
from coordinator.cli.output import Format, FormatOption, print_record, say

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Makes `export` a word of its own, though it is the only one."""


@app.command()
def export(
    job: JobId,
    out: Annotated[Path, typer.Option(help="File to write, *.safetensors.")],
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Write the model that a job has revealed to you, as float32 tensors by the names of its `state_dict`."""
    from coordinator.client import CoordinatorClient, find_coordinator
    from coordinator.results import fetch_result, write_model
    from parley.errors import InputError

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: name a file that ends in .safetensors")
    with CoordinatorClient(find_coordinator(coordinator, identity, cluster)) as client:
        result = fetch_result(client, job)
    tensors = write_model(result, out)
    say(f"wrote {out}")
    print_record({"model": str(out), "tensors": tensors}, format)
