"""Truncation: division by 2^bits after a product, from one opening (protocols.md, section 4).

With m = x + 2^(w−2) + r modulo 2^w (w the opening's width; the offset is public, so the opening itself has none) the
dealer shares t = r >> bits and s = msb(r); then
    x >> bits = (m >> bits) − 2^(w−2−bits) − t + 2^(w−bits)·s·(1 − msb(m)) .
Exact up to one unit in the last place for every |x| < 2^(w−2) and any number of parties: s·(1 − msb(m)) is the wrap.
The last bit rounds up with probability equal to the fraction cut off. The result is a share in the full ring, whatever
w. Cost: no round of its own; corrections of 8 bytes (t) and 2 to 8 bytes (s) an element. Source: Escudero et al. 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Correlation,
    Party,
    Protocol,
    Types,
    Value,
    register,
    require,
    require_kind,
    ring_correlation,
)
from parley.ring import kernels
from parley.ring.prg import PrivateSource


@dataclass(frozen=True, slots=True)
class Opened:
    """The public side of a truncation by `bits` of a value opened as m modulo 2^width."""

    shifted: Array
    """(m >> bits) − 2^(width−2−bits), party 0's public term."""
    no_wrap: Array
    """1 − msb(m), by which the wrap's share is multiplied."""


def public_part(public: Array, width: int, bits: int) -> Opened:
    """What everyone computes from the opening."""
    offset = kernels.reduce(public + np.int64(1 << (width - 2)), width)
    return Opened(
        shifted=kernels.shift_right(offset, bits) - np.int64(1 << (width - 2 - bits)),
        no_wrap=1 - kernels.top_bit(offset, width),
    )


def mask_parts(mask: Array, width: int, bits: int) -> tuple[Array, Array]:
    """The dealer's t and s for a mask modulo 2^width."""
    mask = kernels.reduce(mask, width)  # a mask that was added up is not yet reduced
    return kernels.shift_right(mask, bits), kernels.top_bit(mask, width)


def wrap_bits(width: int, bits: int) -> int:
    """How many low bits of a share of s matter: it is multiplied by 2^(width−bits)."""
    return 64 - (width - bits)


def truncated_type(type: Type, bits: int) -> Type:
    """The type of the result; raises PlanError where the opening is too narrow for the value's bound."""
    require_kind(type, Kind.MASKED)
    require(1 <= bits <= type.width - 3, f"cannot cut {bits} bits off a value of width {type.width}")
    require(
        type.bound <= type.width - 2,
        f"bound 2^{type.bound} needs an opening of {type.bound + 2} bits, got {type.width}",
    )
    return Type(Kind.SHARED, type.shape, type.scale - bits, max(type.bound - bits, 0) + 1)


@register
class Truncate(Protocol):
    """Attribute `bits`: how many fractional bits to cut off."""

    operation = "truncate"

    def infer(self, node: Node, types: Types) -> Type:
        return truncated_type(types[0], node.integer("bits"))

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        shape = types[0].shape
        return ring_correlation(shape), ring_correlation(shape, wrap_bits(types[0].width, node.integer("bits")))

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        width, bits = types[0].width, node.integer("bits")
        opened = public_part(inputs[0].public, width, bits)
        result = (shares[1].astype(np.int64) << np.int64(width - bits)) * opened.no_wrap
        result -= shares[0]
        if party.first:
            result += opened.shifted
        return result

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return None, mask_parts(inputs[0], types[0].width, node.integer("bits"))
