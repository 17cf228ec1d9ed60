"""Where an execution meets the world: values kept in the vaults (`load`, `store`) and public arguments (`argument`).

The runtime supplies and takes these values; the protocols here only say their types.
"""

from __future__ import annotations

from collections.abc import Sequence

from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import Array, Party, Protocol, Types, Value, register, require, require_kind
from parley.ring.prg import PrivateSource


class _Slot(Protocol):
    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return inputs[0]

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return inputs[0], ()


@register
class Load(_Slot):
    """A kept value: attributes `slot`, `kind`, `shape`, `scale`, `bound`."""

    operation = "load"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        node.text("slot")
        result = Type(Kind(node.integer("kind")), node.integers("shape"), node.integer("scale"), node.integer("bound"))
        require_kind(result, Kind.SHARED, Kind.MASKED)
        require(all(size >= 0 for size in result.shape) and 0 <= result.bound <= 62, "shape or bound is not usable")
        return result


@register
class Argument(_Slot):
    """Public integers that come with every execution: attributes `name`, `shape`, `scale`, `bound`."""

    operation = "argument"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        node.text("name")
        bound, shape = node.integer("bound"), node.integers("shape")
        require(all(size >= 0 for size in shape) and 0 <= bound <= 62, "shape or bound is not usable")
        return Type(Kind.PUBLIC, shape, node.integer("scale"), bound)


@register
class Store(_Slot):
    """Keep a shared or masked value: attribute `slot`."""

    operation = "store"

    def infer(self, node: Node, types: Types) -> Type:
        node.text("slot")
        require_kind(types[0], Kind.SHARED, Kind.MASKED)
        require(types[0].width == 64, f"a value known in {types[0].width} bits only cannot be kept")
        return types[0]
