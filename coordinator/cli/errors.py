"""Errors as the command line shows them: one line, and an exit code that scripts can tell apart."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

OK, FAILED, USAGE, UNREACHABLE, DENIED, TIMEOUT, CONFLICT, BUG = 0, 1, 2, 3, 4, 5, 6, 70

# By name, so that showing an error imports nothing; the first class of an error's ancestry that is here decides.
_CODES: dict[str, tuple[str, int]] = {
    "Conflict": ("CONFLICT", CONFLICT),
    "Occupied": ("CONFLICT", CONFLICT),
    "TimeLimit": ("TIMEOUT", TIMEOUT),
    "NodeFailed": ("NODE FAILED", UNREACHABLE),
    "NoConnection": ("NO CONNECTION", UNREACHABLE),
    "NotFound": ("NOT FOUND", CONFLICT),
    "Denied": ("DENIED", DENIED),
    "IdentityError": ("IDENTITY", UNREACHABLE),
    "Unreachable": ("UNREACHABLE", UNREACHABLE),
    "UnsupportedOperation": ("UNSUPPORTED", USAGE),
    "PlanError": ("INVALID PLAN", USAGE),
    "InputError": ("INVALID", USAGE),
    "ProtocolError": ("PROTOCOL", FAILED),
    "SessionClosed": ("SESSION CLOSED", FAILED),
    "ParleyError": ("FAILED", FAILED),
}
_MENDS = {
    "UNREACHABLE": "parley status",
    "NODE FAILED": "parley status",
    "TIMEOUT": "parley job show ID",
}


class TimeLimit(Exception):
    """What was waited for did not come within the time that was given for it."""


def report_error(error: BaseException) -> int:
    """Write the line of an error to standard error; returns the exit code."""
    word, code = classify(error)
    if code == BUG:
        mend = "PARLEY_TRACEBACK=1 shows where; please report it"
        line = f"{type(error).__name__}: {one_line(str(error))}; {mend}"
    else:
        line = one_line(str(error))
        if word in _MENDS and "`parley" not in line:
            line += f"; try `{_MENDS[word]}`"
    if os.environ.get("PARLEY_TRACEBACK"):
        traceback.print_exception(error)
    print(f"error: {word} ({code}): {line}", file=sys.stderr)
    return code


def report_usage(error: Any) -> int:
    """The same for a mistake in the arguments; returns the exit code."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "parley"
    print(f"error: USAGE ({USAGE}): {one_line(error.format_message())}; try `{path} --help`", file=sys.stderr)
    return USAGE


def classify(error: BaseException) -> tuple[str, int]:
    """The word and the exit code of an error."""
    for cause in _chain(error):
        status = getattr(cause, "code", None)
        named = getattr(cause, "trailing_metadata", None)
        if not callable(status) or not callable(named):
            continue
        if getattr(status(), "name", "") == "DEADLINE_EXCEEDED":
            return _CODES["TimeLimit"]
        if dict(named() or ()).get("parley-error") == "Conflict":
            return _CODES["Conflict"]
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    if isinstance(error, OSError) and error.filename is not None:
        return "FILE", USAGE
    return "BUG", BUG


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    for _ in range(8):
        if found is None:
            return
        yield found
        found = found.__cause__
