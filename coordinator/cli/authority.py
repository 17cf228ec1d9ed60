"""`parley ca`: a certificate authority, for development or for whoever runs one in earnest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from coordinator.cli.output import say

Answer = TypeVar("Answer")

app = typer.Typer(no_args_is_help=True)

Authority = Annotated[Path, typer.Option("--dir", help="Directory of the authority.")]


@app.command()
def init(directory: Authority) -> None:
    """Make an authority: whoever holds its key decides who takes part."""
    from services.identity import create_authority

    create_authority(directory)
    say(f"made an authority in {directory}; keep {directory / 'ca_key.pem'} to yourself")


@app.command()
def issue(
    directory: Authority,
    role: Annotated[str, typer.Option(help="coordinator, dealer, party or submitter")],
    name: Annotated[str, typer.Option(help="Name of the node or person.")],
    out: Annotated[Path, typer.Option(help="Directory to write the identity to.")],
    hosts: Annotated[str, typer.Option(help="Further DNS names and IP addresses of the node: a,b,…")] = "",
    days: Annotated[float, typer.Option(help="How long the certificate is valid.", min=0.01, max=3650)] = 365,
) -> None:
    """Make keys and certificate of one node in a directory of its own.

    The key is made here: a node that others must not be able to play makes its own.
    """
    from services.identity import Authority as Signer
    from services.identity import check_name, check_role
    from services.identity import issue as issue_identity

    checked_role, checked_name = _checked(check_role, role), _checked(check_name, name)
    signer = Signer.load(directory)
    issue_identity(signer, out, checked_role, checked_name, [host for host in hosts.split(",") if host], days)
    say(f"made the identity of {role} {name} in {out}, signed by the authority in {directory}")


def _checked(check: Callable[[str], Answer], value: str) -> Answer:
    """A role or name, of which a wrong one is a mistake of usage here."""
    from parley.errors import IdentityError, InputError

    try:
        return check(value)
    except IdentityError as error:
        raise InputError(str(error)) from error
