"""Comparison with public thresholds, from one opening: the local first step (protocols.md, section 5).

For ⟨x⟩ of width w and a threshold τ let a = m − τ. Then msb(x − τ) = msb(a) ⊕ msb(r) ⊕ [low(a) < low(r)] with low the
w−1 low bits. For every four-bit chunk r_j of low(r) the dealer shares the one-hot word 1 << r_j by exclusive or. A
party looks its share up at the public chunk a_j:
    eq_j = bit a_j of the word,     lt_j = parity of the bits above a_j .
The result has planes eq_0 … eq_(C−1), lt_0 … lt_(C−1) (chunk 0 is the lowest), and last msb(a) ⊕ msb(r). What remains,
folding the chunks to one bit, is a polynomial over bits (`bits.py`), put together in `parley/functions/order.py`.
Cost: no round; a correction of 2 bytes a chunk (C = ⌈(w−1)/4⌉ chunks: 32 bytes at w = 64) and one bit an element, for
any number of thresholds. Source: one-time truth tables, Ishai et al. 2013.
"""

from __future__ import annotations

from collections.abc import Sequence

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
)
from parley.protocols.opening import bits_correlation
from parley.ring import kernels
from parley.ring.prg import PrivateSource

CHUNK = 4


def chunks(width: int) -> int:
    """Number of four-bit chunks below the top bit of a value of `width` bits."""
    return -(-(width - 1) // CHUNK)


@register
class Words(Protocol):
    """Attribute `thresholds` (integers at the value's scale). The result has shape (len(thresholds), *shape)."""

    operation = "words"

    def infer(self, node: Node, types: Types) -> Type:
        value, thresholds = types[0], node.integers("thresholds")
        require_kind(value, Kind.MASKED)
        require(len(thresholds) >= 1, "at least one threshold")
        require(
            value.bound <= value.width - 2,
            f"bound 2^{value.bound} needs an opening of {value.bound + 2} bits, got {value.width}",
        )
        limit = 1 << (value.width - 2)
        require(
            all(-limit <= threshold <= limit for threshold in thresholds), "a threshold is beyond the opening's range"
        )
        return Type(Kind.BITS, (len(thresholds), *value.shape), 0, 1, 64, 2 * chunks(value.width) + 1)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        value = types[0]
        return Correlation("uint16", (chunks(value.width), value.elements)), bits_correlation(1, value)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        value, thresholds = types[0], node.integers("thresholds")
        count = chunks(value.width)
        words, sign = shares
        planes = np.empty((node.type.planes, len(thresholds), value.elements), dtype=np.uint8)
        public = inputs[0].public.reshape(-1)
        sign_bits = kernels.unpack_bits(sign, (value.elements,))[0]
        for number, threshold in enumerate(thresholds):
            a = public - np.int64(threshold)
            top = kernels.top_bit(kernels.reduce(a, value.width), value.width)
            planes[2 * count, number] = sign_bits ^ top.astype(np.uint8) if party.first else sign_bits
            for chunk, nibble in enumerate(_nibbles(a, value.width - 1)):
                looked_up = words[chunk] >> nibble
                equal = looked_up & np.uint16(1)
                planes[chunk, number] = equal
                planes[count + chunk, number] = (np.bitwise_count(looked_up) & np.uint8(1)) ^ equal
        return kernels.pack_bits(planes)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        value, mask = types[0], inputs[0].reshape(-1)
        words = np.empty((chunks(value.width), value.elements), dtype=np.uint16)
        for chunk, nibble in enumerate(_nibbles(mask, value.width - 1)):
            np.left_shift(np.uint16(1), nibble, out=words[chunk])
        return None, (
            words,
            kernels.pack_bits(kernels.top_bit(kernels.reduce(mask, value.width), value.width)[np.newaxis]),
        )


def _nibbles(ring: Array, bits: int) -> list[Array]:
    """The four-bit chunks of the low `bits` bits of each element, lowest first, as uint16."""
    quarters = kernels.reduce(np.ascontiguousarray(ring), bits).view(np.uint16).reshape(-1, 4)
    result = []
    for chunk in range(-(-bits // CHUNK)):
        if chunk % 4 == 0:
            column = np.ascontiguousarray(quarters[:, chunk // 4])
        result.append((column >> np.uint16(CHUNK * (chunk % 4))) & np.uint16(15))
    return result
