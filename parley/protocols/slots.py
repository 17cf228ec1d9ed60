"""Where an execution meets the world: values kept in the vaults (`load`, `store`) and public arguments (`argument`).

The runtime supplies and takes these values; the protocols here only say their types.
"""

from __future__ import annotations

from collections.abc import Sequence

from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Party,
    Protocol,
    Types,
    Value,
    register,
    require,
    require_kind,
    shape_attribute,
)
from parley.ring.prg import PrivateSource

KEPT = (Kind.SHARED, Kind.MASKED, Kind.BITS, Kind.MASKED_BITS)


class _Slot(Protocol):
    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return inputs[0]

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return inputs[0], ()


@register
class Load(_Slot):
    """A kept value: attributes `slot`, `kind`, `shape`, `scale`, `bound`, and `planes` where it is bits."""

    operation = "load"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        node.text("slot")
        planes = node.integer("planes") if "planes" in node.attributes else 1
        result = Type(
            kind=Kind(node.integer("kind")),
            shape=shape_attribute(node),
            scale=node.integer("scale"),
            bound=node.integer("bound"),
            planes=planes,
        )
        require_kind(result, *KEPT)
        require(0 <= result.bound <= 62, f"bound 2^{result.bound} is not in the ring")
        require(planes >= 1, "a value has at least one plane")
        return result


@register
class Argument(_Slot):
    """Public integers that come with every execution: attributes `name`, `shape`, `scale`, `bound`."""

    operation = "argument"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        node.text("name")
        bound, shape = node.integer("bound"), shape_attribute(node)
        require(0 <= bound <= 62, f"bound 2^{bound} is not in the ring")
        return Type(Kind.PUBLIC, shape, node.integer("scale"), bound)


@register
class Store(_Slot):
    """Keep a secret value: attribute `slot`."""

    operation = "store"

    def infer(self, node: Node, types: Types) -> Type:
        node.text("slot")
        require_kind(types[0], *KEPT)
        require(
            types[0].width == 64 or types[0].kind in (Kind.BITS, Kind.MASKED_BITS),
            f"a value known in {types[0].width} bits only cannot be kept",
        )
        return types[0]
