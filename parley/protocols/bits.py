"""Bits: local exclusive or, selection of planes, and polynomials over masked bits (protocols.md, section 5).

A product of k bits costs one opening of the bits when the dealer shares the products of all subsets of their masks:
    Π (b̂_k ⊕ β_k) = ⊕_S ( Π_{k∉S} b̂_k )·( Π_{k∈S} β_k ) .
A polynomial is an exclusive or of such products; subsets that several of its products need are shared once. Cost: no
round (the opening is a node of its own); one bit of correction an element for every distinct subset of two or more
masks: 22 to fold four chunks of a comparison, 15 where only "less than" is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from parley.plan.graph import Attribute, Kind, Node, Type
from parley.protocols.base import (
    Array,
    Correlation,
    Masked,
    Party,
    Protocol,
    Types,
    Value,
    register,
    require,
    require_kind,
    shape_attribute,
)
from parley.protocols.linear import Structural
from parley.ring import kernels
from parley.ring.prg import PrivateSource

Subset = tuple[int, ...]
MAXIMAL_DEGREE = 8
MAXIMAL_SUBSETS = 1 << 14


class _LocalBits(Protocol):
    """An operation on shared bits of which the dealer knows nothing."""

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return None, ()


@register
class Xor(_LocalBits):
    """Exclusive or of two values of shared bits of the same shape and planes."""

    operation = "xor"
    arity = 2

    def infer(self, node: Node, types: Types) -> Type:
        left, right = types
        require_kind(left, Kind.BITS)
        require_kind(right, Kind.BITS)
        require((left.shape, left.planes) == (right.shape, right.planes), "bits of different shapes or planes")
        return left

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return inputs[0] ^ inputs[1]


@register
class Planes(_LocalBits):
    """Planes `indices` of shared bits, each negated where `negate` has a 1."""

    operation = "planes"

    def infer(self, node: Node, types: Types) -> Type:
        indices, negate = node.integers("indices"), node.integers("negate")
        require_kind(types[0], Kind.BITS)
        require(len(indices) == len(negate) >= 1, "one `negate` for every index")
        require(all(0 <= index < types[0].planes for index in indices), f"no such plane among {types[0].planes}")
        require(all(flag in (0, 1) for flag in negate), "`negate` is 0 or 1")
        return replace(types[0], planes=len(indices))

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        result = inputs[0][list(node.integers("indices"))]
        if party.first:
            result ^= np.array(node.integers("negate"), dtype=np.uint8)[:, np.newaxis] * np.uint8(255)
        return result


@register
class Arrange(_LocalBits):
    """Bits of the last axis laid out as planes: plane p of element (…, i) is bit (…, index[p, i]), negated where
    `negate` says so.

    `indices` and `negate` are flattened tables of shape (planes, size). The input has one plane.
    """

    operation = "arrange"

    def infer(self, node: Node, types: Types) -> Type:
        value, planes = types[0], node.integer("planes")
        indices, negate = node.integers("indices"), node.integers("negate")
        require_kind(value, Kind.BITS)
        require(value.planes == 1 and len(value.shape) >= 1, "needs one plane and at least one axis")
        require(planes >= 1 and len(indices) == len(negate) and len(indices) % planes == 0, "tables of different sizes")
        require(all(0 <= index < value.shape[-1] for index in indices), "an index leaves the last axis")
        require(all(flag in (0, 1) for flag in negate), "`negate` is 0 or 1")
        return replace(value, shape=(*value.shape[:-1], len(indices) // planes), planes=planes)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        planes = node.integer("planes")
        bits = kernels.unpack_bits(inputs[0], types[0].shape)[0]
        result = bits.take(np.array(node.integers("indices"), dtype=np.int64), axis=-1)
        if party.first:
            result ^= np.array(node.integers("negate"), dtype=np.uint8)
        result = result.reshape(*bits.shape[:-1], planes, node.type.shape[-1])
        return kernels.pack_bits(np.moveaxis(result, -2, 0))


@register
class Stack(Structural):
    """Planes as a new first axis: (planes) of shape S become one plane of shape (planes, *S)."""

    operation = "stack_planes"
    kinds: tuple[Kind, ...] = (Kind.BITS, Kind.MASKED_BITS)

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], Kind.BITS, Kind.MASKED_BITS)
        return replace(types[0], shape=(types[0].planes, *types[0].shape), planes=1)

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        return array[np.newaxis]


@dataclass(frozen=True)
class _Program:
    """A polynomial sorted by subsets of masks."""

    subsets: tuple[Subset, ...]
    """Distinct subsets of two or more masks: the correlations, in order."""
    outputs: tuple[tuple[tuple[Subset, tuple[Subset, ...]], ...], ...]
    """For every output: pairs (subset of masks, the products of public bits that multiply it, added up)."""


@lru_cache(maxsize=256)
def _program(outputs: tuple[tuple[Subset, ...], ...]) -> _Program:
    subsets: dict[Subset, None] = {}
    compiled = []
    for monomials in outputs:
        collected: dict[Subset, list[Subset]] = {}
        for monomial in monomials:
            for size in range(len(monomial) + 1):
                for subset in combinations(monomial, size):
                    rest = tuple(item for item in monomial if item not in subset)
                    collected.setdefault(subset, []).append(rest)
                    if size >= 2:
                        subsets[subset] = None
        compiled.append(tuple((subset, tuple(rests)) for subset, rests in collected.items()))
    return _Program(tuple(subsets), tuple(compiled))


def _runs(packed: Array, groups: int) -> Array:
    """Planes in `groups` equal runs, as (plane of the run, group, bytes)."""
    return packed.reshape(groups, packed.shape[0] // groups, packed.shape[1]).swapaxes(0, 1)


def _monomials(attribute: Attribute) -> tuple[tuple[Subset, ...], ...]:
    """Check the shape of the attribute: outputs → monomials → ascending plane indices."""
    if not isinstance(attribute, tuple):
        raise TypeError("outputs")
    for monomials in attribute:
        if not isinstance(monomials, tuple):
            raise TypeError("monomials")
        for monomial in monomials:
            if not isinstance(monomial, tuple) or not all(isinstance(item, int) for item in monomial):
                raise TypeError("monomial")
    return attribute  # type: ignore[return-value]


@register
class BitPolynomial(Protocol):
    """Polynomials over masked bits.

    The planes of the input are `groups` equal runs; each run gives one plane for every entry of `outputs`, an exclusive
    or of products (ascending indices within the run). The result has groups · outputs planes.
    """

    operation = "bit_polynomial"

    def _plan(self, node: Node) -> tuple[int, _Program]:
        return node.integer("groups"), _program(_monomials(node.attributes["outputs"]))

    def infer(self, node: Node, types: Types) -> Type:
        value, groups = types[0], node.integer("groups")
        require_kind(value, Kind.MASKED_BITS)
        outputs = _monomials(node.attributes["outputs"])
        require(groups >= 1 and value.planes % groups == 0, f"{value.planes} planes are not {groups} equal groups")
        run = value.planes // groups
        work = sum(1 << min(len(monomial), 64) for monomials in outputs for monomial in monomials)
        require(work <= MAXIMAL_SUBSETS, f"the products have more than {MAXIMAL_SUBSETS} subsets of factors")
        require(
            1 <= len(outputs) <= 64 and all(1 <= len(monomials) <= 64 for monomials in outputs),
            "no, or too many, terms",
        )
        for monomials in outputs:
            for monomial in monomials:
                require(1 <= len(monomial) <= MAXIMAL_DEGREE, f"products have 1 to {MAXIMAL_DEGREE} factors")
                require(list(monomial) == sorted(set(monomial)), "factors must be ascending and distinct")
                require(monomial[0] >= 0 and monomial[-1] < run, f"no such plane in a group of {run}")
        return replace(value, kind=Kind.BITS, planes=groups * len(outputs))

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        groups, program = self._plan(node)
        if not program.subsets:
            return ()
        return (Correlation("uint8", (len(program.subsets), groups, kernels.packed_bytes(types[0].elements))),)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        groups, program = self._plan(node)
        value: Masked = inputs[0]
        public, share = _runs(value.public, groups), _runs(value.share, groups)
        products: dict[Subset, Array] = {}

        def product(subset: Subset) -> Array:
            if subset not in products:
                last: Array = public[subset[-1]]
                products[subset] = last if len(subset) == 1 else product(subset[:-1]) & last
            return products[subset]

        numbers = {subset: number for number, subset in enumerate(program.subsets)}
        result = np.zeros((groups, len(program.outputs), public.shape[2]), dtype=np.uint8)
        for number, output in enumerate(program.outputs):
            total = result[:, number]
            for subset, rests in output:
                if not subset:  # purely public terms
                    if party.first:
                        for rest in rests:
                            total ^= product(rest)
                    continue
                term = share[subset[0]] if len(subset) == 1 else shares[0][numbers[subset]]
                coefficient: Any = None
                for rest in rests:
                    factor = product(rest) if rest else np.uint8(255)
                    coefficient = factor if coefficient is None else coefficient ^ factor
                total ^= term & coefficient
        return result.reshape(groups * len(program.outputs), public.shape[2])

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        groups, program = self._plan(node)
        if not program.subsets:
            return None, ()
        masks = _runs(inputs[0], groups)
        values = np.empty((len(program.subsets), groups, masks.shape[2]), dtype=np.uint8)
        done: dict[Subset, Array] = {}
        for subset in sorted(program.subsets, key=len):
            prefix = done.get(subset[:-1])
            if prefix is None:
                prefix = masks[subset[0]]
                for item in subset[1:-1]:
                    prefix = prefix & masks[item]
            done[subset] = prefix & masks[subset[-1]]
        for number, subset in enumerate(program.subsets):
            values[number] = done[subset]
        return None, (values,)


@register
class JoinPlanes(_LocalBits):
    """The planes of all inputs (shared bits of one shape), one after the other."""

    operation = "join_planes"
    arity = None

    def infer(self, node: Node, types: Types) -> Type:
        for type in types:
            require_kind(type, Kind.BITS)
            require(type.shape == types[0].shape, f"bits of shapes {types[0].shape} and {type.shape}")
        return replace(types[0], planes=sum(type.planes for type in types))

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return np.concatenate(inputs, axis=0)


@register
class ConstantBits(_LocalBits):
    """Public bits, all equal: attributes `shape` and `bit`."""

    operation = "constant_bits"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        shape = shape_attribute(node)
        require(node.integer("bit") in (0, 1), "`bit` is 0 or 1")
        return Type(Kind.BITS, shape, 0, 1)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        filled = 255 if party.first and node.integer("bit") else 0
        return np.full((1, kernels.packed_bytes(node.type.elements)), filled, dtype=np.uint8)
