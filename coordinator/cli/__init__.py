"""The command line `parley`: data on standard output, progress and errors on standard error.

Nothing heavy is imported before a command needs it: neither PyTorch nor gRPC comes with this package.
"""

from __future__ import annotations

import os
import sys

import typer

from coordinator.cli import authority, cluster, data, job, model, services
from coordinator.cli.errors import report_error, report_usage

__all__ = ["app", "main"]

app = typer.Typer(
    name="parley",
    help="Train and run PyTorch models on data that no one shares.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 job failed or cancelled, 2 usage or invalid job, 3 cannot reach, TLS or identity, "
    "4 denied, 5 timeout, 6 not found or conflict, 70 bug.",
)
app.command()(cluster.up)
app.command()(cluster.down)
app.command()(cluster.status)
app.command()(cluster.demo)
app.command()(services.health)
app.add_typer(job.app, name="job", help="Jobs: check, submit, follow, and take their results.")
app.add_typer(data.app, name="data", help="Datasets: register at a party, and see what there is.")
app.add_typer(model.app, name="model", help="Models that were revealed.")
app.add_typer(authority.app, name="ca", help="A certificate authority and the identities it issues.")
for _role in ("coordinator", "dealer", "party"):
    app.add_typer(services.service(_role), name=_role, help=f"The service of a {_role}.")


@app.callback(invoke_without_command=True)
def _program(
    version: bool = typer.Option(False, "--version", help="Print the version and end."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"parley {installed('parley-mpc')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        return int(app(arguments, prog_name="parley", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if type(error).__name__ == "Abort":  # Ctrl-C, as typer passes it on
            return 130
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return report_usage(error)
        return report_error(error)
