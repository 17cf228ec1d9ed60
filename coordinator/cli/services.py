"""`parley coordinator|dealer|party serve`, and `parley health`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli.errors import FAILED, OK

Config = Annotated[Path, typer.Option("--config", help="Settings of the node (YAML or TOML).")]

_MODULES = {"coordinator": "coordinator.service", "dealer": "dealer.service", "party": "party_node.service"}


def service(role: str) -> typer.Typer:
    """The commands of one role's service."""
    app = typer.Typer(no_args_is_help=True)

    @app.command(help=f"Run the {role} in the foreground until it is told to stop.")
    def serve(config: Config) -> None:
        from services.process import prepare_process

        prepare_process()
        from services.settings import SETTINGS_OF_ROLE, load_settings

        settings = load_settings(SETTINGS_OF_ROLE[role], config)  # type: ignore[index]
        import_module(_MODULES[role]).serve(settings)

    @app.callback()
    def group() -> None:
        """Makes `serve` a word of its own, though it is the only one."""

    return app


def health(
    config: Config,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.1, max=60)] = 5.0,
) -> None:
    """Ask a node on this machine whether it serves, with its own identity; exit code 0 if it does, else 1 or 3."""
    from coordinator.local_cluster import health as ask
    from services.client import Connection
    from services.identity import Caller, Identity

    settings, role = _settings(config)
    identity = None
    if not settings.insecure:
        identity = Identity.load(settings.tls.directory)
        role = identity.role
    claimed = Caller(role, settings.name) if identity is None else None
    address = _own_address(settings.listen)
    with Connection(address, role, settings.name, identity, claimed=claimed) as connection:
        answer = ask(connection, timeout)
    print(answer)
    raise typer.Exit(OK if answer == "serving" else FAILED)


def _settings(config: Path) -> tuple[Any, Any]:
    """The settings of a node of whatever role, and, as far as the file tells, which."""
    from parley.errors import InputError
    from services.settings import SETTINGS_OF_ROLE, load_settings

    failures: list[InputError] = []
    for role in ("party", "dealer", "coordinator"):
        try:
            return load_settings(SETTINGS_OF_ROLE[role], config), role
        except InputError as error:
            failures.append(error)
    raise min(failures, key=lambda error: len(str(error)))


def _own_address(listen: str) -> str:
    """Where a node that listens there can be reached on its own machine."""
    from parley.errors import InputError
    from services.settings import split_address

    host, port = split_address(listen, "listen")
    if port == 0:
        raise InputError("listen has the port 0, a free one: set a port, so that the node can be found")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - an address to replace
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
