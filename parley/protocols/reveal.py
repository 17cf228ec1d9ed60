"""Putting in and taking out (protocols.md, section 8).

input: party P_j draws the whole mask λ from the key it has in common with the dealer, and broadcasts m = x + λ. Its own
share of λ is λ, the others' are zero: a coalition with P_j knows x anyway, one without sees a uniform m. One round, 8
bytes an element from P_j to each peer, nothing from the dealer, and the value is already masked.
reveal: each party adds its part of a fresh sharing of zero to its share; who receives the sums is the runtime's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parley.errors import InputError
from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Correlation,
    Exchange,
    Masked,
    Party,
    Protocol,
    Types,
    Value,
    register,
    require,
    require_kind,
    ring_correlation,
    shape_attribute,
)
from parley.ring import fixed, kernels
from parley.ring.prg import PrivateSource


@register
class Input(Exchange):
    """Attributes: `party` (index), `dataset` (its name at that party), `shape`, `scale`, `bound` (bits)."""

    operation = "input"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        shape, bound = shape_attribute(node), node.integer("bound")
        node.text("dataset")
        require(node.integer("party") >= 0, "a party is an index")
        require(0 <= bound <= 62, f"bound 2^{bound} is not in the ring")
        return Type(Kind.MASKED, shape, node.integer("scale"), bound)

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (Correlation("int64", node.type.shape, corrected=False, owner=node.integer("party")),)

    def size(self, node: Node, types: Types, sender: int, parties: tuple[str, ...]) -> int:
        return 8 * node.type.elements if sender == node.integer("party") else 0

    def message(
        self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]
    ) -> tuple[bytes | memoryview, Any]:
        if party.index != node.integer("party"):
            return b"", None
        name = node.text("dataset")
        values = party.data(name)
        if values.shape != node.type.shape:
            raise InputError(
                f"dataset {name} at {party.name} has shape {values.shape}, the plan says {node.type.shape}; "
                "record the job again"
            )
        try:
            public = fixed.encode(values, node.type.scale, node.type.bound) + shares[0]
        except InputError as error:
            raise InputError(f"dataset {name} at {party.name}: {error}") from None
        return kernels.pack_ring(public, 64), (public, shares[0])

    def finish(
        self, party: Party, node: Node, own: Any, received: Sequence[memoryview | None], types: Types
    ) -> tuple[Value, Array | None]:
        if own is not None:
            return Masked(*own), own[0]
        data = received[node.integer("party")]
        assert data is not None
        public = kernels.unpack_ring(data, node.type.shape, 64)
        return Masked(public, np.broadcast_to(np.int64(0), public.shape)), public

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return drawn[0], ()


@register
class Reveal(Protocol):
    """Attributes: `name` of the result, `receivers` (names of parties, or "submitter")."""

    operation = "reveal"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], Kind.SHARED)
        node.text("name")
        require(len(node.texts("receivers")) >= 1, "a reveal needs a receiver")
        require(types[0].width == 64, f"a value known in {types[0].width} bits only cannot be revealed")
        return replace(types[0])

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (ring_correlation(types[0].shape),)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return inputs[0] + shares[0]

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return None, (np.zeros(types[0].shape, dtype=np.int64),)
