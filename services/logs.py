"""Structured logs on standard error, one line of JSON an event, without any secret.

Log what happened and its keys: `log.info("session opened", session=…, attempt=…)`. Values that could be secret are
never written, whatever their key: bytes, buffers and arrays are replaced by their size, and keys that name a secret by
a mark.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

_SECRET_KEY = re.compile(
    r"(^|_)(shares?|masks?|secrets?|keys?|seeds?|entropy|corrections?|openings?|plaintexts?|tokens?|passwords?|"
    r"passphrases?|private|values?|tensors?)$",
    re.IGNORECASE,
)
_MAXIMUM_TEXT = 2000
_PRIVATE_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SCALARS = (bool, int, float, type(None))


def configure_logs(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["json", "console"] = "json",
    **context: str,
) -> None:
    """Set up logging for the process; `context` (role, name) comes with every line."""
    structlog.contextvars.clear_contextvars()
    final: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )

    def add_context(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**context, **event}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_context,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            withhold_secrets,
            final,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_StandardError,
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Any:
    """The logger of a module; the lines carry its name."""
    if not structlog.is_configured():
        configure_logs("warning", "console")  # a library, or a test: quiet, and never on standard output
    return structlog.get_logger(module=name)


class _StandardError:
    """Writes lines to standard error, whatever that is at the time."""

    def __init__(self, *_arguments: Any) -> None: ...

    def _write(self, message: str) -> None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()

    msg = debug = info = warning = error = critical = exception = fatal = _write


def withhold_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what could be secret, at any depth."""
    return {key: _safe(key, value) for key, value in event.items()}


def _safe(key: str, value: Any, depth: int = 0) -> Any:
    if _SECRET_KEY.search(key) and not isinstance(value, bool | type(None)):
        return "<withheld>"
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, str):
        return _PRIVATE_BLOCK.sub("<private key withheld>", value)[:_MAXIMUM_TEXT]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<array {tuple(value.shape)}>"
    if depth < 4:
        if isinstance(value, Mapping):
            return {str(name): _safe(str(name), entry, depth + 1) for name, entry in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            entries = [_safe("", entry, depth + 1) for entry in list(value)[:32]]
            return entries if len(value) <= 32 else [*entries, f"… {len(value)} in all"]
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"[:_MAXIMUM_TEXT]
    # The text of an object of unknown class may show anything.
    return f"<{type(value).__name__}>"
