"""Rows of the table: activations and losses, forward and backward.

What a backward pass needs of its forward pass is remembered by the recorder (`note`), so that nothing is computed or
opened twice: the bits of a ReLU, the softmax beneath a log-softmax. After a flush it is computed anew.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from parley.errors import InputError, UnsupportedOperation
from parley.functions import linear, neural, order, smooth
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.pytorch import contents
from parley.pytorch.contents import ring, unary
from parley.pytorch.recorder import Content, Uniform
from parley.pytorch.table import Context, aten, rule, rule_on_plain

_NONE, _MEAN, _SUM = 0, 1, 2
"""PyTorch's codes for a loss's reduction."""


def _of_number(function: Any) -> Any:
    return lambda x: float(function(torch.tensor(x, dtype=torch.float64)))


@rule(aten.relu.default)
def relu(context: Context, operand: Value) -> Content:
    result, positive = order.relu(ring(operand))
    context.recorder.note("positive", result, positive)
    return result


@rule(aten.threshold_backward.default)
def threshold_backward(context: Context, gradient: Content, result: Content, threshold: float) -> Content:
    if isinstance(result, Uniform):
        return gradient if result.number > threshold else Uniform(0.0, context.shape)
    positive = context.recorder.noted("positive", result) if threshold == 0 else None
    if positive is None:
        positive = order.logical_not(order.less_equal_scalar(ring(result), threshold))
    if isinstance(gradient, Uniform):
        return linear.multiply_scalar(order.to_ring(positive), gradient.number)
    return order.select(positive, gradient)


@rule(aten.sigmoid.default)
def sigmoid(context: Context, operand: Content) -> Content:
    return unary(operand, _of_number(torch.sigmoid), smooth.sigmoid)


@rule(aten.sigmoid_backward.default)
def sigmoid_backward(context: Context, gradient: Content, result: Content) -> Content:
    return contents.multiply(gradient, contents.multiply(result, contents.subtract(1, result)))


@rule(aten.tanh.default)
def tanh(context: Context, operand: Value) -> Content:
    return smooth.tanh(ring(operand))


@rule(aten.tanh_backward.default)
def tanh_backward(context: Context, gradient: Content, result: Content) -> Content:
    return contents.multiply(gradient, contents.subtract(1, contents.multiply(result, result)))


@rule(aten._log_softmax.default)
def log_softmax(context: Context, operand: Value, axis: int, half_to_float: bool) -> Content:
    moved, axes = neural.axis_last(ring(operand), axis)
    parts = neural.softmax_parts(moved)
    result = linear.transpose(parts.log_softmax(), axes)
    context.recorder.note("softmax", result, linear.transpose(parts.softmax(), axes))
    return result


@rule(aten._log_softmax_backward_data.default)
def log_softmax_backward(
    context: Context, gradient: Content, result: Content, axis: int, dtype: torch.dtype
) -> Content:
    """gradient − softmax · Σ gradient."""
    if isinstance(result, Uniform):
        softmax: Content = Uniform(math.exp(result.number), result.shape)
    else:
        softmax = context.recorder.noted("softmax", result) or smooth.exp(result)
    return contents.subtract(gradient, contents.multiply(softmax, _total(gradient, axis)))


@rule(aten._softmax.default)
def softmax(context: Context, operand: Value, axis: int, half_to_float: bool) -> Content:
    return neural.softmax(ring(operand), axis)


@rule(aten._softmax_backward_data.default)
def softmax_backward(context: Context, gradient: Content, result: Content, axis: int, dtype: torch.dtype) -> Content:
    """softmax · (gradient − Σ gradient · softmax)."""
    weighted = contents.multiply(gradient, result)
    return contents.subtract(weighted, contents.multiply(result, _total(weighted, axis)))


def _total(content: Content, axis: int) -> Content | float:
    """Sum along an axis, which stays; a number where it is known (one-hot labels)."""
    if isinstance(content, Uniform):
        return content.number * content.shape[axis]
    if content.total is not None and axis % len(content.shape) == len(content.shape) - 1:
        return content.total
    return linear.sum_axes(ring(content), (axis,), keepdims=True)


# Losses


def _reduce(context: Context, content: Content, reduction: int) -> Content:
    if reduction == _NONE:
        return content
    count = math.prod(content.shape)
    if isinstance(content, Uniform):
        return Uniform(content.number * (count if reduction == _SUM else 1), ())
    total = linear.sum_axes(content)
    return linear.divide_scalar(total, count) if reduction == _MEAN else total


def _spread(gradient: Content, shape: tuple[int, ...], reduction: int) -> Content:
    """The gradient with regard to each element before the reduction."""
    if reduction == _MEAN:
        gradient = contents.multiply(gradient, 1 / math.prod(shape))
    return contents.expand(gradient, shape) if reduction != _NONE else gradient


@rule(aten.mse_loss.default)
def mse_loss(context: Context, prediction: Content, target: Content, reduction: int = _MEAN) -> Content:
    gap = contents.subtract(prediction, target)
    return _reduce(context, contents.multiply(gap, gap), reduction)


@rule(aten.mse_loss_backward.default)
def mse_loss_backward(
    context: Context, gradient: Content, prediction: Content, target: Content, reduction: int
) -> Content:
    gap = contents.multiply(contents.subtract(prediction, target), 2)
    return contents.multiply(_spread(gradient, context.shape, reduction), gap)


@rule(aten.binary_cross_entropy_with_logits.default)
def binary_cross_entropy_with_logits(
    context: Context,
    logits: Content,
    target: Content,
    weight: Content | None = None,
    pos_weight: Content | None = None,
    reduction: int = _MEAN,
) -> Content:
    """(1 − t)·x + (1 + (w − 1)·t)·softplus(−x), in PyTorch's stable form."""
    negated = contents.negate(logits)
    log_term = unary(negated, _of_number(F.softplus), smooth.softplus)
    if pos_weight is not None:
        log_term = contents.multiply(
            log_term, contents.add(contents.multiply(contents.subtract(pos_weight, 1), target), 1)
        )
    loss = contents.add(contents.multiply(contents.subtract(1, target), logits), log_term)
    if weight is not None:
        loss = contents.multiply(loss, weight)
    return _reduce(context, loss, reduction)


@rule(aten.softplus.default)
def softplus(context: Context, operand: Content, beta: float = 1, threshold: float = 20) -> Content:
    scaled = contents.multiply(operand, beta)
    return contents.multiply(unary(scaled, _of_number(F.softplus), smooth.softplus), 1 / beta)


@rule(aten.softplus_backward.default)
def softplus_backward(context: Context, gradient: Content, operand: Content, beta: float, threshold: float) -> Content:
    return contents.multiply(gradient, sigmoid(context, contents.multiply(operand, beta)))


def _targets(context: Context, target: Any, classes: int, weight: Any, ignored: int) -> Value:
    """Class indices as one-hot rows (…, classes): bits of secret ones, an argument of public ones."""
    if weight is not None:
        raise UnsupportedOperation("class weights with class indices; give one-hot targets")
    if 0 <= ignored < classes:
        raise UnsupportedOperation(f"ignore_index={ignored}: how many rows count would depend on secrets")
    if isinstance(target, Uniform):
        target = torch.full(target.shape, int(target.number))
    if isinstance(target, torch.Tensor):
        if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < classes:
            raise InputError(f"a target is not one of the classes 0 to {classes - 1}")
        rows = F.one_hot(target.reshape(-1), classes)
        return context.recorder.argument(rows.numpy(), 1).with_total(1.0)
    return order.one_hot(linear.reshape(target, (math.prod(target.shape),)), classes)


@rule_on_plain(aten.nll_loss_forward.default)
def nll_loss(
    context: Context, log_probabilities: Any, target: Any, weight: Any, reduction: int, ignored: int
) -> tuple[Content, Content]:
    value = context.recorder.materialise(context.content(log_probabilities))
    rows = linear.reshape(value, (math.prod(value.shape[:-1]), value.shape[-1]))
    hot = _targets(context, target, value.shape[-1], weight, ignored)
    if hot.kind == Kind.PUBLIC:
        chosen = linear.sum_axes(linear.multiply(rows, hot), (-1,))
    else:
        chosen = order.pick(hot, rows)
    loss = linear.negate(chosen)
    if reduction == _NONE:
        return linear.reshape(loss, context.shape), Uniform(0.0, ())
    return _reduce(context, loss, reduction), Uniform(float(rows.shape[0]), ())


@rule_on_plain(aten.nll_loss_backward.default)
def nll_loss_backward(
    context: Context,
    gradient: Any,
    log_probabilities: Any,
    target: Any,
    weight: Any,
    reduction: int,
    ignored: int,
    total_weight: Any,
) -> Content:
    shape = context.shape
    one_hot = contents.ring(_targets(context, target, shape[-1], weight, ignored)).with_total(1.0)
    hot = linear.reshape(one_hot, shape)
    gradient = context.content(gradient)
    if reduction == _NONE:
        gradient = contents.reshape(gradient, (*contents.shape_of(gradient), 1))
    factor = contents.multiply(gradient, -1 / math.prod(shape[:-1]) if reduction == _MEAN else -1)
    return contents.multiply(hot, factor)
