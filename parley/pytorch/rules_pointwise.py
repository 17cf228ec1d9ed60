"""Rows of the table: element by element."""

from __future__ import annotations

from typing import Any

import torch

from parley.errors import UnsupportedOperation
from parley.functions import order, smooth
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.pytorch import contents
from parley.pytorch.contents import Operand, number_of, ring
from parley.pytorch.recorder import Content, Uniform
from parley.pytorch.table import Context, aten, in_place, rule


@rule(aten.add.Tensor, aten.add.Scalar)
def add(context: Context, left: Operand, right: Operand, alpha: float = 1) -> Content:
    return contents.add(left, right if alpha == 1 else contents.multiply(right, alpha))


@rule(aten.sub.Tensor, aten.sub.Scalar)
def subtract(context: Context, left: Operand, right: Operand, alpha: float = 1) -> Content:
    return contents.subtract(left, right if alpha == 1 else contents.multiply(right, alpha))


@rule(aten.rsub.Tensor, aten.rsub.Scalar)
def reverse_subtract(context: Context, left: Operand, right: Operand, alpha: float = 1) -> Content:
    return subtract(context, right, left, alpha)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def multiply(context: Context, left: Operand, right: Operand) -> Content:
    return contents.multiply(left, right)


@rule(aten.div.Tensor, aten.div.Scalar)
def divide(context: Context, left: Operand, right: Operand) -> Content:
    number = number_of(right)
    if number is not None:
        if number == 0:
            raise ZeroDivisionError("division of a secret tensor by a public zero")
        return contents.multiply(
            contents.expand(left, context.shape) if isinstance(left, (Value, Uniform)) else left, 1 / number
        )
    assert isinstance(right, Value)
    if isinstance(left, Value):
        return smooth.divide(ring(left), ring(right))
    return contents.multiply(left, smooth.reciprocal(ring(right)))


@rule(aten.reciprocal.default)
def reciprocal(context: Context, operand: Value) -> Content:
    return smooth.reciprocal(ring(operand))


@rule(aten.neg.default)
def negate(context: Context, operand: Value) -> Content:
    return contents.negate(operand)


@rule(aten.pow.Tensor_Scalar)
def power(context: Context, operand: Value, exponent: float) -> Content:
    if exponent == 0:
        return Uniform(1.0, context.shape)
    if exponent == int(exponent):
        return smooth.power(ring(operand), int(exponent))
    if exponent == 0.5:
        return smooth.sqrt(ring(operand))
    if exponent == -0.5:
        return smooth.rsqrt(ring(operand))
    raise UnsupportedOperation(f"the exponent {exponent}; integers, 0.5 and -0.5 are available")


@rule(aten.square.default)
def square(context: Context, operand: Value) -> Content:
    return contents.multiply(operand, operand)


@rule(aten.sqrt.default)
def square_root(context: Context, operand: Value) -> Content:
    return smooth.sqrt(ring(operand))


@rule(aten.rsqrt.default)
def reciprocal_square_root(context: Context, operand: Value) -> Content:
    return smooth.rsqrt(ring(operand))


@rule(aten.exp.default)
def exponential(context: Context, operand: Value) -> Content:
    return smooth.exp(ring(operand))


@rule(aten.log.default)
def logarithm(context: Context, operand: Value) -> Content:
    return smooth.log(ring(operand))


@rule(aten.abs.default)
def absolute(context: Context, operand: Value) -> Content:
    return order.absolute(ring(operand))


@rule(aten.sign.default, aten.sgn.default)
def sign(context: Context, operand: Value) -> Content:
    return order.sign(ring(operand))


@rule(aten.clamp.default)
def clamp(context: Context, operand: Value, low: float | None = None, high: float | None = None) -> Content:
    return order.clamp(ring(operand), low, high)


@rule(aten.clamp_min.default)
def clamp_min(context: Context, operand: Value, low: float) -> Content:
    return clamp(context, operand, low, None)


@rule(aten.clamp_max.default)
def clamp_max(context: Context, operand: Value, high: float) -> Content:
    return clamp(context, operand, None, high)


# Comparisons


def _less(left: Operand, right: Operand) -> Content:
    return contents.binary(
        left,
        right,
        lambda x, y: float(x < y),
        lambda x, y: order.less_scalar(ring(x), y),
        lambda x, y: order.logical_not(order.less_equal_scalar(ring(y), x)),
        lambda x, y: order.less(ring(x), ring(y)),
    )


def _not(content: Content) -> Content:
    return Uniform(1 - content.number, content.shape) if isinstance(content, Uniform) else order.logical_not(content)


@rule(aten.lt.Tensor, aten.lt.Scalar)
def less(context: Context, left: Operand, right: Operand) -> Content:
    return _less(left, right)


@rule(aten.gt.Tensor, aten.gt.Scalar)
def greater(context: Context, left: Operand, right: Operand) -> Content:
    return _less(right, left)


@rule(aten.ge.Tensor, aten.ge.Scalar)
def greater_equal(context: Context, left: Operand, right: Operand) -> Content:
    return _not(_less(left, right))


@rule(aten.le.Tensor, aten.le.Scalar)
def less_equal(context: Context, left: Operand, right: Operand) -> Content:
    return _not(_less(right, left))


@rule(aten.eq.Tensor, aten.eq.Scalar)
def equal(context: Context, left: Operand, right: Operand) -> Content:
    gap = contents.subtract(left, right)
    if isinstance(gap, Uniform):
        return Uniform(float(gap.number == 0), gap.shape)
    return order.equal_zero(gap)


@rule(aten.ne.Tensor, aten.ne.Scalar)
def not_equal(context: Context, left: Operand, right: Operand) -> Content:
    return _not(equal(context, left, right))


@rule(aten.maximum.default)
def maximum(context: Context, left: Operand, right: Operand) -> Content:
    larger = _not(_less(left, right))
    return where(context, larger, left, right)


@rule(aten.minimum.default)
def minimum(context: Context, left: Operand, right: Operand) -> Content:
    return where(context, _less(left, right), left, right)


@rule(aten.where.self)
def where(context: Context, condition: Content, left: Operand, right: Operand) -> Content:
    if isinstance(condition, Uniform):
        chosen = left if condition.number else right
        whole = chosen if isinstance(chosen, (Value, Uniform)) else Uniform(float(chosen), ())
        return contents.expand(whole, context.shape)
    if context.dtype == torch.bool:
        first, second = (contents.bits(context.recorder, side, contents.shape_of(side)) for side in (left, right))
        bit = contents.bits(context.recorder, condition, condition.shape)
        return contents.expand(
            order.logical_xor(second, order.logical_and(bit, order.logical_xor(first, second))), context.shape
        )
    gap = contents.subtract(left, right)
    if condition.kind == Kind.PUBLIC:
        return contents.expand(contents.add(right, contents.multiply(condition, gap)), context.shape)
    bit = contents.bits(context.recorder, condition, condition.shape)
    if isinstance(gap, Uniform):
        return contents.expand(contents.add(right, contents.multiply(order.to_ring(bit), gap.number)), context.shape)
    return contents.expand(contents.add(right, order.select(bit, gap)), context.shape)


# Logic


@rule(aten.logical_not.default, aten.bitwise_not.default)
def logical_not(context: Context, operand: Content) -> Content:
    return order.logical_not(_truth(context, operand))


@rule(aten.logical_and.default, aten.bitwise_and.Tensor, aten.bitwise_and.Scalar)
def logical_and(context: Context, left: Operand, right: Operand) -> Content:
    return order.logical_and(_truth(context, left), _truth(context, right))


@rule(aten.logical_or.default, aten.bitwise_or.Tensor, aten.bitwise_or.Scalar)
def logical_or(context: Context, left: Operand, right: Operand) -> Content:
    return order.logical_or(_truth(context, left), _truth(context, right))


@rule(aten.logical_xor.default, aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar)
def logical_xor(context: Context, left: Operand, right: Operand) -> Content:
    return order.logical_xor(_truth(context, left), _truth(context, right))


def _truth(context: Context, operand: Operand) -> Value:
    if context.dtype != torch.bool:
        raise UnsupportedOperation("logic on the bits of secret integers; compare them first")
    return contents.bits(context.recorder, operand, contents.shape_of(operand))


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(context: Context, operand: Content, mask: Content, number: Operand) -> Content:
    return where(context, mask, number, operand)


# Copies and conversions


@rule(aten.clone.default, aten.lift_fresh.default, aten.contiguous.default)
def clone(context: Context, operand: Content, memory_format: Any = None) -> Content:
    return operand


@rule(aten._to_copy.default)
def convert(context: Context, operand: Content, **keywords: Any) -> Content:
    return operand


@rule(aten.zeros_like.default)
def zeros_like(context: Context, operand: Content, **keywords: Any) -> Content:
    return Uniform(0.0, context.shape)


@rule(aten.ones_like.default)
def ones_like(context: Context, operand: Content, **keywords: Any) -> Content:
    return Uniform(1.0, context.shape)


@rule(aten.full_like.default)
def full_like(context: Context, operand: Content, number: float, **keywords: Any) -> Content:
    return Uniform(float(number), context.shape)


@rule(aten.new_zeros.default, aten.new_empty.default, aten.new_empty_strided.default, aten.empty_like.default)
def new_zeros(context: Context, operand: Content, *sizes: Any, **keywords: Any) -> Content:
    return Uniform(0.0, context.shape)


@rule(aten.new_ones.default)
def new_ones(context: Context, operand: Content, size: Any, **keywords: Any) -> Content:
    return Uniform(1.0, context.shape)


@rule(aten.new_full.default)
def new_full(context: Context, operand: Content, size: Any, number: float, **keywords: Any) -> Content:
    return Uniform(float(number), context.shape)


@in_place(aten.zero_.default)
def zero(context: Context, operand: Content) -> Content:
    return Uniform(0.0, context.shape)


@in_place(aten.fill_.Scalar, aten.fill_.Tensor)
def fill(context: Context, operand: Content, number: Operand) -> Content:
    whole = number if isinstance(number, (Value, Uniform)) else Uniform(float(number), ())
    return contents.expand(whole, context.shape)


@in_place(aten.copy_.default)
def copy(context: Context, operand: Content, source: Operand, non_blocking: bool = False) -> Content:
    whole = source if isinstance(source, (Value, Uniform)) else Uniform(float(source), ())
    return contents.expand(whole, context.shape)


# Combinations that optimizers use


@rule(aten.addcmul.default)
def add_product(context: Context, base: Operand, left: Operand, right: Operand, value: float = 1) -> Content:
    return contents.add(base, contents.multiply(contents.multiply(left, right), value))


@rule(aten.addcdiv.default)
def add_quotient(context: Context, base: Operand, left: Operand, right: Operand, value: float = 1) -> Content:
    return contents.add(base, contents.multiply(divide(context, left, right), value))


@rule(aten.lerp.Scalar)
def interpolate(context: Context, start: Operand, end: Operand, weight: float) -> Content:
    return contents.add(start, contents.multiply(contents.subtract(end, start), weight))
