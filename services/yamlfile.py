"""Reads a YAML file that a person wrote into a pydantic model, and says by line and path what is wrong with it.

Stricter than YAML 1.1, so that a file means what it seems to mean: no anchors, tags, duplicate keys or second
documents; only `true` and `false` are booleans (`on`, `yes` and `no` are text); `1e-3` is a number; dates and `010`
are text.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from parley.errors import InputError

Path_ = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAXIMUM_BYTES = 1 << 20
MAXIMUM_DEPTH = 32
MAXIMUM_PROBLEMS = 8

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map"))


class StrictModel(BaseModel):
    """Base of everything that a file describes: unknown keys refused, no conversion of text to numbers, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def problem(path: Path_, message: str) -> PydanticCustomError:
    """The error that a validator raises about something at `path` below itself; `message` says what to mend."""
    return PydanticCustomError("problem", "{message}", {"message": message, "path": path})


def _refusal(message: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    mark: Any = at.start_mark
    return yaml.MarkedYAMLError(problem=message, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Composes YAML nodes without anchors, to a bounded depth, with the few implicit types named above."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML declares it so)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refusal("anchors and aliases are not accepted: write it out", event)
        self.depth += 1
        if self.depth > MAXIMUM_DEPTH:
            raise _refusal(f"nested deeper than {MAXIMUM_DEPTH} levels", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|nan))$"
for _kind, _pattern, _first in (
    ("null", r"(~|null)?$", ["~", "n", ""]),
    ("bool", r"(true|false)$", list("tf")),
    ("int", r"[-+]?(0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), _first)


def _construct(loader: _Loader, node: yaml.Node, path: Path_, lines: dict[Path_, int]) -> Any:
    """The value of `node`; writes the line (from 1) of everything in it to `lines`."""
    lines.setdefault(path, node.start_mark.line + 1)
    if node.tag not in _PLAIN_TAGS:
        raise _refusal(f"the tag {node.tag} is not accepted", node)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                raise _refusal("a key must be text", key_node)
            key = key_node.value
            line = key_node.start_mark.line + 1
            if key in mapping:
                before = lines[(*path, key)]
                message = f"the key `{key}` is here for the second time (first on line {before}): remove one of them"
                raise _refusal(message, key_node)
            lines[(*path, key)] = line
            mapping[key] = _construct(loader, value_node, (*path, key), lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), lines) for index, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def read_text(path: Path) -> str:
    """The text of a file of at most 1 MiB. InputError if it is missing, too long or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from error
    if len(data) > MAXIMUM_BYTES:
        raise InputError(f"{path}: longer than {MAXIMUM_BYTES} bytes, which no such file needs")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}: save it as UTF-8") from error


def parse(text: str, source: str, model: type[Model]) -> Model:
    """The model that the YAML in `text` describes; `source` is the file's name for messages.

    InputError names every problem (eight at most, one a line) as `source:line: path: what to mend`.
    """
    lines: dict[Path_, int] = {}
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = None if node is None else _construct(loader, node, (), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: {error.problem or error.context or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        raise InputError(f"{source}:1: expected keys and values (`key: value`), found {_noun(data)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, source, lines, model)) from None


def read(path: Path, model: type[Model]) -> Model:
    """`parse` of the file at `path`. InputError as there, and where the file cannot be read."""
    return parse(read_text(path), str(path), model)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as it was: no aliases, and text that looks like a number in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_TAG + "float", re.compile(_FLOAT), list("-+.0123456789"))


def dump(value: BaseModel) -> str:
    """The YAML text that `parse` reads back as `value`."""
    return str(yaml.dump(value.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def build(fields: dict[str, Any], source: str, model: type[Model]) -> Model:
    """The model of `fields` given in Python, such as a command's options; `source` names them in messages.

    InputError as `parse`, without line numbers.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InputError(_explain(error, source, {}, model)) from None


def _noun(value: Any) -> str:
    return {type(None): "nothing", list: "a list", str: "text", bool: "a truth value"}.get(type(value), "a number")


def _explain(error: ValidationError, source: str, lines: dict[Path_, int], model: type[BaseModel]) -> str:
    found: list[tuple[int, str]] = []
    located = [(_path(details, model), details) for details in error.errors()]
    for path, details in located:
        others = [other for other, its in located if its is not details and other[: len(path)] == path]
        # Of the ways in which a value may be written, the user meant the one that went furthest.
        if any(len(other) > len(path) for other in others) or (others and details["type"] == "model_type"):
            continue
        line = next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 0)
        where = f"{source}:{line}: " if line else f"{source}: "
        what = f"{_written(path)}: " if path else ""
        found.append((line, f"{where}{what}{_message(details, path, model)}"))
    found.sort(key=lambda entry: entry[0])
    messages = [message for _, message in found]
    if len(messages) > MAXIMUM_PROBLEMS:
        messages[MAXIMUM_PROBLEMS:] = [f"and {len(messages) - MAXIMUM_PROBLEMS} more problems"]
    return "\n".join(messages)


def _path(details: ErrorDetails, model: type[BaseModel]) -> Path_:
    """Where the problem is, without the names that pydantic puts in between for the members of a union."""
    path: Path_ = ()
    here: Any = model
    last = len(details["loc"]) - 1
    for index, part in enumerate(details["loc"]):
        fields = here.model_fields if here is not None else {}
        if isinstance(part, int) or (index == last and details["type"] == "extra_forbidden"):
            path = (*path, part)
        elif part in fields:
            path = (*path, part)
            here = _model_in(fields[part].annotation)
    return (*path, *details["ctx"]["path"]) if details["type"] == "problem" else path


def _written(path: Path_) -> str:
    """`train.optimizer.sgd.lr`, `parties[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _message(details: ErrorDetails, path: Path_, model: type[BaseModel]) -> str:
    if details["type"] == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key: {hint}"
    if details["type"] == "missing":
        return "is missing: add it"
    if details["type"] == "problem":
        return details["msg"]
    if details["type"] == "value_error":
        return f"{details['input']!r}: {details['ctx']['error']}"
    if details["type"] == "literal_error":
        expected = str(details["ctx"]["expected"]).replace("'", "")
        near = difflib.get_close_matches(str(details["input"]), re.split(r", | or ", expected), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{details['input']!r} is not one of {expected}{hint}"
    shown = repr(details["input"])
    return f"{details['msg'][0].lower()}{details['msg'][1:]}" + (f", not {shown}" if len(shown) <= 60 else "")


def _keys_at(model: type[BaseModel], path: Path_) -> list[str]:
    """The keys that may stand below `path`."""
    here: Any = model
    for part in path:
        if isinstance(part, str) and isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(part)
            here = _model_in(field.annotation) if field else None
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The model class within `annotation` (`list[M]`, `M | None`, `Annotated[M, ...]`), or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, get_args(annotation)) if found is not None), None)
