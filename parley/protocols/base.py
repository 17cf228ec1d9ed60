"""What a protocol is, and the register of all protocols.

A protocol implements one operation of a plan. It says which types it takes and gives (`infer`), which correlated
randomness it consumes (`correlations`), what the dealer computes on masks (`dealer`) and what a party computes on
shares (`party`). A protocol that communicates is an `Exchange`: it says what each party sends to all others and what
comes of it.

Sharing out the correlated randomness is done here, once for all protocols (protocols.md, section 2): every share that
may be random is expanded from the key that a party has in common with the dealer; where the shares must add up to
something, one party receives a correction instead.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from parley.errors import PlanError
from parley.plan.graph import Kind, Node, Type
from parley.ring.prg import PrivateSource

MAXIMAL_AXES = 16

Array = npt.NDArray[Any]
Types = Sequence[Type]


@dataclass(frozen=True, slots=True)
class Masked:
    """A party's view of a masked value: the public part and its share of the mask (ring elements, or packed bits)."""

    public: Array
    share: Array


Value = Any
"""At a party: Array (public, shared, bits) or Masked. At the dealer: Array (public), the mask (masked kinds) or None
(shared, bits)."""


@dataclass(frozen=True)
class Correlation:
    """One array of correlated randomness: its element type, shape, and whether its shares must add up to what the
    dealer says.

    Signed element types are shared additively, unsigned ones by exclusive or. `corrected=False`: all shares are random,
    and the dealer learns their sum.
    """

    dtype: str
    shape: tuple[int, ...]
    corrected: bool = True
    owner: int | None = None
    """Where set (uncorrected only): the one party that expands it; the others' shares are zero, and they hold None."""

    @cached_property
    def bytes(self) -> int:
        return int(math.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def read(self, data: memoryview) -> Array:
        return np.frombuffer(data, dtype=self.dtype).reshape(self.shape)

    def combine(self, shares: Sequence[Array]) -> Array:
        """The value that `shares` stand for."""
        total = np.array(shares[0])
        for share in shares[1:]:
            if total.dtype.kind == "u":
                total ^= share
            else:
                total += share
        return total

    def correction(self, value: Array, others: Sequence[Array]) -> Array:
        """The share that makes `others` add up to `value`."""
        result = np.array(value.astype(self.dtype, copy=False).reshape(self.shape))
        for share in others:
            if result.dtype.kind == "u":
                result ^= share
            else:
                result -= share
        return result


def ring_correlation(shape: tuple[int, ...], bits: int = 64, corrected: bool = True) -> Correlation:
    """Additive shares of ring elements of which only the low `bits` bits matter."""
    return Correlation("int16" if bits <= 16 else "int32" if bits <= 32 else "int64", shape, corrected)


@dataclass(frozen=True, slots=True)
class Party:
    """Who is computing: the party's index among `names`, the parties of the session."""

    index: int
    names: tuple[str, ...]
    data: Callable[[str], Array]
    """This party's own datasets by name: real or integer arrays. Raises NotFound."""

    @property
    def first(self) -> bool:
        """Public terms are added by one party only: this one."""
        return self.index == 0

    @property
    def name(self) -> str:
        return self.names[self.index]


class Protocol(ABC):
    """One operation of a plan (see the module's text)."""

    operation: str
    arity: int | None = 1
    """Number of inputs; None: at least one."""

    @abstractmethod
    def infer(self, node: Node, types: Types) -> Type:
        """The type of the result. Raises PlanError, TypeError or KeyError where inputs or attributes do not fit; does
        not read `node.type`."""

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        """The correlated randomness that one execution of the node consumes."""
        return ()

    @abstractmethod
    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        """A party's result from its values of the inputs and its shares of the correlations."""

    @abstractmethod
    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        """The dealer's view of the result, and the values of the corrected correlations, in order.

        `drawn` are the values of the uncorrected correlations, in order.
        """


class Exchange(Protocol):
    """A protocol with one message from each party to all others."""

    @abstractmethod
    def size(self, node: Node, types: Types, sender: int, parties: tuple[str, ...]) -> int:
        """Bytes that party `sender` sends to each other party."""

    @abstractmethod
    def message(
        self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]
    ) -> tuple[bytes | memoryview, Any]:
        """The bytes to send (size() of them), and what `finish` needs of one's own."""

    @abstractmethod
    def finish(
        self, party: Party, node: Node, own: Any, received: Sequence[memoryview | None], types: Types
    ) -> tuple[Value, Array | None]:
        """The result, from one's own part and each party's message (None at one's own index), and what became public by
        it."""

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        raise NotImplementedError(f"{self.operation} communicates")


def fail(message: str) -> PlanError:
    """The error that `infer` raises; the checker adds where."""
    return PlanError(message)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise PlanError(message)


def require_kind(type: Type, *kinds: Kind) -> None:
    if type.kind not in kinds:
        raise PlanError(f"needs {' or '.join(kind.name.lower() for kind in kinds)}, got {type.kind.name.lower()}")


def shape_attribute(node: Node, name: str = "shape") -> tuple[int, ...]:
    """The attribute as a shape of sane rank, before anything multiplies its sizes."""
    shape = node.integers(name)
    require(len(shape) <= MAXIMAL_AXES, f"{len(shape)} axes are over the limit of {MAXIMAL_AXES}")
    require(all(0 <= size < 1 << 48 for size in shape), f"shape {shape} is not possible")
    return shape


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise PlanError(f"shapes {', '.join(map(str, shapes))} do not fit each other") from error


PROTOCOLS: dict[str, Protocol] = {}
"""The register: operation → protocol. Filled once, when the modules of this package are imported; read-only
afterwards."""


def register(cls: type[Protocol]) -> type[Protocol]:
    """Class decorator: enter the protocol under its operation's name."""
    if cls.operation in PROTOCOLS:
        raise ValueError(f"operation {cls.operation} is registered twice")
    PROTOCOLS[cls.operation] = cls()
    return cls


def infer_type(node: Node, types: Types) -> Type:
    """The type of `node` given its inputs' types, whatever `node.type` says.

    The attribute `bound` on any node declares a tighter bound than can be proven (the range that the plan's precision
    promises for real values).
    """
    protocol = PROTOCOLS.get(node.operation)
    if protocol is None:
        raise PlanError(f"unknown operation {node.operation!r}")
    if (protocol.arity is not None and len(types) != protocol.arity) or (protocol.arity is None and not types):
        raise PlanError(f"{node.operation} takes {protocol.arity or 'at least one'} inputs, got {len(types)}")
    try:
        result = protocol.infer(node, types)
        if "bound" in node.attributes and result.bound > node.integer("bound") >= 0:
            result = replace(result, bound=node.integer("bound"))
    except (TypeError, LookupError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise PlanError(f"{node.operation}: attribute missing or of the wrong kind ({cause})") from error
    require(len(result.shape) <= MAXIMAL_AXES, f"{len(result.shape)} axes are over the limit of {MAXIMAL_AXES}")
    require(all(size >= 0 for size in result.shape), f"shape {result.shape} has a negative size")
    return result
