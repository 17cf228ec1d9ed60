"""Linear and structural operations: local at every role, no communication, no correlated randomness.

They act alike on every component of a value: on a share, on the public part and the share of a masked value, on the
mask at the dealer (protocols.md, section 1). Only adding a public constant differs: one party adds it to its share.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parley.errors import ProtocolError
from parley.plan.graph import Kind, Node, Type
from parley.protocols.base import (
    Array,
    Masked,
    Party,
    Protocol,
    Types,
    Value,
    broadcast_shape,
    register,
    require,
    require_kind,
    shape_attribute,
)
from parley.ring import kernels
from parley.ring.prg import PrivateSource

RING_KINDS = (Kind.PUBLIC, Kind.SHARED, Kind.MASKED)
BIT_KINDS = (Kind.BITS, Kind.MASKED_BITS)


def growth(terms: int) -> int:
    """Bits by which a sum of `terms` values can exceed its terms."""
    return max(terms - 1, 0).bit_length()


class Componentwise(Protocol):
    """A linear map applied to every component of its first input; further inputs are public."""

    kinds: tuple[Kind, ...] = RING_KINDS

    @abstractmethod
    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        """The map itself, on ring elements (or on unpacked bits with a leading axis of planes; then `node` is
        adapted)."""

    def _on(self, node: Node, types: Types, component: Array, public: Sequence[Array]) -> Array:
        return self.apply(node, types, component, public)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        value, public = inputs[0], inputs[1:]
        if isinstance(value, Masked):
            return Masked(self._on(node, types, value.public, public), self._on(node, types, value.share, public))
        return self._on(node, types, value, public)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return (None if inputs[0] is None else self._on(node, types, inputs[0], inputs[1:])), ()


class Structural(Componentwise):
    """A Componentwise operation that only moves elements, so that it works on bits too. `apply` gets arrays with a
    leading axis (the planes of bits; one plane for ring elements) and must leave it alone."""

    kinds: tuple[Kind, ...] = (*RING_KINDS, *BIT_KINDS)

    def _on(self, node: Node, types: Types, component: Array, public: Sequence[Array]) -> Array:
        if types[0].kind in BIT_KINDS:
            planes = kernels.unpack_bits(component, types[0].shape)
            return kernels.pack_bits(self.apply(node, types, planes, public))
        result: Array = self.apply(node, types, component[np.newaxis], public)[0]
        return result


class Binary(Protocol):
    """Addition and subtraction with broadcasting."""

    arity = 2
    sign: int

    def infer(self, node: Node, types: Types) -> Type:
        left, right = types
        require_kind(left, *RING_KINDS)
        require_kind(right, *RING_KINDS)
        require(left.scale == right.scale, f"scales {left.scale} and {right.scale} differ")
        kinds = {left.kind, right.kind}
        require(kinds != {Kind.SHARED, Kind.MASKED}, "a masked and a shared value do not add; convert one")
        return Type(
            kind=max(kinds),
            shape=broadcast_shape(left.shape, right.shape),
            scale=left.scale,
            bound=max(left.bound, right.bound) + 1,
            width=min(left.width, right.width),
        )

    def _combine(self, left: Array, right: Array) -> Array:
        result: Array = left + right if self.sign > 0 else left - right
        return result

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        left, right = inputs
        kinds = (types[0].kind, types[1].kind)
        if kinds[0] == kinds[1]:
            if isinstance(left, Masked):
                return Masked(self._combine(left.public, right.public), self._combine(left.share, right.share))
            return self._combine(left, right)
        if kinds[1] == Kind.PUBLIC:
            zero = _zero_like(right)
            if isinstance(left, Masked):
                return Masked(self._combine(left.public, right), self._combine(left.share, zero))
            return self._combine(left, right if party.first else zero)
        zero = _zero_like(left)
        if isinstance(right, Masked):
            return Masked(self._combine(left, right.public), self._combine(zero, right.share))
        return self._combine(left if party.first else zero, right)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        left, right = inputs
        if node.type.kind == Kind.SHARED:
            return None, ()
        if types[0].kind != types[1].kind:  # the mask is the masked side's
            left = _zero_like(left) if types[0].kind == Kind.PUBLIC else left
            right = _zero_like(right) if types[1].kind == Kind.PUBLIC else right
        return self._combine(left, right), ()


def _zero_like(array: Array) -> Array:
    """Zeros of the same shape that take no memory (broadcasting still sees the shape)."""
    return np.broadcast_to(np.int64(0), array.shape)


@register
class Add(Binary):
    operation = "add"
    sign = 1


@register
class Subtract(Binary):
    operation = "subtract"
    sign = -1


@register
class MultiplyPublic(Protocol):
    """Product with public ring elements (attribute-free; the factor is the second input), elementwise with
    broadcasting."""

    operation = "multiply_public"
    arity = 2

    def infer(self, node: Node, types: Types) -> Type:
        value, factor = types
        require_kind(value, *RING_KINDS)
        require_kind(factor, Kind.PUBLIC)
        return Type(
            kind=value.kind,
            shape=broadcast_shape(value.shape, factor.shape),
            scale=value.scale + factor.scale,
            bound=value.bound + factor.bound,
            width=value.width,
        )

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        value, factor = inputs
        if isinstance(value, Masked):
            return Masked(value.public * factor, value.share * factor)
        return value * factor

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return (None if inputs[0] is None else inputs[0] * inputs[1]), ()


@register
class MatmulPublic(Componentwise):
    """Matrix product of a secret left with a public right operand (transpose for the other order)."""

    operation = "matmul_public"
    arity = 2

    def infer(self, node: Node, types: Types) -> Type:
        value, factor = types
        require_kind(value, *RING_KINDS)
        require_kind(factor, Kind.PUBLIC)
        return replace(
            value,
            shape=matmul_shape(value.shape, factor.shape),
            scale=value.scale + factor.scale,
            bound=value.bound + factor.bound + growth(value.shape[-1]),
        )

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        return kernels.matmul(array, public[0])


def matmul_shape(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    require(len(left) >= 2 and len(right) >= 2, f"matrix product needs matrices, got {left} and {right}")
    require(left[-1] == right[-2], f"matrix product of {left} and {right}: inner sizes differ")
    return (*broadcast_shape(left[:-2], right[:-2]), left[-2], right[-1])


@register
class Negate(Componentwise):
    operation = "negate"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], *RING_KINDS)
        return types[0]

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        result: Array = -array
        return result


@register
class Rescale(Componentwise):
    """Change of the scale alone: `bits` more fractional bits, the same integers (division by a power of two)."""

    operation = "rescale"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], *RING_KINDS)
        return replace(types[0], scale=types[0].scale + node.integer("bits"))

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        return array


@register
class Sum(Componentwise):
    """Sum over `axes` (non-negative, ascending), which disappear."""

    operation = "sum"

    def infer(self, node: Node, types: Types) -> Type:
        axes = node.integers("axes")
        shape = types[0].shape
        require_kind(types[0], *RING_KINDS)
        require(list(axes) == sorted(set(axes)), "axes must be ascending and distinct")
        require(all(0 <= axis < len(shape) for axis in axes), f"axes {axes} do not exist in shape {shape}")
        terms = math.prod(shape[axis] for axis in axes)
        kept = tuple(size for axis, size in enumerate(shape) if axis not in axes)
        return replace(types[0], shape=kept, bound=types[0].bound + growth(terms))

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        return np.asarray(array.sum(axis=node.integers("axes"), dtype=np.int64))


@register
class Reshape(Structural):
    operation = "reshape"

    def infer(self, node: Node, types: Types) -> Type:
        shape = shape_attribute(node)
        result = replace(types[0], shape=shape)
        require(result.elements == types[0].elements, f"{types[0].shape} has another number of elements than {shape}")
        return result

    def _on(self, node: Node, types: Types, component: Array, public: Sequence[Array]) -> Array:
        return component if types[0].kind in BIT_KINDS else component.reshape(node.integers("shape"))

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        raise NotImplementedError


@register
class Transpose(Structural):
    """Permutation of the axes: axis k of the result is axis axes[k] of the input."""

    operation = "transpose"

    def infer(self, node: Node, types: Types) -> Type:
        axes = node.integers("axes")
        require(sorted(axes) == list(range(len(types[0].shape))), f"axes {axes} do not permute shape {types[0].shape}")
        return replace(types[0], shape=tuple(types[0].shape[axis] for axis in axes))

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        return array.transpose(0, *(axis + 1 for axis in node.integers("axes")))


@register
class Expand(Structural):
    """Broadcast to `shape`."""

    operation = "expand"

    def infer(self, node: Node, types: Types) -> Type:
        shape = shape_attribute(node)
        require(broadcast_shape(types[0].shape, shape) == shape, f"{types[0].shape} does not broadcast to {shape}")
        return replace(types[0], shape=shape)

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        shape = node.integers("shape")
        lead = array.reshape(array.shape[0], *(1,) * (len(shape) + 1 - array.ndim), *array.shape[1:])
        return np.broadcast_to(lead, (array.shape[0], *shape))


@register
class Slice(Structural):
    """Basic slicing: for each axis start, size and step (step may be negative, then start is the highest index)."""

    operation = "slice"

    def infer(self, node: Node, types: Types) -> Type:
        shape = types[0].shape
        starts, sizes, steps = (node.integers(name) for name in ("starts", "sizes", "steps"))
        require(len(starts) == len(sizes) == len(steps) == len(shape), "one start, size and step for every axis")
        for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
            require(step != 0 and size >= 0, f"axis {axis}: step {step}, size {size}")
            last = start + (size - 1) * step
            inside = size == 0 or (0 <= start < shape[axis] and 0 <= last < shape[axis])
            require(inside, f"axis {axis}: slice leaves the {shape[axis]} elements")
        return replace(types[0], shape=sizes)

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        index: list[slice] = [slice(None)]
        starts, sizes, steps = (node.integers(name) for name in ("starts", "sizes", "steps"))
        for start, size, step in zip(starts, sizes, steps, strict=True):
            stop = start + size * step
            index.append(slice(start, None if stop < 0 else stop, step) if size else slice(0, 0))
        return array[tuple(index)]


@register
class Pad(Structural):
    """Zeros before and after each axis."""

    operation = "pad"

    def infer(self, node: Node, types: Types) -> Type:
        before, after = node.integers("before"), node.integers("after")
        require(len(before) == len(after) == len(types[0].shape), "one pair of paddings for every axis")
        require(all(size >= 0 for size in (*before, *after)), "paddings must not be negative")
        shape = tuple(b + size + a for b, size, a in zip(before, types[0].shape, after, strict=True))
        return replace(types[0], shape=shape)

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        pairs = zip(node.integers("before"), node.integers("after"), strict=True)
        return np.pad(array, ((0, 0), *pairs))


@register
class Gather(Structural):
    """Rows of axis `axis` by public indices (second input, one axis): shape[axis] becomes the number of indices."""

    operation = "gather"
    arity = 2

    def infer(self, node: Node, types: Types) -> Type:
        axis, (value, index) = node.integer("axis"), types
        require_kind(index, Kind.PUBLIC)
        require(len(index.shape) == 1 and index.scale == 0, "indices must be a list of integers")
        require(0 <= axis < len(value.shape), f"axis {axis} does not exist in shape {value.shape}")
        return replace(value, shape=(*value.shape[:axis], index.shape[0], *value.shape[axis + 1 :]))

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        axis = node.integer("axis") + 1
        check_indices(public[0], array.shape[axis])
        return array.take(public[0], axis=axis)


@register
class ScatterAdd(Componentwise):
    """The transpose of gather: row k of the input is added to row index[k] of `size` rows on axis `axis`."""

    operation = "scatter_add"
    arity = 2

    def infer(self, node: Node, types: Types) -> Type:
        axis, size, (value, index) = node.integer("axis"), node.integer("size"), types
        require_kind(value, *RING_KINDS)
        require_kind(index, Kind.PUBLIC)
        require(0 <= axis < len(value.shape) and size >= 0, f"axis {axis} of size {size} does not fit {value.shape}")
        require(index.shape == (value.shape[axis],) and index.scale == 0, "one integer index for every row")
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        return replace(value, shape=shape, bound=value.bound + growth(value.shape[axis]))

    def apply(self, node: Node, types: Types, array: Array, public: Sequence[Array]) -> Array:
        axis = node.integer("axis")
        check_indices(public[0], node.integer("size"))
        result = np.zeros(node.type.shape, dtype=np.int64)
        rows = np.moveaxis(result, axis, 0)
        np.add.at(rows, public[0], np.moveaxis(array, axis, 0))
        return result


def check_indices(index: Array, size: int) -> None:
    if index.size and (int(index.min()) < 0 or int(index.max()) >= size):
        raise ProtocolError(f"an index is outside of 0 … {size - 1}")


@register
class Concatenate(Protocol):
    """Concatenation of values of one kind and scale along `axis`."""

    operation = "concatenate"
    arity = None

    def infer(self, node: Node, types: Types) -> Type:
        axis, first = node.integer("axis"), types[0]
        require(0 <= axis < len(first.shape), f"axis {axis} does not exist in shape {first.shape}")
        for other in types[1:]:
            alike = (other.kind, other.scale, other.planes) == (first.kind, first.scale, first.planes)
            require(alike, "values of different kind, scale or planes do not concatenate")
            rest = [size for k, size in enumerate(other.shape) if k != axis]
            require(
                len(other.shape) == len(first.shape) and rest == [s for k, s in enumerate(first.shape) if k != axis],
                f"shapes {first.shape} and {other.shape} do not concatenate along axis {axis}",
            )
        size = sum(type.shape[axis] for type in types)
        return replace(
            first,
            shape=(*first.shape[:axis], size, *first.shape[axis + 1 :]),
            bound=max(type.bound for type in types),
            width=min(type.width for type in types),
        )

    def _join(self, node: Node, types: Types, parts: Sequence[Array]) -> Array:
        axis = node.integer("axis")
        if types[0].kind in BIT_KINDS:
            planes = [kernels.unpack_bits(part, type.shape) for part, type in zip(parts, types, strict=True)]
            return kernels.pack_bits(np.concatenate(planes, axis=axis + 1))
        return np.concatenate(parts, axis=axis)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        if isinstance(inputs[0], Masked):
            return Masked(
                self._join(node, types, [value.public for value in inputs]),
                self._join(node, types, [value.share for value in inputs]),
            )
        return self._join(node, types, inputs)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return (None if inputs[0] is None else self._join(node, types, inputs)), ()


@register
class Share(Protocol):
    """Masked → Shared, free: x_0 = m − λ_0, x_i = −λ_i. Public → Shared: x_0 = x, x_i = 0."""

    operation = "share"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], Kind.MASKED, Kind.PUBLIC)
        return replace(types[0], kind=Kind.SHARED)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        value = inputs[0]
        if isinstance(value, Masked):
            return value.public - value.share if party.first else -value.share
        return value if party.first else _zero_like(value)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return None, ()


@register
class Constant(Protocol):
    """Public integers written in the plan: attribute `data` (little-endian int64) and `shape`, `scale`, `bound`."""

    operation = "constant"
    arity = 0

    def infer(self, node: Node, types: Types) -> Type:
        data, shape = node.attributes["data"], shape_attribute(node)
        scale, bound = node.integer("scale"), node.integer("bound")
        require(isinstance(data, bytes), "data must be bytes")
        require(0 <= bound <= 62, f"bound 2^{bound} is not in the ring")
        result = Type(Kind.PUBLIC, shape, scale, bound)
        require(len(data) == 8 * result.elements, f"{len(data)} bytes are not {shape} integers")  # type: ignore[arg-type]
        values = self._values(node)
        inside = not values.size or max(abs(int(values.min())), abs(int(values.max()))) < 1 << bound
        require(inside, f"a constant is not below 2^{bound}")
        return result

    def _values(self, node: Node) -> Array:
        data = node.attributes["data"]
        assert isinstance(data, bytes)
        return np.frombuffer(data, dtype="<i8").reshape(node.integers("shape"))

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return self._values(node)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return self._values(node), ()


@register
class Narrow(Protocol):
    """A masked value in the smaller ring modulo 2^width (attribute), for readers that take fewer bits than others: no
    cost."""

    operation = "narrow"

    def infer(self, node: Node, types: Types) -> Type:
        require_kind(types[0], Kind.MASKED)
        width = node.integer("width")
        require(1 <= width <= types[0].width, f"width {width} is not in 1 … {types[0].width}")
        return replace(types[0], width=width)

    def party(self, party: Party, node: Node, types: Types, inputs: Sequence[Value], shares: Sequence[Array]) -> Value:
        return Masked(kernels.reduce(inputs[0].public, node.type.width), inputs[0].share)

    def dealer(
        self, node: Node, types: Types, inputs: Sequence[Value], drawn: Sequence[Array], source: PrivateSource
    ) -> tuple[Value, Sequence[Array]]:
        return kernels.reduce(inputs[0], node.type.width), ()
