"""The plan: what is computed, as data. A list of typed nodes in topological order; no behaviour.

What the operations mean is in `parley/protocols`, how a plan is made in `builder`, which plans are legal in `checker`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

Attribute = int | float | str | bytes | tuple["Attribute", ...]


class Kind(IntEnum):
    """What the parties hold of a value (protocols.md, section 1)."""

    PUBLIC = 1
    """Every node of the session knows it: constants of the plan and arguments of an execution."""
    SHARED = 2
    """Party i holds x_i, the sum of all is x."""
    MASKED = 3
    """All parties hold m = x + λ, party i holds λ_i with sum λ; the dealer knows λ."""
    BITS = 4
    """Party i holds bits whose exclusive or is the value."""
    MASKED_BITS = 5
    """All parties hold the bits xor β, party i a share of β; the dealer knows β."""


@dataclass(frozen=True, slots=True)
class Type:
    """What is publicly known of a value.

    `scale`: fractional bits. `bound`: every element is below 2^bound in magnitude as an integer; what a product cannot
    prove it takes from the precision's declared range. `width`: the value is known modulo 2^width. `planes`: bits an
    element (bit kinds only).
    """

    kind: Kind
    shape: tuple[int, ...]
    scale: int = 0
    bound: int = 62
    width: int = 64
    planes: int = 1

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `inputs` are indices of earlier nodes; `line` is the user's source line, for messages and
    reports."""

    operation: str
    inputs: tuple[int, ...]
    type: Type
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    line: str = ""

    _read: dict[str, Attribute] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Attributes that have been read once, and so checked: nodes are run many times."""

    def integer(self, name: str) -> int:
        value = self.attributes[name]
        if type(value) is not int:
            raise TypeError(f"attribute {name} is not an integer")
        return value

    def text(self, name: str) -> str:
        value = self.attributes[name]
        if not isinstance(value, str):
            raise TypeError(f"attribute {name} is not a text")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        return self._items(name, (int,), "integers")  # type: ignore[return-value]

    def reals(self, name: str) -> tuple[float, ...]:
        return self._items(name, (int, float), "numbers")  # type: ignore[return-value]

    def texts(self, name: str) -> tuple[str, ...]:
        return self._items(name, (str,), "texts")  # type: ignore[return-value]

    def _items(self, name: str, kinds: tuple[Any, ...], what: str) -> Attribute:
        known = self._read.get(name)
        if known is None:
            known = self.attributes[name]
            if not isinstance(known, tuple) or not all(type(item) in kinds for item in known):
                raise TypeError(f"attribute {name} is not a list of {what}")
            self._read[name] = known
        return known


@dataclass(frozen=True)
class Plan:
    """A computation among `parties` (names, in the order of their indices)."""

    parties: tuple[str, ...]
    nodes: tuple[Node, ...]
    name: str = ""
    types: tuple[Type, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", tuple(node.type for node in self.nodes))

    def input_types(self, node: Node) -> list[Type]:
        return [self.types[index] for index in node.inputs]

    def with_operation(self, operation: str) -> list[tuple[int, Node]]:
        return [(index, node) for index, node in enumerate(self.nodes) if node.operation == operation]
