"""Makes plans: adds typed nodes, never the same one twice, and finishes with the passes.

The builder knows nothing of reals or of PyTorch; `parley/functions` is written on top of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import FrameType

import numpy as np
import numpy.typing as npt

from parley.errors import InputError, PlanError
from parley.plan.graph import Attribute, Kind, Node, Plan, Type
from parley.plan.passes import optimise
from parley.protocols import infer_type

_PROMISED = frozenset(
    {
        "add",
        "subtract",
        "sum",
        "multiply",
        "multiply_public",
        "matmul",
        "matmul_public",
        "scatter_add",
        "truncate",
        "select",
    }
)
"""Operations whose results are bounded by the precision's promise where nothing smaller can be proven."""


@dataclass(frozen=True)
class Precision:
    """Fixed point. Reals have `fraction_bits` fractional bits and stay below 2^range_bits in magnitude.

    The range is the user's promise for every intermediate value; inputs are checked against it. What can be proven to
    be smaller is treated as smaller. With the default of 16 + 16 bits, products are opened in 50 of the ring's 64 bits.
    """

    fraction_bits: int = 16
    range_bits: int = 16

    def __post_init__(self) -> None:
        if not 10 <= self.fraction_bits <= 24:
            raise InputError(f"fraction_bits is {self.fraction_bits}; it must be 10 to 24")
        if not 4 <= self.range_bits <= 60 - 2 * self.fraction_bits:
            raise InputError(
                f"range_bits is {self.range_bits}; with {self.fraction_bits} fractional bits it must be "
                f"4 to {60 - 2 * self.fraction_bits}"
            )


@dataclass(eq=False)
class Value:
    """A handle on a node under construction, and what is known of it beyond its type."""

    builder: Builder = field(repr=False)
    index: int
    total: float | None = None
    """The public sum of every row along the last axis, where known (1 for one-hot labels): protocols.md, section 8."""

    @property
    def type(self) -> Type:
        return self.builder.nodes[self.index].type

    @property
    def kind(self) -> Kind:
        return self.type.kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def scale(self) -> int:
        return self.type.scale

    def with_total(self, total: float | None) -> Value:
        return replace(self, total=total)


class Builder:
    """A plan under construction for `parties`."""

    def __init__(self, parties: Sequence[str], precision: Precision | None = None) -> None:
        self.parties = tuple(parties)
        self.precision = precision or Precision()
        self.nodes: list[Node] = []
        self.line = ""
        """Source line that new nodes are attributed to."""
        self._known: dict[object, int] = {}

    def add(self, operation: str, *inputs: Value, **attributes: Attribute) -> Value:
        """The node with this operation, inputs and attributes: an existing one, where there is one (a value is opened
        once).

        Raises PlanError where they do not fit.
        """
        for value in inputs:
            if value.builder is not self:
                raise PlanError("a value of another plan is used")
        sources = tuple(value.index for value in inputs)
        key = (operation, sources, tuple(sorted(attributes.items())))
        if operation != "random" and key in self._known:
            return Value(self, self._known[key])
        node = Node(operation, sources, Type(Kind.PUBLIC, ()), attributes, self.line)
        type = infer_type(node, [value.type for value in inputs])
        promised = max(type.scale, self.precision.fraction_bits) + self.precision.range_bits
        if operation in _PROMISED and type.bound > promised:
            attributes, type = {**attributes, "bound": promised}, replace(type, bound=promised)
        self.nodes.append(replace(node, type=type, attributes=attributes))
        self._known[key] = len(self.nodes) - 1
        return Value(self, self._known[key])

    def find(self, operation: str, *inputs: Value, **attributes: Attribute) -> Value | None:
        """The node that `add` would give, if it is there already."""
        key = (operation, tuple(value.index for value in inputs), tuple(sorted(attributes.items())))
        return Value(self, self._known[key]) if key in self._known else None

    def constant(self, integers: npt.ArrayLike, scale: int = 0) -> Value:
        """Public integers (any shape) with `scale` fractional bits."""
        array = np.asarray(integers, dtype=np.int64)
        bound = max(abs(int(array.min())), abs(int(array.max()))).bit_length() if array.size else 0
        return self.add("constant", data=array.astype("<i8").tobytes(), shape=array.shape, scale=scale, bound=bound)

    def finish(self, name: str = "") -> Plan:
        """The optimised plan of everything that is stored or revealed. Raises PlanError where nothing is."""
        return optimise(Plan(self.parties, tuple(self.nodes), name))


def user_line(skip: Sequence[str]) -> str:
    """file:line of the innermost caller whose module is not of a package in `skip`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not any(module == package or module.startswith(package + ".") for package in skip):
            return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
