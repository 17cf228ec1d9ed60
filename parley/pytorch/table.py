"""The table: ATen operation → function on recorded values. One row an operation; in-place forms follow from their plain
forms.

The rows stand in `rules_*.py`, grouped by nature; importing those fills the tables (`tensor.py` does). A rule gets a
`Context` and the operation's own arguments, tensors replaced by their contents; it returns the content of the result
(or a tuple of them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from parley.pytorch.recorder import Content, Recorder

aten = torch.ops.aten

Rule = Callable[..., Any]
ViewRule = Callable[..., Any]
"""(meta of the source, meta(s) of the result, further arguments) → None for an alias, or a pair (forward, backward) as
`View` takes it; for several results a list of pairs."""

Row = TypeVar("Row", bound=Callable[..., Any])

TABLE: dict[Any, Rule] = {}
IN_PLACE: dict[Any, Rule] = {}
VIEWS: dict[Any, ViewRule] = {}
PLAIN: set[Any] = set()
"""Operations whose rules get plain tensors as they are (public indices)."""
DECISIONS = frozenset({aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default})
"""Operations by which a Python program would read an element."""


class Context:
    """What a rule may ask for besides its arguments."""

    def __init__(self, recorder: Recorder, metas: Any) -> None:
        self.recorder = recorder
        self.metas = metas

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        meta = self.metas if isinstance(self.metas, torch.Tensor) else self.metas[0]
        return tuple(meta.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the (first) result."""
        meta = self.metas if isinstance(self.metas, torch.Tensor) else self.metas[0]
        result: torch.dtype = meta.dtype
        return result

    def operand(self, item: Any) -> Any:
        """An argument as a rule sees it: the content of a secret tensor, a public argument or Uniform for a plain
        one."""
        storage = getattr(item, "_storage", None)
        if storage is not None and isinstance(item, torch.Tensor):
            content: Content = storage.read()
            return content
        if isinstance(item, torch.Tensor):
            return self.recorder.public(item.detach().numpy())
        return item

    def content(self, item: Any) -> Content:
        """The content of an operand that a rule on plain tensors got: a plain tensor's, or as it is."""
        content: Content = self.operand(item) if isinstance(item, torch.Tensor) else item
        return content

    def secret_operand(self, item: Any) -> Any:
        """The content of a secret tensor; everything else, plain tensors included, as it is."""
        return self.operand(item) if getattr(item, "_storage", None) is not None else item


def rule(*operations: Any) -> Callable[[Row], Row]:
    """Enter a rule for the operations, and for the in-place forms that they have."""

    def enter(function: Row) -> Row:
        for operation in operations:
            TABLE[operation] = function
            packet = getattr(aten, operation._schema.name.split("::")[1] + "_", None)
            overload = operation._overloadname
            if packet is not None and overload in packet.overloads():
                IN_PLACE[getattr(packet, overload)] = function
        return function

    return enter


def rule_on_plain(*operations: Any) -> Callable[[Row], Row]:
    """As `rule`, for a function that takes plain tensors themselves instead of their contents."""

    def enter(function: Row) -> Row:
        rule(*operations)(function)
        PLAIN.update(operations)
        PLAIN.update(operation for operation, row in IN_PLACE.items() if row is function)
        return function

    return enter


def in_place(*operations: Any) -> Callable[[Row], Row]:
    """Enter a rule for operations that exist in place only, or differ there: it gives the target's new content."""

    def enter(function: Row) -> Row:
        for operation in operations:
            IN_PLACE[operation] = function
        return function

    return enter


def view(*operations: Any) -> Callable[[Row], Row]:
    def enter(function: Row) -> Row:
        for operation in operations:
            VIEWS[operation] = function
        return function

    return enter
