"""Rows of the table: views and rearrangements. A view reads through its base and, where that is possible, writes
through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from parley.errors import UnsupportedOperation
from parley.functions import linear
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.pytorch import contents
from parley.pytorch.recorder import Content, Uniform
from parley.pytorch.table import Context, aten, rule, view

Pair = tuple[Callable[[Content], Content], Callable[[Content, Content], Content] | None]
Moves = Callable[[Value], Value]


def _pair(shape: Sequence[int], forward: Moves, backward: Callable[[Value, Value], Value] | None) -> Pair:
    """A view by functions on recorded values; uniform contents only change their shape."""

    def read(content: Content) -> Content:
        return Uniform(content.number, tuple(shape)) if isinstance(content, Uniform) else forward(content)

    if backward is None:
        return read, None

    def write(base: Content, new: Content) -> Content:
        if (
            isinstance(base, Uniform)
            and isinstance(new, Uniform)
            and (base.number == new.number or base.shape == new.shape)
        ):
            return Uniform(new.number, base.shape)
        if isinstance(new, Uniform) or isinstance(base, Uniform):
            recorder_base, recorder_new = _both_recorded(base, new)
            return backward(recorder_base, recorder_new)
        return backward(base, new)

    return read, write


def _both_recorded(base: Content, new: Content) -> tuple[Value, Value]:
    known = base if isinstance(base, Value) else new
    assert isinstance(known, Value)

    def recorded(content: Content) -> Value:
        if isinstance(content, Value):
            return content
        return linear.constant(known, np.full(content.shape, content.number), max(known.scale, 0))

    return recorded(base), recorded(new)


@view(aten.detach.default, aten.alias.default)
def alias(source: torch.Tensor, result: torch.Tensor) -> None:
    return None


@view(
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def reshape(source: torch.Tensor, result: torch.Tensor, *arguments: Any) -> Pair:
    before, after = tuple(source.shape), tuple(result.shape)
    return _pair(after, lambda x: linear.reshape(x, after), lambda base, new: linear.reshape(new, before))


@view(aten.t.default)
def transpose_matrix(source: torch.Tensor, result: torch.Tensor) -> Pair:
    return permute(source, result, tuple(reversed(range(source.ndim))))


@view(aten.transpose.int)
def transpose(source: torch.Tensor, result: torch.Tensor, first: int, second: int) -> Pair:
    axes = list(range(source.ndim))
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    return permute(source, result, axes)


@view(aten.permute.default)
def permute(source: torch.Tensor, result: torch.Tensor, axes: Sequence[int]) -> Pair:
    order = tuple(axis % source.ndim for axis in axes)
    inverse = tuple(int(axis) for axis in np.argsort(order))
    return _pair(result.shape, lambda x: linear.transpose(x, order), lambda base, new: linear.transpose(new, inverse))


@view(aten.expand.default)
def expand(source: torch.Tensor, result: torch.Tensor, shape: Sequence[int], implicit: bool = False) -> Pair:
    return _pair(result.shape, lambda x: linear.expand(x, tuple(result.shape)), None)


def _part(source: torch.Tensor, result: torch.Tensor, axis: int, start: int, size: int, step: int = 1) -> Pair:
    """Elements start, start+step, … of one axis, in the shape of `result`."""
    axis %= source.ndim
    full = tuple(source.shape)
    part = (*full[:axis], size, *full[axis + 1 :])

    def forward(value: Value) -> Value:
        return linear.reshape(linear.take_range(value, axis, start, size, step), tuple(result.shape))

    def backward(base: Value, new: Value) -> Value:
        if step != 1:
            raise UnsupportedOperation("writing in place through a slice with a step")
        base, new = _one_kind(base, linear.reshape(new, part))
        pieces = [
            linear.take_range(base, axis, 0, start),
            new,
            linear.take_range(base, axis, start + size, full[axis] - start - size),
        ]
        return linear.concatenate([piece for piece in pieces if piece.shape[axis]], axis)

    return _pair(tuple(result.shape), forward, backward)


def _one_kind(base: Value, new: Value) -> tuple[Value, Value]:
    if (base.kind == Kind.BITS) != (new.kind == Kind.BITS):
        return contents.ring(base), contents.ring(new)
    return base, new


@view(aten.slice.Tensor)
def slice_axis(
    source: torch.Tensor,
    result: torch.Tensor,
    axis: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Pair:
    begin, _, _ = slice(start, stop, step).indices(source.shape[axis])
    return _part(source, result, axis, begin, result.shape[axis], step)


@view(aten.select.int)
def select(source: torch.Tensor, result: torch.Tensor, axis: int, index: int) -> Pair:
    return _part(source, result, axis, index % source.shape[axis], 1)


@view(aten.split.Tensor, aten.split_with_sizes.default)
def split(source: torch.Tensor, results: Sequence[torch.Tensor], sizes: Any, axis: int = 0) -> list[Pair]:
    pairs, start = [], 0
    for result in results:
        pairs.append(_part(source, result, axis, start, result.shape[axis]))
        start += result.shape[axis]
    return pairs


@view(aten.unbind.int)
def unbind(source: torch.Tensor, results: Sequence[torch.Tensor], axis: int = 0) -> list[Pair]:
    return [_part(source, result, axis, position, 1) for position, result in enumerate(results)]


# Copies


@rule(aten.cat.default)
def concatenate(context: Context, parts: Sequence[Content], axis: int = 0) -> Content:
    if all(isinstance(part, Uniform) for part in parts) and len({part.number for part in parts}) == 1:  # type: ignore[union-attr]
        return Uniform(parts[0].number, context.shape)  # type: ignore[union-attr]
    kept = [context.recorder.materialise(part) if isinstance(part, Uniform) else part for part in parts]
    kept = [part for part in kept if part.shape != (0,)] or kept[:1]  # PyTorch lets empty vectors join anything
    if any(part.kind == Kind.BITS for part in kept) and not all(part.kind == Kind.BITS for part in kept):
        kept = [contents.ring(part) for part in kept]
    return linear.concatenate(kept, axis)


@rule(aten.stack.default)
def stack(context: Context, parts: Sequence[Content], axis: int = 0) -> Content:
    rank = len(contents.shape_of(parts[0])) + 1
    axis %= rank

    def grown(part: Content) -> Content:
        shape = contents.shape_of(part)
        longer = (*shape[:axis], 1, *shape[axis:])
        return Uniform(part.number, longer) if isinstance(part, Uniform) else linear.reshape(part, longer)

    return concatenate(context, [grown(part) for part in parts], axis)


@rule(aten.flip.default)
def flip(context: Context, operand: Content, axes: Sequence[int]) -> Content:
    if isinstance(operand, Uniform):
        return operand
    return linear.flip(operand, [axis % len(operand.shape) for axis in axes])


@rule(aten.constant_pad_nd.default)
def pad(context: Context, operand: Content, padding: Sequence[int], number: float = 0) -> Content:
    value = context.recorder.materialise(operand)
    rank = len(value.shape)
    before, after = [0] * rank, [0] * rank
    for position in range(len(padding) // 2):
        before[rank - 1 - position], after[rank - 1 - position] = padding[2 * position], padding[2 * position + 1]
    starts = [max(-size, 0) for size in before]
    sizes = [size - start - max(-end, 0) for size, start, end in zip(value.shape, starts, after, strict=True)]
    value = linear.slice_axes(value, starts, sizes, [1] * rank)
    shifted = linear.add_scalar(value, -number)
    padded = linear.pad(shifted, [max(size, 0) for size in before], [max(size, 0) for size in after])
    return linear.add_scalar(padded, number)


def _index(context: Context, index: Content) -> Value:
    """Public indices of rows; secret ones have no lowering here."""
    if isinstance(index, Uniform):
        return context.recorder.builder.constant(np.full(index.shape, int(index.number), dtype=np.int64))
    if index.kind != Kind.PUBLIC:
        raise UnsupportedOperation("a secret index; compare with one-hot positions instead")
    return index


@rule(aten.index_select.default)
def index_select(context: Context, operand: Content, axis: int, index: Content) -> Content:
    if isinstance(operand, Uniform):
        return Uniform(operand.number, context.shape)
    return linear.gather(operand, axis, _index(context, index))


@rule(aten.index.Tensor)
def index(context: Context, operand: Content, indices: Sequence[Content | None]) -> Content:
    if isinstance(operand, Uniform):
        return Uniform(operand.number, context.shape)
    given = [(axis, item) for axis, item in enumerate(indices) if item is not None]
    if len(given) != 1:
        raise UnsupportedOperation("indexing with several index tensors at once")
    axis, chosen = given[0]
    rows = _index(context, chosen)
    if len(rows.shape) == 1:
        return linear.gather(operand, axis, rows)
    flat = linear.gather(operand, axis, linear.reshape(rows, (rows.type.elements,)))
    return linear.reshape(flat, context.shape)
