"""Arithmetic on contents: recorded values, uniform public tensors and plain numbers in any mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from parley.errors import UnsupportedOperation
from parley.functions import linear, order
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.pytorch.recorder import Content, Recorder, Uniform

Operand = Content | int | float | bool


def number_of(operand: Operand) -> float | None:
    """The number that an operand is throughout, or None for a recorded value."""
    if isinstance(operand, Value):
        return None
    return operand.number if isinstance(operand, Uniform) else float(operand)


def shape_of(operand: Operand) -> tuple[int, ...]:
    return operand.shape if isinstance(operand, (Value, Uniform)) else ()


def ring(operand: Value) -> Value:
    """A recorded value as ring elements: truth values become 0 and 1."""
    return order.to_ring(operand) if operand.kind in (Kind.BITS, Kind.MASKED_BITS) else operand


def expand(content: Content, shape: Sequence[int]) -> Content:
    if isinstance(content, Uniform):
        return Uniform(content.number, tuple(shape))
    return linear.expand(content, shape)


def reshape(content: Content, shape: Sequence[int]) -> Content:
    if isinstance(content, Uniform):
        return Uniform(content.number, tuple(shape))
    return linear.reshape(content, shape)


def result_shape(left: Operand, right: Operand) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(shape_of(left), shape_of(right)))


def binary(
    left: Operand,
    right: Operand,
    on_numbers: Callable[[float, float], float],
    with_number: Callable[[Value, float], Value],
    with_number_left: Callable[[float, Value], Value],
    on_values: Callable[[Value, Value], Value],
) -> Content:
    """Dispatch a binary operation on which of its operands are numbers; the result has the broadcast shape."""
    shape = result_shape(left, right)
    x, y = number_of(left), number_of(right)
    if x is not None and y is not None:
        return Uniform(on_numbers(x, y), shape)
    if y is not None:
        assert isinstance(left, Value)
        return linear.expand(with_number(left, y), shape)
    assert isinstance(right, Value)
    if x is not None:
        return linear.expand(with_number_left(x, right), shape)
    assert isinstance(left, Value)
    return on_values(left, right)


def add(left: Operand, right: Operand) -> Content:
    return binary(
        left,
        right,
        lambda x, y: x + y,
        lambda x, y: linear.add_scalar(ring(x), y),
        lambda x, y: linear.add_scalar(ring(y), x),
        lambda x, y: linear.add(ring(x), ring(y)),
    )


def subtract(left: Operand, right: Operand) -> Content:
    return binary(
        left,
        right,
        lambda x, y: x - y,
        lambda x, y: linear.add_scalar(ring(x), -y),
        lambda x, y: linear.add_scalar(linear.negate(ring(y)), x),
        lambda x, y: linear.subtract(ring(x), ring(y)),
    )


def multiply(left: Operand, right: Operand) -> Content:
    return binary(
        left,
        right,
        lambda x, y: x * y,
        _times_number,
        lambda x, y: _times_number(y, x),
        _times_value,
    )


def _times_number(value: Value, number: float) -> Value:
    return linear.multiply_scalar(ring(value), number)


def _times_value(left: Value, right: Value) -> Value:
    """A truth value selects, at a round less than a conversion and a product."""
    for bit, other in ((left, right), (right, left)):
        if bit.kind in (Kind.BITS, Kind.MASKED_BITS) and other.kind in (Kind.SHARED, Kind.MASKED):
            return order.select(bit, other)
    return linear.multiply(ring(left), ring(right))


def negate(operand: Content) -> Content:
    return Uniform(-operand.number, operand.shape) if isinstance(operand, Uniform) else linear.negate(ring(operand))


def bits(recorder: Recorder, operand: Operand, shape: Sequence[int]) -> Value:
    """An operand of a logical operation as bits: a truth value as it is, a number as [number != 0]."""
    number = number_of(operand)
    if number is not None:
        return recorder.recorded(Uniform(number, tuple(shape)), True)
    assert isinstance(operand, Value)
    if operand.kind == Kind.BITS:
        return operand
    if operand.kind == Kind.MASKED_BITS:
        raise UnsupportedOperation("an opened truth value cannot be used in a logical operation")
    return order.logical_not(order.equal_zero(operand))


def cast(recorder: Recorder, content: Content, dtype: torch.dtype) -> Content:
    """The content as elements of a type: truth values as bits, whole numbers without fractional bits, reals as ring
    elements."""
    if isinstance(content, Uniform):
        number = torch.tensor(content.number, dtype=torch.float64).to(dtype).item()
        return Uniform(float(number), content.shape)
    if dtype == torch.bool:
        return bits(recorder, content, content.shape)
    value = ring(content)
    if dtype.is_floating_point or value.scale == 0:
        return value
    if value.scale > 0:
        raise UnsupportedOperation(f"conversion of secret reals to {dtype}")
    return linear.raise_scale(value, 0)


def unary(operand: Content, on_number: Callable[[float], float], on_value: Callable[[Value], Value]) -> Content:
    """A function of one argument."""
    if isinstance(operand, Uniform):
        return Uniform(on_number(operand.number), operand.shape)
    return on_value(ring(operand))
