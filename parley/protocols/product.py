"""Bilinear products of masked values (protocols.md, section 3): elementwise and matrix products.

For B bilinear the dealer shares C = B(λ_x, λ_y); party i computes without communication
    z_i = [i=0]·B(m_x, m_y) − B(m_x, λ_y,i) − B(λ_x,i, m_y) + C_i .
This is Beaver's protocol (1991) with one mask for a value in all of its products (ABY2.0). Scales add up.
Cost: no round (the operands' openings are nodes of their own); a correction of 8 bytes an element of the result.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

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
    require_kind,
    ring_correlation,
)
from parley.protocols.linear import growth, matmul_shape
from parley.ring import kernels
from parley.ring.prg import PrivateSource


class Bilinear(Protocol):
    """Any bilinear map of two masked values."""

    arity = 2

    @abstractmethod
    def shape(self, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result."""

    @abstractmethod
    def terms(self, left: tuple[int, ...], right: tuple[int, ...]) -> int:
        """Number of products that one element of the result adds up."""

    @abstractmethod
    def multiply(self, left: Array, right: Array) -> Array:
        """The map on ring elements."""

    def infer(self, node: Node, types: Types) -> Type:
        left, right = types
        require_kind(left, Kind.MASKED)
        require_kind(right, Kind.MASKED)
        return Type(
            kind=Kind.SHARED,
            shape=self.shape(left.shape, right.shape),
            scale=left.scale + right.scale,
            bound=left.bound + right.bound + growth(self.terms(left.shape, right.shape)),
            width=min(left.width, right.width),
        )

    def correlations(self, node: Node, types: Types) -> tuple[Correlation, ...]:
        return (ring_correlation(node.type.shape),)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        x, y = inputs
        y_part = y.public - y.share if party.first else -y.share  # folds the first two terms
        result = self.multiply(x.public, y_part)
        result -= self.multiply(x.share, y.public)
        result += shares[0]
        return result

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return None, (self.multiply(inputs[0], inputs[1]),)


@register
class Multiply(Bilinear):
    """Elementwise product with broadcasting."""

    operation = "multiply"

    def shape(self, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
        return broadcast_shape(left, right)

    def terms(self, left: tuple[int, ...], right: tuple[int, ...]) -> int:
        return 1

    def multiply(self, left: Array, right: Array) -> Array:
        result: Array = left * right
        return result


@register
class Matmul(Bilinear):
    """Matrix product with broadcasting of leading dimensions."""

    operation = "matmul"

    def shape(self, left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
        return matmul_shape(left, right)

    def terms(self, left: tuple[int, ...], right: tuple[int, ...]) -> int:
        return left[-1]

    def multiply(self, left: Array, right: Array) -> Array:
        return kernels.matmul(left, right)
