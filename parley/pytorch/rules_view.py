"""Rows of the table: views and rearrangements. A view reads through its base and, where that is possible, writes
through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from parley.errors import UnsupportedOperation
from parley.functions import linear, order
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.protocols.linear import growth
from parley.pytorch import contents
from parley.pytorch.recorder import Content, Uniform
from parley.pytorch.table import Context, aten, rule, rule_on_plain, view

Moves = Callable[[Value], Value]
Pair = tuple[Callable[[Content], Content], Callable[[Value, Value], Value] | None]


def _pair(shape: Sequence[int], forward: Moves, backward: Callable[[Value, Value], Value] | None) -> Pair:
    """A view by functions on recorded values; a uniform content only changes its shape."""

    def read(content: Content) -> Content:
        return Uniform(content.number, tuple(shape)) if isinstance(content, Uniform) else forward(content)

    return read, backward


@view(aten.detach.default, aten.alias.default)
def alias(source: torch.Tensor, result: torch.Tensor) -> None:
    return None


@view(
    aten.view.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
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
    forth = tuple(axis % source.ndim for axis in axes)
    inverse = tuple(int(axis) for axis in np.argsort(forth))
    return _pair(result.shape, lambda x: linear.transpose(x, forth), lambda base, new: linear.transpose(new, inverse))


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
        if size == 0:
            return base
        new = linear.reshape(new, part)
        if step != 1:
            rows = np.arange(full[axis])
            rows[start : start + step * size : step] = full[axis] + np.arange(size)
            return linear.gather(_join([base, new], axis), axis, base.builder.constant(rows))
        before = linear.take_range(base, axis, 0, start)
        after = linear.take_range(base, axis, start + size, full[axis] - start - size)
        return _join([piece for piece in (before, new, after) if piece.shape[axis]], axis)

    return _pair(tuple(result.shape), forward, backward)


def _join(parts: Sequence[Value], axis: int) -> Value:
    """Concatenation, of bits or of ring values; the finest scale that the ring has room for."""
    if any(part.kind == Kind.BITS for part in parts) and not all(part.kind == Kind.BITS for part in parts):
        parts = [contents.ring(part) for part in parts]
    if parts[0].kind != Kind.BITS:
        finest = max(part.scale for part in parts)
        if any(part.type.bound + finest - part.scale > linear.RING_BITS for part in parts):
            parts = [linear.factor(part) for part in parts]
    return linear.concatenate(parts, axis)


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
    kept = [context.recorder.materialise(part) if isinstance(part, Uniform) else part for part in parts]
    kept = [part for part in kept if part.shape != (0,)] or kept[:1]  # PyTorch lets empty vectors join anything
    return _join(kept, axis)


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
def flip(context: Context, operand: Value, axes: Sequence[int]) -> Content:
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


# Positions: where elements come from is public, and PyTorch itself says it, by moving the numbers 0, 1, 2, …


def _positions(shape: Sequence[int], first: int = 0) -> torch.Tensor:
    return torch.arange(first, first + math.prod(shape)).reshape(tuple(shape))


def _flat(value: Value) -> Value:
    return linear.reshape(value, (value.type.elements,))


def _argument(context: Context, positions: torch.Tensor, size: int) -> Value:
    """Positions below `size` as an argument of the plan, so that a loop over batches repeats one plan."""
    return context.recorder.argument(positions.reshape(-1).numpy().astype(np.int64), size.bit_length())


def _taken(context: Context, operand: Content, positions: torch.Tensor) -> Content:
    value = context.recorder.materialise(operand) if isinstance(operand, Uniform) else operand
    index = _argument(context, positions, value.type.elements)
    return linear.reshape(linear.gather(_flat(value), 0, index), tuple(positions.shape))


def _placed(context: Context, base: Content, new: Content, place: Callable[[torch.Tensor, torch.Tensor], Any]) -> Value:
    """The base with elements of `new` where `place` puts them: (positions in base, positions in new) → mixture."""
    first, second = (context.recorder.materialise(part) if isinstance(part, Uniform) else part for part in (base, new))
    count = first.type.elements
    mixed = place(_positions(first.shape), _positions(second.shape, count))
    index = _argument(context, mixed, count + second.type.elements)
    return linear.reshape(linear.gather(_join([_flat(first), _flat(second)], 0), 0, index), first.shape)


def _added(context: Context, base: Content, new: Content, positions: torch.Tensor) -> Content:
    """The base with the elements of `new` added at positions, which may repeat."""
    value = contents.ring(context.recorder.materialise(contents.expand(new, tuple(positions.shape))))
    size = math.prod(contents.shape_of(base))
    value = linear.with_room(linear.shared(value), growth(max(value.type.elements, 1)))
    total = linear.scatter_add(_flat(value), 0, _argument(context, positions, size), size)
    return contents.add(base, linear.reshape(total, contents.shape_of(base)))


def _plain_index(index: Any) -> torch.Tensor:
    if isinstance(index, Uniform):
        return torch.full(index.shape, int(index.number))
    if isinstance(index, Value):
        raise UnsupportedOperation("a secret index; compare with one-hot positions instead")
    assert isinstance(index, torch.Tensor)
    if index.dtype in (torch.bool, torch.uint8):
        raise UnsupportedOperation("a mask as index: give the positions, mask.nonzero(), or use torch.where")
    return index.long()


def _gathered(context: Context, operand: Content, axis: int, index: torch.Tensor) -> Content:
    """Rows of one axis; the axis becomes the axes of `index`."""
    if isinstance(operand, Uniform):
        return Uniform(operand.number, context.shape)
    size = operand.shape[axis]
    if index.numel() and (int(index.min()) < -size or int(index.max()) >= size):
        raise IndexError(f"an index is out of bounds for dimension {axis} with size {size}")
    rows = _argument(context, torch.where(index < 0, index + size, index), size)
    return linear.reshape(linear.gather(operand, axis, rows), context.shape)


@rule_on_plain(aten.index_select.default)
def index_select(context: Context, operand: Content, axis: int, index: Any) -> Content:
    if not contents.shape_of(operand):
        return operand
    return _gathered(context, operand, axis % len(contents.shape_of(operand)), _plain_index(index))


def _key(indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else _plain_index(index) for index in indices)


@rule_on_plain(aten.index.Tensor)
def index(context: Context, operand: Content, indices: Sequence[Any]) -> Content:
    key = _key(indices)
    tensors = [(axis, item) for axis, item in enumerate(key) if isinstance(item, torch.Tensor)]
    if len(tensors) == 1:
        return _gathered(context, operand, *tensors[0])
    return _taken(context, operand, _positions(contents.shape_of(operand))[key])


@rule_on_plain(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(context: Context, base: Any, indices: Sequence[Any], new: Any, accumulate: bool = False) -> Content:
    base, new, key = context.content(base), context.content(new), _key(indices)
    if accumulate:
        return _added(context, base, new, _positions(context.shape)[key])
    return _placed(context, base, new, lambda old, added: old.index_put(_tensors(key), added))


def _tensors(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """An index as aten.index_put takes it: None where an axis is whole."""
    return tuple(item if isinstance(item, torch.Tensor) else None for item in key)


@rule_on_plain(aten.gather.default)
def gather(context: Context, operand: Any, axis: int, index: Any, sparse_grad: bool = False) -> Content:
    operand = context.content(operand)
    return _taken(context, operand, _positions(contents.shape_of(operand)).gather(axis, _plain_index(index)))


@rule_on_plain(aten.index_add.default)
def index_add(context: Context, base: Any, axis: int, index: Any, new: Any, alpha: float = 1) -> Content:
    base, new = context.content(base), contents.multiply(context.content(new), alpha)
    return _added(context, base, new, _positions(context.shape).index_select(axis, _plain_index(index)))


@rule_on_plain(aten.scatter_add.default)
def scatter_add(context: Context, base: Any, axis: int, index: Any, new: Any) -> Content:
    base, new, chosen = context.content(base), context.content(new), _plain_index(index)
    part = _pair_of_part(contents.shape_of(new), chosen.shape)(new)
    return _added(context, base, part, _positions(context.shape).gather(axis, chosen))


def _pair_of_part(shape: Sequence[int], part: Sequence[int]) -> Callable[[Content], Content]:
    """The leading corner of that shape."""

    def corner(value: Value) -> Value:
        return linear.slice_axes(value, [0] * len(part), list(part), [1] * len(part))

    return _pair(part, corner, None)[0]


@rule_on_plain(aten.scatter.src)
def scatter(context: Context, base: Any, axis: int, index: Any, new: Any) -> Content:
    if isinstance(index, Value):
        return _scatter_one(context, context.content(base), axis, index, context.content(new))
    return _placed(
        context,
        context.content(base),
        context.content(new),
        lambda old, added: old.scatter(axis, _plain_index(index), added),
    )


def _scatter_one(context: Context, base: Content, axis: int, index: Value, new: Content) -> Content:
    """One element a row, at a secret position (the gradient of a maximum)."""
    axis %= max(len(context.shape), 1)
    rest = (*context.shape[:axis], 1, *context.shape[axis + 1 :])
    if not index.shape or index.shape != rest or contents.shape_of(new) != rest:
        raise UnsupportedOperation("several secret indices a row; compare with one-hot positions instead")
    classes = context.shape[axis]
    last = linear.reshape(index, (*index.shape[:axis], *index.shape[axis + 1 :]))
    rank = len(rest)
    order_of_axes = (*range(axis), rank - 1, *range(axis, rank - 1))
    hot = linear.transpose(order.one_hot(last, classes), order_of_axes)
    gap = contents.subtract(contents.expand(new, context.shape), base)
    chosen = contents.multiply(hot, gap)
    return contents.add(base, chosen)


# What goes back through a view: zeros around


@rule(aten.slice_backward.default)
def slice_backward(
    context: Context, gradient: Value, shape: Sequence[int], axis: int, start: int, stop: int, step: int
) -> Content:
    if step != 1:
        zeros = Uniform(0.0, context.shape)
        return _placed(
            context, zeros, gradient, lambda old, new: torch.slice_scatter(old, new, axis, start, stop, step)
        )
    begin, _, _ = slice(start, stop).indices(shape[axis])
    return _padded(context, gradient, axis, begin)


@rule(aten.select_backward.default)
def select_backward(context: Context, gradient: Value, shape: Sequence[int], axis: int, index: int) -> Content:
    axis %= len(shape)
    row = (*shape[:axis], 1, *shape[axis + 1 :])
    return _padded(context, linear.reshape(gradient, row), axis, index % shape[axis])


def _padded(context: Context, part: Value, axis: int, start: int) -> Content:
    before, after = [0] * len(part.shape), [0] * len(part.shape)
    before[axis], after[axis] = start, context.shape[axis] - start - part.shape[axis]
    return linear.pad(part, before, after)


@rule(aten.diagonal_backward.default)
def diagonal_backward(
    context: Context, gradient: Value, shape: Sequence[int], offset: int, first: int, second: int
) -> Content:
    zeros = Uniform(0.0, context.shape)
    return _placed(context, zeros, gradient, lambda old, new: torch.diagonal_scatter(old, new, offset, first, second))


@rule(aten.unfold_backward.default)
def unfold_backward(
    context: Context, gradient: Value, shape: Sequence[int], axis: int, size: int, step: int
) -> Content:
    return _added(context, Uniform(0.0, context.shape), gradient, _positions(shape).unfold(axis, size, step))


@rule(aten.repeat.default)
def repeat(context: Context, operand: Value, times: Sequence[int]) -> Content:
    return _taken(context, operand, _positions(operand.shape).repeat(*times))


@rule(aten.roll.default)
def roll(context: Context, operand: Value, shifts: Any, axes: Any = ()) -> Content:
    return _taken(context, operand, torch.roll(_positions(operand.shape), shifts, axes))


def _view_by_positions(operation: Any, source: torch.Tensor, result: torch.Tensor, *arguments: Any) -> Pair:
    before, after = tuple(source.shape), tuple(result.shape)
    seen = operation(_positions(before), *arguments)

    def forward(value: Value) -> Value:
        return linear.reshape(linear.gather(_flat(value), 0, value.builder.constant(seen.reshape(-1).numpy())), after)

    def backward(base: Value, new: Value) -> Value:
        mixed = _positions(before)
        operation(mixed, *arguments).copy_(_positions(after, mixed.numel()))
        rows = base.builder.constant(mixed.reshape(-1).numpy())
        return linear.reshape(linear.gather(_join([_flat(base), _flat(new)], 0), 0, rows), before)

    return _pair(after, forward, backward)


view(aten.diagonal.default)(partial(_view_by_positions, aten.diagonal.default))
view(aten.unfold.default)(partial(_view_by_positions, aten.unfold.default))
