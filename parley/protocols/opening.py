"""Opening under a mask, the only communication there is (protocols.md, section 1).

open: [x] → ⟨x⟩.  The dealer knows λ, the sum of the parties' random λ_i; each party sends x_i + λ_i to all others; all
add up to m = x + λ, modulo 2^width.  open_bits: the same on bits with exclusive or.
Cost: one round; ring_bytes(elements, width) to each peer (8 bytes an element at width 64), one packed bit a bit; no
correction. Privacy: the mask is uniform modulo 2^width, fresh for the node and the execution, and used for this value
only (Beaver 1991; masks shared by all products of a value: Patra et al. 2021, ABY2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Correlation,
    Exchange,
    Masked,
    Party,
    Types,
    Value,
    register,
    require,
    require_kind,
    ring_correlation,
)
from parley.ring import kernels
from parley.ring.prg import PrivateSource


@register
class Open(Exchange):
    """Attribute `width` (bits): the value is opened modulo 2^width, and known in that ring afterwards."""

    operation = "open"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], Kind.SHARED)
        width = node.integer("width")
        require(1 <= width <= types[0].width, f"width {width} is not in 1 … {types[0].width}")
        return replace(types[0], kind=Kind.MASKED, width=width)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (ring_correlation(types[0].shape, corrected=False),)

    def size(self, node: Node, types: Types, sender: int, parties: tuple[str, ...]) -> int:
        return kernels.ring_bytes(types[0].elements, node.type.width)

    def message(
        self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]
    ) -> tuple[bytes | memoryview, Any]:
        own = inputs[0] + shares[0]
        return kernels.pack_ring(own, node.type.width), (own, shares[0])

    def finish(
        self, party: Party, node: Node, own: Any, received: Sequence[memoryview | None], types: Types
    ) -> tuple[Value, Array | None]:
        total, share = own
        for number, data in enumerate(data for data in received if data is not None):
            part = kernels.unpack_ring(data, node.type.shape, node.type.width)
            if number:
                total += part
            else:
                total = total + part  # not in place: a channel may still hold what was sent
        public = kernels.reduce(total, node.type.width)
        return Masked(public, share), public

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return kernels.reduce(drawn[0], node.type.width), ()


@register
class OpenBits(Exchange):
    operation = "open_bits"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], Kind.BITS)
        return replace(types[0], kind=Kind.MASKED_BITS)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (bits_correlation(types[0].planes, types[0], corrected=False),)

    def size(self, node: Node, types: Types, sender: int, parties: tuple[str, ...]) -> int:
        return types[0].planes * kernels.packed_bytes(types[0].elements)

    def message(
        self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]
    ) -> tuple[bytes | memoryview, Any]:
        own = inputs[0] ^ shares[0]
        return own.tobytes(), (own, shares[0])

    def finish(
        self, party: Party, node: Node, own: Any, received: Sequence[memoryview | None], types: Types
    ) -> tuple[Value, Array | None]:
        public, share = own
        for data in received:
            if data is not None:
                public ^= np.frombuffer(data, dtype=np.uint8).reshape(public.shape)
        return Masked(public, share), public

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return drawn[0], ()


def bits_correlation(planes: int, type: Type, corrected: bool = True) -> Correlation:
    """Shared packed bits: `planes` of them for every element of `type`."""
    return Correlation("uint8", (planes, kernels.packed_bytes(type.elements)), corrected)
