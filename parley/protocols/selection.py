"""From bits to the ring: conversion, and selection with truncation in one step (protocols.md, section 6).

bit_to_ring: with b̂ = b ⊕ β public and β shared over the ring, b = b̂ + (1 − 2b̂)·β.
select: b·(x >> bits) for ⟨x⟩ by sharing β·t and β·s besides the t and s of a truncation:
    b̂·(x>>bits) + (1−2b̂)·[ ((m>>bits) − 2^(w−2−bits))·β − βt + 2^(w−bits)·(1−msb(m))·βs ],
and with bits = 0, b·x = b̂·x + (1−2b̂)·(m·β − βλ).
Cost: no round of their own; corrections of 8 (bit_to_ring), 16 (select) or 24 to 40 (select with truncation) bytes an
element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Correlation,
    Party,
    Protocol,
    Types,
    Value,
    broadcast_shape,
    register,
    require,
    require_kind,
    ring_correlation,
)
from parley.protocols.truncation import mask_parts, public_part, truncated_type, wrap_bits
from parley.ring import kernels
from parley.ring.prg import PrivateSource


def _ring_bits(packed: Array, type: Type) -> Array:
    bits: Array = kernels.unpack_bits(packed, type.shape)[0]
    return bits.astype(np.int64)


def _require_one_plane(type: Type) -> None:
    require_kind(type, Kind.MASKED_BITS)
    require(type.planes == 1, f"needs one plane of bits, got {type.planes}")


@register
class BitToRing(Protocol):
    """⟨b⟩₂ → [b] with scale 0."""

    operation = "bit_to_ring"

    def infer(self, node: Node, types: Types) -> Type:
        _require_one_plane(types[0])
        return Type(Kind.SHARED, types[0].shape, 0, 1)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (ring_correlation(types[0].shape),)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        public = _ring_bits(inputs[0].public, types[0])
        result = (1 - 2 * public) * shares[0]
        if party.first:
            result += public
        return result

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return None, (_ring_bits(inputs[0], types[0]),)


@register
class Select(Protocol):
    """⟨b⟩₂, ⟨x⟩ → [b·(x >> bits)] with broadcasting; attribute `bits` may be 0."""

    operation = "select"
    arity = 2

    def infer(self, node: Node, types: Types) -> Type:
        bit, value = types
        _require_one_plane(bit)
        shape = broadcast_shape(bit.shape, value.shape)
        bits = node.integer("bits")
        if bits:
            return replace(truncated_type(value, bits), shape=shape)
        require_kind(value, Kind.MASKED)
        return replace(value, kind=Kind.SHARED, shape=shape)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        bit, value = types
        bits, shape = node.integer("bits"), node.type.shape
        if not bits:
            return ring_correlation(bit.shape), ring_correlation(shape)
        low = wrap_bits(value.width, bits)
        return (
            ring_correlation(bit.shape),
            ring_correlation(value.shape),
            ring_correlation(value.shape, low),
            ring_correlation(shape),
            ring_correlation(shape, low),
        )

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        bits, width = node.integer("bits"), types[1].width
        public_bit = _ring_bits(inputs[0].public, types[0])
        sign = 1 - 2 * public_bit
        value = inputs[1]
        if not bits:
            beta, beta_mask = shares
            plain = value.public - value.share if party.first else -value.share
            return public_bit * plain + sign * (value.public * beta - beta_mask)
        beta, t, s, beta_t, beta_s = shares
        opened = public_part(value.public, width, bits)
        shift = np.int64(width - bits)
        plain = (s.astype(np.int64) << shift) * opened.no_wrap - t
        if party.first:
            plain += opened.shifted
        masked = opened.shifted * beta - beta_t + (beta_s.astype(np.int64) << shift) * opened.no_wrap
        return public_bit * plain + sign * masked

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        bits, width = node.integer("bits"), types[1].width
        beta = _ring_bits(inputs[0], types[0])
        if not bits:
            return None, (beta, beta * inputs[1])
        t, s = mask_parts(inputs[1], width, bits)
        return None, (beta, t, s, beta * t, beta * s)
