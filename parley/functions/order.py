"""Comparison, selection, maximum (protocols.md, sections 5 and 6).

Truth values are `bits` with one plane. A comparison is three rounds: the opening of the difference (which other uses
share), and two to fold the chunks. At width 64 it moves 8 + 4.25 bytes an element to each peer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from parley.errors import InputError
from parley.functions import linear
from parley.functions.linear import fraction_bits, masked
from parley.plan.builder import Value
from parley.plan.graph import Kind
from parley.protocols.comparison import chunks

FOLD = 4
"""Bits that one opening multiplies; the dealer's corrections grow as 2^FOLD."""
ALL_PAIRS = 12
"""Up to so many values every pair is compared at once; above, in blocks of BLOCK whose winners play on."""
BLOCK = 8


# Bits


def planes(bits: Value, indices: Sequence[int], negate: Sequence[int] | None = None) -> Value:
    if list(indices) == list(range(bits.type.planes)) and not any(negate or ()):
        return bits
    return bits.builder.add("planes", bits, indices=tuple(indices), negate=tuple(negate or (0,) * len(indices)))


def logical_not(bits: Value) -> Value:
    return planes(bits, range(bits.type.planes), (1,) * bits.type.planes)


def logical_xor(left: Value, right: Value) -> Value:
    """No round."""
    left, right = _same_shape(left, right)
    return left.builder.add("xor", left, right)


def logical_and(left: Value, right: Value) -> Value:
    """One round."""
    return and_planes(left.builder.add("join_planes", *_same_shape(left, right)))


def logical_or(left: Value, right: Value) -> Value:
    """One round."""
    return logical_not(logical_and(logical_not(left), logical_not(right)))


def _same_shape(left: Value, right: Value) -> tuple[Value, Value]:
    shape = np.broadcast_shapes(left.shape, right.shape)
    return linear.expand(left, shape), linear.expand(right, shape)


def open_bits(bits: Value) -> Value:
    return bits if bits.kind == Kind.MASKED_BITS else bits.builder.add("open_bits", bits)


def and_planes(bits: Value) -> Value:
    """The conjunction of all planes: ⌈log4 planes⌉ rounds."""
    while bits.type.planes > 1:
        parts = []
        start = 0
        for size, count in _group_sizes(bits.type.planes):
            run = planes(bits, range(start, start + size * count))
            start += size * count
            if size > 1:
                monomials = ((tuple(range(size)),),)
                run = run.builder.add("bit_polynomial", open_bits(run), groups=count, outputs=monomials)
            parts.append(run)
        bits = parts[0] if len(parts) == 1 else bits.builder.add("join_planes", *parts)
    return bits


def _group_sizes(items: int) -> list[tuple[int, int]]:
    """`items` in ⌈items/FOLD⌉ groups of nearly equal size: (size, how many), larger ones first."""
    groups = -(-items // FOLD)
    size, larger = divmod(items, groups)
    return [(s, c) for s, c in ((size + 1, larger), (size, groups - larger)) if c]


# Comparison


def below(value: Value, thresholds: Sequence[int]) -> Value:
    """Bits [value < τ] for public thresholds given as integers at the value's scale; shape (len(thresholds), *shape).

    Three rounds, the first being the opening; its bytes do not depend on the number of thresholds, the fold's do.
    """
    opened = masked(value)
    count = chunks(_width(value))
    words = value.builder.add("words", _at_width(opened, _width(value)), thresholds=tuple(thresholds))
    equal = planes(words, range(count))
    less = planes(words, range(count, 2 * count))
    return logical_xor(_fold(equal, less), planes(words, (2 * count,)))


def _width(value: Value) -> int:
    """Bits in which a value must be known to be compared."""
    return min(value.type.bound + 2, 64)


def _at_width(opened: Value, width: int) -> Value:
    """The masked value in a ring no wider than needed, so that fewer chunks are compared."""
    return opened if opened.type.width <= width else opened.builder.add("narrow", opened, width=width)


def _fold(equal: Value, less: Value) -> Value:
    """[a < r] from the planes eq_0 … and lt_0 … (chunk 0 the lowest), folding groups of four chunks at a time."""
    builder = equal.builder
    while less.type.planes > 1:
        count = less.type.planes
        last = count <= FOLD
        equals, lesses = [], []
        start = 0
        for size, groups in _group_sizes(count):
            chosen = [range(start + group * size, start + (group + 1) * size) for group in range(groups)]
            start += size * groups
            top = planes(less, [group[-1] for group in chosen])
            if size == 1:
                equals.append(planes(equal, [group[0] for group in chosen]))
                lesses.append(top)
                continue
            # A run: eq from the top chunk down (without the lowest at the last level), then lt below the top chunk.
            run = []
            for group in chosen:
                descending = list(reversed(group))
                run += [(0, chunk) for chunk in (descending[:-1] if last else descending)]
                run += [(1, chunk) for chunk in descending[1:]]
            joined = builder.add("join_planes", equal, less)
            opened = open_bits(planes(joined, [chunk + which * count for which, chunk in run]))
            first_less = size - 1 if last else size
            monomials = tuple((*range(k + 1), first_less + k) for k in range(size - 1))
            outputs = (monomials,) if last else (monomials, (tuple(range(size)),))
            folded = builder.add("bit_polynomial", opened, groups=groups, outputs=outputs)
            step = len(outputs)
            lesses.append(logical_xor(planes(folded, range(0, groups * step, step)), top))
            if not last:
                equals.append(planes(folded, range(1, groups * step, step)))
        less = lesses[0] if len(lesses) == 1 else builder.add("join_planes", *lesses)
        if not last:
            equal = equals[0] if len(equals) == 1 else builder.add("join_planes", *equals)
    return less


def negative(value: Value) -> Value:
    """Bits [value < 0], of the value's shape."""
    return linear.reshape(below(value, (0,)), value.shape)


def less(left: Value, right: Value) -> Value:
    """Bits [left < right] with broadcasting."""
    return negative(difference(left, right))


def difference(left: Value, right: Value) -> Value:
    """left − right, kept masked where both are open already, so that it costs no opening of its own."""
    left, right = linear.align(left, right)
    return linear.subtract(left, right)


def equal_zero(value: Value) -> Value:
    """Bits [value == 0]: [value < 1] ⊕ [value < 0], from one opening."""
    bits = below(value, (0, 1))
    first = linear.take_range(bits, 0, 0, 1)
    second = linear.take_range(bits, 0, 1, 1)
    return linear.reshape(logical_xor(first, second), value.shape)


def threshold(value: Value, number: float) -> int:
    """The smallest integer t at the value's scale with t·2^-scale ≥ number: value < number exactly if its integer is
    below t."""
    if not math.isfinite(number):
        raise InputError(f"comparison with {number}")
    return math.ceil(math.ldexp(number, value.scale))


def less_scalar(value: Value, number: float) -> Value:
    """Bits [value < number]."""
    return _one_threshold(value, threshold(value, number))


def less_equal_scalar(value: Value, number: float) -> Value:
    """Bits [value <= number]."""
    return _one_threshold(value, math.floor(math.ldexp(number, value.scale)) + 1)


def _one_threshold(value: Value, integer: int) -> Value:
    return linear.reshape(below(value, (_within_bound(value, integer),)), value.shape)


def _within_bound(value: Value, integer: int) -> int:
    """A threshold beyond the value's bound, moved to the bound: the answer is the same."""
    limit = 1 << value.type.bound
    return max(-limit, min(limit, integer))


# Selection


def to_ring(bits: Value) -> Value:
    """0 or 1 as an integer value (scale 0): one round."""
    return bits.builder.add("bit_to_ring", open_bits(bits))


def select(bits: Value, value: Value) -> Value:
    """value where the bit is 1, else 0: one round; a product is rescaled on the way, at no further round."""
    cut = max(value.scale - fraction_bits(value), 0)
    if value.kind == Kind.PUBLIC:
        return linear.multiply(to_ring(bits), value)
    return bits.builder.add("select", open_bits(bits), masked(value), bits=cut)


def where(bits: Value, left: Value, right: Value) -> Value:
    """left where the bit is 1, else right."""
    return linear.add(right, select(bits, difference(left, right)))


def relu(value: Value) -> tuple[Value, Value]:
    """max(value, 0) and the bits [value > 0]: four rounds from a product, its rescaling included."""
    positive = logical_not(_one_threshold(value, 1))
    return select(positive, value), positive


def absolute(value: Value) -> Value:
    """|value|."""
    cut = linear.factor(value)
    return linear.subtract(cut, linear.multiply_scalar(select(negative(cut), cut), 2))


def sign(value: Value) -> Value:
    """−1, 0 or 1 (scale 0)."""
    bits = to_ring(below(value, (0, 1)))
    first = linear.reshape(linear.take_range(bits, 0, 0, 1), value.shape)
    second = linear.reshape(linear.take_range(bits, 0, 1, 1), value.shape)
    ones = linear.constant(value, np.ones(value.shape), 0)
    return linear.subtract(linear.subtract(ones, second), first)


def clamp(value: Value, low: float | None, high: float | None) -> Value:
    """min(max(value, low), high); None leaves a side open."""
    value = linear.factor(value)
    if low is not None and high is not None and low > high:
        low = high
    limits = [(number, side) for number, side in ((low, -1), (high, 1)) if number is not None]
    if not limits:
        return value
    bits = below(value, [_within_bound(value, threshold(value, number)) for number, _ in limits])
    result = value
    for position, (number, side) in enumerate(limits):
        outside = linear.reshape(linear.take_range(bits, 0, position, 1), value.shape)
        outside = logical_not(outside) if side > 0 else outside
        gap = linear.add_scalar(linear.negate(masked(value)), number)
        result = linear.add(result, select(outside, gap))
    return result


def maximum(left: Value, right: Value) -> Value:
    """Elementwise larger value."""
    return where(logical_not(less(left, right)), left, right)


def minimum(left: Value, right: Value) -> Value:
    """Elementwise smaller value."""
    return where(less(left, right), left, right)


# Maximum along the last axis


def argmax_bits(value: Value) -> Value:
    """One-hot bits of the largest element along the last axis; of equal ones, the first."""
    size = value.shape[-1]
    if size == 0:
        raise InputError("the maximum of no elements")
    if size == 1:
        return value.builder.add("constant_bits", shape=value.shape, bit=1)
    if size <= ALL_PAIRS:
        return _argmax_all_pairs(value)
    winners, blocks = [], []
    for start in range(0, size, BLOCK):
        block = linear.take_range(value, -1, start, min(BLOCK, size - start))
        winner, bits = max_last(block, keepdims=True)
        blocks.append(bits)
        winners.append(linear.factor(winner))
    across = argmax_bits(linear.concatenate(winners, -1))
    parts = [logical_and(bits, linear.take_range(across, -1, number, 1)) for number, bits in enumerate(blocks)]
    return linear.concatenate(parts, -1)


def _argmax_all_pairs(value: Value) -> Value:
    size = value.shape[-1]
    pairs = list(combinations(range(size), 2))
    opened = masked(value)
    builder = value.builder
    first = linear.gather(opened, -1, builder.constant([i for i, _ in pairs]))
    second = linear.gather(opened, -1, builder.constant([j for _, j in pairs]))
    smaller = negative(builder.add("subtract", first, second))  # [x_i < x_j] for i < j, no opening of its own
    number = {pair: position for position, pair in enumerate(pairs)}
    indices, negate = [], []
    for plane in range(size - 1):
        for element in range(size):
            other = plane if plane < element else plane + 1
            indices.append(number[min(element, other), max(element, other)])
            negate.append(int(element < other))
    wins = builder.add("arrange", smaller, planes=size - 1, indices=tuple(indices), negate=tuple(negate))
    return and_planes(wins)


def pick(one_hot: Value, value: Value, keepdims: bool = False) -> Value:
    """The element of the last axis that the one-hot bits mark: one round."""
    return linear.sum_axes(select(one_hot, value), (-1,), keepdims)


def max_last(value: Value, keepdims: bool = False) -> tuple[Value, Value]:
    """The largest element along the last axis, and the one-hot bits of where it is."""
    bits = argmax_bits(value)
    if value.shape[-1] == 1:
        return (value if keepdims else linear.reshape(value, value.shape[:-1])), bits
    return pick(bits, value, keepdims), bits


def index_of(one_hot: Value) -> Value:
    """The position of the one among one-hot bits along the last axis, as an integer value: one round."""
    size = one_hot.shape[-1]
    weights = one_hot.builder.constant(np.arange(size))
    return linear.sum_axes(linear.multiply(to_ring(one_hot), weights), (-1,))


def one_hot(index: Value, classes: int) -> Value:
    """Bits (…, classes) with a one at the secret integer `index` (scale 0); all zero where it is out of range.

    The thresholds 0 … classes are compared from one opening.
    """
    if index.scale != 0:
        raise InputError("a class index must be an integer")
    bits = below(index, range(classes + 1))  # [index < t]
    rank = len(bits.shape)
    lower = linear.take_range(bits, 0, 0, classes)
    upper = linear.take_range(bits, 0, 1, classes)
    return linear.transpose(logical_xor(lower, upper), (*range(1, rank), 0))
