"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Coordinator = Annotated[
    str | None, typer.Option("--coordinator", help="host:port, or name@host:port (PARLEY_COORDINATOR).")
]
Identity = Annotated[Path | None, typer.Option("--identity", help="Directory of your identity (PARLEY_IDENTITY).")]
Cluster = Annotated[
    Path | None, typer.Option("--dir", help="Directory of a cluster of `parley up` (PARLEY_LOCAL_CLUSTER).")
]
JobId = Annotated[str, typer.Argument(help="The job, as `parley job list` names it.")]
