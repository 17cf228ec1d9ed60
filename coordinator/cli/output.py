"""What commands print: rows and values as a table, as JSON or as a JSON object a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How data is written to standard output."""

    table = "table"
    json = "json"
    jsonl = "jsonl"


FormatOption = Annotated[Format, typer.Option("--format", help="How data is written to standard output.")]


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Format) -> None:
    """Rows of the same keys; a table shows the named columns only."""
    if form is Format.json:
        print(json.dumps(list(rows), indent=2))
    elif form is Format.jsonl:
        for row in rows:
            print(json.dumps(row))
    else:
        lines = [[column.replace("_", " ") for column in columns]]
        lines += [[_cell(row.get(column)) for column in columns] for row in rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_record(record: Mapping[str, Any], form: Format) -> None:
    """One record; a table has a line for each key. JSON comes on one line, so that it can be found as the last one."""
    if form is not Format.table:
        print(json.dumps(record))
        return
    width = max((len(key) for key in record), default=0)
    for key, value in record.items():
        if value not in ("", None, [], {}):
            print(f"{key.replace('_', ' ').ljust(width)}  {_cell(value)}")


def say(text: str) -> None:
    """A line of progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


def moment(seconds: float) -> str:
    """A time since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(entry) for entry in value)
    return "" if value is None else str(value)
