"""`parley data`: the datasets of a party, on its own machine, and what all parties offer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.options import Cluster, Coordinator, Identity
from coordinator.cli.output import Format, FormatOption, print_rows, say

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ["name", "shape", "kind", "classes", "bound", "columns"]
DATASETS = "datasets"
"""Where the party's service looks for them (party_node/service.py, which would import all that a service needs)."""
Config = Annotated[Path, typer.Option("--config", help="Settings of the party.")]


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="Registration: name, path, columns, labels, normalisation (YAML).")],
    config: Config,
    format: FormatOption = Format.table,
) -> None:
    """Read, check and register a dataset; again does no harm, and one of the same name is replaced."""
    store = _store(_settings(config))
    before = {entry.name: entry.content_hash for entry in store.list()}
    tensors = store.add(file)
    name = tensors[0].dataset
    known = [before.get(entry.name) for entry in tensors]
    if not any(known):
        say(f"registered `{name}`")
    elif known == [entry.content_hash for entry in tensors]:
        say(f"`{name}` was registered already, and is unchanged")
    else:
        say(f"replaced `{name}`: its file or its registration has changed")
    print_rows([_row(entry) for entry in tensors], _COLUMNS, format)


@app.command("list")
def list_(
    config: Annotated[Path | None, typer.Option("--config", help="Settings of a party: its own.")] = None,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """List what this party has registered (with --config), or what all parties offer (through the coordinator)."""
    if config is not None:
        settings = _settings(config)
        rows = [_row(entry) | {"name": f"{settings.name}/{entry.name}"} for entry in _store(settings).list()]
    else:
        from coordinator.client import CoordinatorClient, find_coordinator
        from coordinator.submission import described

        with CoordinatorClient(find_coordinator(coordinator, identity, cluster)) as client:
            rows = described(client.datasets())
    print_rows(rows, _COLUMNS, format)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the dataset.")], config: Config) -> None:
    """Forget a dataset; its own files stay."""
    _store(_settings(config)).remove(name)
    say(f"forgot `{name}`")


def _settings(config: Path) -> Any:
    from services.settings import PartySettings, load_settings

    return load_settings(PartySettings, config)


def _store(settings: Any) -> Any:
    from party_node.datasets import DatasetStore

    return DatasetStore(settings.data_directory / DATASETS)


def _row(description: Any) -> dict[str, Any]:
    row: dict[str, Any] = description.model_dump(mode="json")
    return row
