"""Arithmetic on real values: sums, products, constants, shapes; kinds and scales are converted as needed.

Rescaling is late: a product keeps the sum of its factors' scales until a factor, or a kept value, must be smaller.
Every function takes and gives `Value`s of one builder; costs are those of the primitive nodes (an opening is one round,
a truncation costs one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from parley.errors import InputError, PlanError
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.protocols.linear import growth

CONSTANT_BITS = 16
"""Significant bits of a public real factor: a relative error of 2^-17 at most."""
LEAST_CONSTANT_BITS = 12
"""As few significant bits are accepted where they save a rescaling (a relative error of 2^-13 at most)."""
RING_BITS = 62


# Kinds and scales


def shared(value: Value) -> Value:
    """As a shared value."""
    return value if value.kind == Kind.SHARED else value.builder.add("share", value).with_total(value.total)


def masked(value: Value) -> Value:
    """As a masked value: the opening costs a round, once for all uses.

    What is a linear function of values that are open already is not opened again: the function is applied to their
    masked forms (protocols.md, section 1).
    """
    if value.kind == Kind.MASKED:
        return value
    builder = value.builder
    node = builder.nodes[value.index]
    if node.operation in _LINEAR and value.kind == Kind.SHARED:
        inputs = [Value(builder, index) for index in node.inputs]
        derivable = node.operation in _NO_LARGER or all(_open_already(source) for source in inputs)
        if derivable and any(source.kind == Kind.SHARED for source in inputs):
            opened = [source if source.kind == Kind.PUBLIC else masked(source) for source in inputs]
            return builder.add(node.operation, *opened, **node.attributes).with_total(value.total)
    source = shared(value)
    return builder.add("open", source, width=source.type.width).with_total(value.total)


_NO_LARGER = frozenset({"transpose", "reshape", "expand", "negate", "rescale"})
"""Linear operations whose input has no more elements than their result."""
_LINEAR = _NO_LARGER | {"slice", "gather", "concatenate", "pad", "add", "subtract", "sum", "multiply_public"}


def _open_already(value: Value) -> bool:
    """Whether a masked form of the value is there without a further opening."""
    if value.kind in (Kind.MASKED, Kind.PUBLIC):
        return True
    return value.builder.find("open", value, width=value.type.width) is not None


def raise_scale(value: Value, scale: int) -> Value:
    """More fractional bits, exactly."""
    bits = scale - value.scale
    if bits < 0:
        raise PlanError(f"scale {value.scale} is already above {scale}")
    if bits == 0:
        return value
    one = value.builder.constant(1 << bits, bits)
    raised = value.builder.add("multiply_public", value, one, bound=value.type.bound + bits)
    return raised.with_total(value.total)


def lower_scale(value: Value, scale: int) -> Value:
    """Fewer fractional bits: one round, right to one unit in the last place."""
    bits = value.scale - scale
    if bits < 0:
        raise PlanError(f"scale {value.scale} is already below {scale}")
    if bits == 0:
        return value
    node = value.builder.nodes[value.index]
    if node.operation in ("transpose", "reshape"):  # every arrangement of a value shares one truncation
        lowered = lower_scale(Value(value.builder, node.inputs[0]), scale)
        return value.builder.add(node.operation, lowered, **node.attributes).with_total(value.total)
    if value.kind == Kind.PUBLIC:
        value = shared(value)
    if bits > RING_BITS - 2:  # nothing of a ring element is left
        zero = value.builder.add("multiply_public", value, value.builder.constant(0))
        return value.builder.add("rescale", zero, bits=-bits).with_total(value.total)
    return value.builder.add("truncate", masked(value), bits=bits).with_total(value.total)


def with_scale(value: Value, scale: int) -> Value:
    """Exactly this scale, up or down."""
    return raise_scale(value, scale) if value.scale <= scale else lower_scale(value, scale)


def fraction_bits(value: Value) -> int:
    return value.builder.precision.fraction_bits


def factor_scale(value: Value) -> int:
    """The scale that a factor of a product needs: the precision's fractional bits, and as many more as the value is
    known to be smaller than one (a gradient divided by the number of rows keeps its significant bits)."""
    return fraction_bits(value) + max(value.scale - value.type.bound, 0)


def factor(value: Value) -> Value:
    """As a factor of a product: no finer than `factor_scale`."""
    return lower_scale(value, factor_scale(value)) if value.scale > factor_scale(value) else value


def with_room(value: Value, bits: int) -> Value:
    """With room in the ring for a result that is larger by `bits` bits: a value of too fine a scale is lowered to the
    precision's."""
    promised = max(value.scale, fraction_bits(value)) + value.builder.precision.range_bits
    if min(value.type.bound + bits, promised) <= RING_BITS or value.scale <= fraction_bits(value):
        return value
    return lower_scale(value, fraction_bits(value))


# Constants


def constant(like: Value, values: npt.ArrayLike, scale: int | None = None) -> Value:
    """Public reals rounded to `scale` fractional bits (default: the precision's)."""
    scale = fraction_bits(like) if scale is None else scale
    reals = np.asarray(values, dtype=np.float64)
    if not np.isfinite(reals).all():
        raise InputError("a public constant is not finite")
    scaled = np.rint(np.ldexp(reals, scale))
    if scaled.size and float(np.abs(scaled).max()) >= 2.0**RING_BITS:
        raise InputError(
            f"the public constant {float(np.abs(reals).max()):g} is beyond the fixed-point range "
            f"at {scale} fractional bits"
        )
    return like.builder.constant(scaled.astype(np.int64), scale)


def quantise(number: float, bits: int) -> tuple[int, int]:
    """(i, s) with i·2^-s nearest to `number`, i of at most `bits` significant bits and odd (or 0)."""
    if not math.isfinite(number):
        raise InputError(f"the public constant {number} is not finite")
    if number == 0:
        return 0, 0
    mantissa, exponent = math.frexp(number)
    integer, scale = round(mantissa * 2.0**bits), bits - exponent
    while integer % 2 == 0:
        integer, scale = integer // 2, scale - 1
    return integer, scale


# Addition


def align(left: Value, right: Value) -> tuple[Value, Value]:
    """Both at one scale: the finer one, unless the coarser value cannot be raised so far within the ring."""
    if left.scale == right.scale:
        return left, right
    if left.scale > right.scale:
        second, first = align(right, left)
        return first, second
    if left.type.bound + right.scale - left.scale < RING_BITS:  # one bit stays for the sum
        return raise_scale(left, right.scale), right
    reachable = max(left.scale, min(fraction_bits(left), left.scale + RING_BITS - 1 - left.type.bound))
    return raise_scale(left, reachable), lower_scale(right, reachable)


def _combine(operation: str, left: Value, right: Value) -> Value:
    left, right = align(with_room(left, 1), with_room(right, 1))
    if {left.kind, right.kind} == {Kind.SHARED, Kind.MASKED}:
        left, right = shared(left), shared(right)
    return left.builder.add(operation, left, right)


def add(left: Value, right: Value) -> Value:
    """left + right with broadcasting; no round."""
    return _combine("add", left, right)


def subtract(left: Value, right: Value) -> Value:
    """left − right with broadcasting; no round."""
    return _combine("subtract", left, right)


def add_scalar(value: Value, number: float) -> Value:
    """value + number."""
    if number == 0:
        return value
    if value.scale <= 0 and number != int(number):
        value = raise_scale(value, fraction_bits(value))
    elif value.scale < 0:
        value = raise_scale(value, 0)
    return value.builder.add("add", value, constant(value, number, value.scale))


def negate(value: Value) -> Value:
    total = None if value.total is None else -value.total
    return value.builder.add("negate", value).with_total(total)


# Products


def multiply_scalar(value: Value, number: float) -> Value:
    """value · number for a public real: exact for powers of two and for integers, else right to 2^-17 of itself (2^-13
    where that saves a rescaling). No round, unless the result would leave the ring."""
    total = None if value.total is None else value.total * number
    integer, scale = quantise(number, CONSTANT_BITS)
    if number == int(number) and abs(number) < 2**30:
        integer, scale = int(number), 0
        while integer and integer % 2 == 0:
            integer, scale = integer // 2, scale - 1
    if integer == 0:
        return value.builder.add("multiply_public", value, value.builder.constant(0)).with_total(total)
    if abs(integer) != 1:
        room = RING_BITS - value.type.bound
        if abs(integer).bit_length() > room:
            if room < LEAST_CONSTANT_BITS:
                return multiply_scalar(
                    lower_scale(value, min(fraction_bits(value), value.scale - 1)), number
                ).with_total(total)
            integer, scale = quantise(number, room)
        # The factor has its scale from the start: the bound that the precision promises depends on it.
        return value.builder.add("multiply_public", value, value.builder.constant(integer, scale)).with_total(total)
    if integer == -1:
        value = negate(value)
    if scale:
        value = value.builder.add("rescale", value, bits=scale)
    return value.with_total(total)


def divide_scalar(value: Value, number: float) -> Value:
    """value / number for a public real."""
    if number == 0:
        raise InputError("division by a public zero")
    return multiply_scalar(value, 1 / number)


def _product(operation: str, left: Value, right: Value, terms: int) -> Value:
    """A product of two values of which at least one is secret, lowering the finer one until the result fits the
    ring."""
    builder = left.builder
    while True:
        scale = left.scale + right.scale
        bound = left.type.bound + right.type.bound + growth(terms)
        promised = max(scale, builder.precision.fraction_bits) + builder.precision.range_bits
        if min(bound, promised) <= RING_BITS:
            break
        if max(left.scale, right.scale) <= builder.precision.fraction_bits:
            raise PlanError(f"a product of scale {scale} and bound 2^{bound} leaves the ring")
        if left.scale >= right.scale:
            left = lower_scale(left, builder.precision.fraction_bits)
        else:
            right = lower_scale(right, builder.precision.fraction_bits)
    if right.kind == Kind.PUBLIC:
        return builder.add(f"{operation}_public", left, right)
    if left.kind == Kind.PUBLIC and operation == "multiply":
        return builder.add("multiply_public", right, left)
    if left.kind == Kind.PUBLIC:
        return swap(builder.add("matmul_public", swap(right), swap(left)))
    return builder.add(operation, masked(left), masked(right))


def multiply(left: Value, right: Value) -> Value:
    """left · right, elementwise with broadcasting: a round for every operand that was not open yet."""
    return _product("multiply", factor(left), factor(right), 1)


def matmul(left: Value, right: Value) -> Value:
    """Matrix product with broadcasting of leading dimensions: a round for every operand that was not open yet."""
    return _product("matmul", factor(left), factor(right), left.shape[-1])


# Sums


def sum_axes(value: Value, axes: Sequence[int] | None = None, keepdims: bool = False) -> Value:
    """Sum over axes (negative ones count from the end; None: all). A sum that is known (Value.total) is a public
    constant."""
    rank = len(value.shape)
    chosen = tuple(sorted({axis % rank for axis in (range(rank) if axes is None else axes)})) if rank else ()
    if value.total is not None and chosen == (rank - 1,):
        result = constant(value, np.full(value.shape[:-1], value.total), max(value.scale, fraction_bits(value)))
    elif not chosen:
        result = value
    else:
        terms = math.prod(value.shape[axis] for axis in chosen)
        result = value.builder.add("sum", with_room(value, growth(terms)), axes=chosen)
    if keepdims:
        result = reshape(result, tuple(1 if axis in chosen else size for axis, size in enumerate(value.shape)))
    return result


def mean_axes(value: Value, axes: Sequence[int] | None = None, keepdims: bool = False) -> Value:
    """Mean over axes; free where their size is a power of two."""
    rank = len(value.shape)
    chosen = {axis % rank for axis in (range(rank) if axes is None else axes)} if rank else set()
    count = math.prod(value.shape[axis] for axis in chosen)
    if count == 0:
        raise InputError("the mean of no elements")
    return divide_scalar(sum_axes(value, axes, keepdims), count)


# Shapes (on ring values and bits alike)


def reshape(value: Value, shape: Sequence[int]) -> Value:
    shape = tuple(shape)
    if shape == value.shape:
        return value
    keeps_rows = bool(shape and value.shape) and shape[-1] == value.shape[-1]
    return value.builder.add("reshape", value, shape=shape).with_total(value.total if keeps_rows else None)


def transpose(value: Value, axes: Sequence[int]) -> Value:
    if tuple(axes) == tuple(range(len(value.shape))):
        return value
    total = value.total if axes[-1] == len(value.shape) - 1 else None
    return value.builder.add("transpose", value, axes=tuple(axes)).with_total(total)


def swap(value: Value) -> Value:
    """The last two axes exchanged."""
    rank = len(value.shape)
    return transpose(value, (*range(rank - 2), rank - 1, rank - 2))


def expand(value: Value, shape: Sequence[int]) -> Value:
    shape = tuple(shape)
    if shape == value.shape:
        return value
    keeps_rows = bool(value.shape) and value.shape[-1] == shape[-1]
    return value.builder.add("expand", value, shape=shape).with_total(value.total if keeps_rows else None)


def slice_axes(value: Value, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> Value:
    if tuple(sizes) == value.shape and all(step == 1 for step in steps):
        return value
    whole_rows = bool(sizes) and sizes[-1] == value.shape[-1]
    result = value.builder.add("slice", value, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))
    return result.with_total(value.total if whole_rows else None)


def take_range(value: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
    """Elements start, start+step, … (size of them) of one axis."""
    axis %= len(value.shape)
    starts, sizes, steps = [0] * len(value.shape), list(value.shape), [1] * len(value.shape)
    starts[axis], sizes[axis], steps[axis] = start, size, step
    return slice_axes(value, starts, sizes, steps)


def flip(value: Value, axes: Sequence[int]) -> Value:
    for axis in axes:
        size = value.shape[axis]
        value = take_range(value, axis, size - 1, size, -1) if size > 1 else value
    return value


def pad(value: Value, before: Sequence[int], after: Sequence[int]) -> Value:
    """Zeros around."""
    if not any((*before, *after)):
        return value
    return value.builder.add("pad", value, before=tuple(before), after=tuple(after))


def concatenate(values: Sequence[Value], axis: int) -> Value:
    """Along one axis; ring values are brought to one kind and scale."""
    axis %= len(values[0].shape)
    if len(values) == 1:
        return values[0]
    if values[0].kind not in (Kind.BITS, Kind.MASKED_BITS):
        scale = max(value.scale for value in values)
        values = [raise_scale(value, scale) for value in values]
        if len({value.kind for value in values}) > 1:
            values = [shared(value) for value in values]
    totals = {value.total for value in values}
    total = totals.pop() if len(totals) == 1 and axis != len(values[0].shape) - 1 else None
    return values[0].builder.add("concatenate", *values, axis=axis).with_total(total)


def gather(value: Value, axis: int, index: Value) -> Value:
    """Rows of one axis by public indices."""
    axis %= len(value.shape)
    total = value.total if axis != len(value.shape) - 1 else None
    return value.builder.add("gather", value, index, axis=axis).with_total(total)


def scatter_add(value: Value, axis: int, index: Value, size: int) -> Value:
    """The rows of one axis added up at public indices among `size` rows."""
    return value.builder.add("scatter_add", value, index, axis=axis % len(value.shape), size=size)


def tree(combine: Callable[[Value, Value], Value], values: Sequence[Value]) -> Value:
    """Combine pairwise in a balanced tree: ⌈log2 n⌉ steps deep."""
    items = list(values)
    while len(items) > 1:
        paired = [combine(items[k], items[k + 1]) for k in range(0, len(items) - 1, 2)]
        items = paired + items[len(paired) * 2 :]
    return items[0]
