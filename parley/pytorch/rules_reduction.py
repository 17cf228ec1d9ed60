"""Rows of the table: matrix products, sums, extrema."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parley.errors import InputError
from parley.functions import linear, order, smooth
from parley.plan.builder import Value
from parley.pytorch import contents
from parley.pytorch.contents import ring
from parley.pytorch.recorder import Content, Uniform
from parley.pytorch.table import Context, aten, rule

# Matrix products


def _recorded(context: Context, content: Content) -> Value:
    return ring(context.recorder.materialise(content))


@rule(aten.mm.default, aten.bmm.default)
def matrix_product(context: Context, left: Content, right: Content) -> Content:
    return linear.matmul(_recorded(context, left), _recorded(context, right))


@rule(aten.mv.default)
def matrix_vector(context: Context, left: Content, right: Content) -> Content:
    vector = _recorded(context, right)
    product = linear.matmul(_recorded(context, left), linear.reshape(vector, (*vector.shape, 1)))
    return linear.reshape(product, context.shape)


@rule(aten.dot.default)
def dot(context: Context, left: Content, right: Content) -> Content:
    first, second = _recorded(context, left), _recorded(context, right)
    size = first.shape[0]
    return linear.reshape(linear.matmul(linear.reshape(first, (1, size)), linear.reshape(second, (size, 1))), ())


@rule(aten.addmm.default)
def add_matrix_product(
    context: Context, base: Content, left: Content, right: Content, beta: float = 1, alpha: float = 1
) -> Content:
    product = contents.multiply(matrix_product(context, left, right), alpha)
    return contents.add(contents.multiply(base, beta), product)


@rule(aten.baddbmm.default)
def add_batched_product(
    context: Context, base: Content, left: Content, right: Content, beta: float = 1, alpha: float = 1
) -> Content:
    return add_matrix_product(context, base, left, right, beta, alpha)


# Sums


def _axes(content: Content, axes: Sequence[int] | int | None) -> tuple[int, ...]:
    rank = len(content.shape)
    if isinstance(axes, int):
        axes = (axes,)
    if not axes:
        return tuple(range(rank))
    return tuple(sorted({axis % rank if rank else 0 for axis in axes})) if rank else ()


@rule(aten.sum.default)
def sum_all(context: Context, operand: Content, dtype: object = None) -> Content:
    return sum_axes(context, operand, None)


@rule(aten.sum.dim_IntList)
def sum_axes(
    context: Context, operand: Content, axes: Sequence[int] | None, keepdims: bool = False, dtype: object = None
) -> Content:
    chosen = _axes(operand, axes)
    if isinstance(operand, Uniform):
        return Uniform(operand.number * math.prod(operand.shape[axis] for axis in chosen), context.shape)
    return linear.sum_axes(ring(operand), chosen, keepdims)


@rule(aten.mean.default)
def mean_all(context: Context, operand: Content, dtype: object = None) -> Content:
    return mean_axes(context, operand, None)


@rule(aten.mean.dim)
def mean_axes(
    context: Context, operand: Content, axes: Sequence[int] | None, keepdims: bool = False, dtype: object = None
) -> Content:
    count = math.prod(operand.shape[axis] for axis in _axes(operand, axes))
    if count == 0:
        raise InputError("the mean of no elements")
    return contents.multiply(sum_axes(context, operand, axes, keepdims), 1 / count)


@rule(aten.var.correction)
def variance(
    context: Context,
    operand: Content,
    axes: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Content:
    chosen = _axes(operand, axes)
    count = math.prod(operand.shape[axis] for axis in chosen)
    divisor = count - (1 if correction is None else correction)
    if divisor <= 0:
        raise InputError("the variance of too few elements")
    value = _recorded(context, operand)
    gap = linear.subtract(value, linear.mean_axes(value, chosen, keepdims=True))
    return linear.divide_scalar(linear.sum_axes(linear.multiply(gap, gap), chosen, keepdim), divisor)


@rule(aten.std.correction)
def deviation(
    context: Context,
    operand: Content,
    axes: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> Content:
    return contents.unary(
        variance(context, operand, axes, correction=correction, keepdim=keepdim), math.sqrt, smooth.sqrt
    )


# Extrema


def _last(value: Value, axis: int | None) -> Value:
    """The axis moved to the end (None: everything flattened)."""
    if axis is None:
        return linear.reshape(value, (value.type.elements,))
    rank = len(value.shape)
    axis %= max(rank, 1)
    if rank == 0:
        return linear.reshape(value, (1,))
    return linear.transpose(value, (*(k for k in range(rank) if k != axis), axis))


@rule(aten.argmax.default)
def argmax(context: Context, operand: Value, axis: int | None = None, keepdim: bool = False) -> Content:
    bits = order.argmax_bits(_last(ring(operand), axis))
    return linear.reshape(order.index_of(bits), context.shape)


@rule(aten.argmin.default)
def argmin(context: Context, operand: Value, axis: int | None = None, keepdim: bool = False) -> Content:
    return argmax(context, linear.negate(ring(operand)), axis, keepdim)


@rule(aten.max.dim)
def max_axis(context: Context, operand: Value, axis: int, keepdim: bool = False) -> tuple[Value, Value]:
    largest, bits = order.max_last(_last(ring(operand), axis))
    return linear.reshape(largest, context.shape), linear.reshape(order.index_of(bits), context.shape)


@rule(aten.min.dim)
def min_axis(context: Context, operand: Value, axis: int, keepdim: bool = False) -> tuple[Value, Value]:
    smallest, index = max_axis(context, linear.negate(ring(operand)), axis, keepdim)
    return linear.negate(smallest), index


@rule(aten.max.default)
def max_all(context: Context, operand: Value) -> Value:
    return order.max_last(_last(ring(operand), None))[0]


@rule(aten.min.default)
def min_all(context: Context, operand: Value) -> Value:
    return linear.negate(max_all(context, linear.negate(ring(operand))))


@rule(aten.amax.default)
def largest(context: Context, operand: Value, axes: Sequence[int] = (), keepdim: bool = False) -> Value:
    chosen = _axes(operand, axes)
    value = ring(operand)
    kept = tuple(axis for axis in range(len(value.shape)) if axis not in chosen)
    moved = linear.transpose(value, (*kept, *chosen))
    count = int(np.prod([value.shape[axis] for axis in chosen], dtype=np.int64))
    flat = linear.reshape(moved, (*(value.shape[axis] for axis in kept), count))
    return linear.reshape(order.max_last(flat)[0], context.shape)


@rule(aten.amin.default)
def smallest(context: Context, operand: Value, axes: Sequence[int] = (), keepdim: bool = False) -> Value:
    return linear.negate(largest(context, linear.negate(ring(operand)), axes, keepdim))


@rule(aten.any.default)
def any_true(context: Context, operand: Value) -> Value:
    return any_true_on(context, operand, None)


@rule(aten.any.dim, aten.any.dims)
def any_true_on(context: Context, operand: Value, axes: Sequence[int] | int | None, keepdim: bool = False) -> Value:
    bits = contents.bits(context.recorder, operand, operand.shape)
    count = linear.sum_axes(ring(bits), _axes(operand, axes), keepdim)
    return order.logical_not(order.less_scalar(count, 1))


@rule(aten.all.default)
def all_true(context: Context, operand: Value) -> Value:
    return all_true_on(context, operand, None)


@rule(aten.all.dim, aten.all.dims)
def all_true_on(context: Context, operand: Value, axes: Sequence[int] | int | None, keepdim: bool = False) -> Value:
    bits = order.logical_not(contents.bits(context.recorder, operand, operand.shape))
    return order.logical_not(any_true_on(context, bits, axes, keepdim))
