"""Comparison, selection and maximum: exact, for any shape, with ties, up to the edge of the range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parley.errors import InputError
from parley.functions import linear, order
from parley.plan.builder import Precision
from parley.runtime.evaluate import evaluate

UNIT = 2.0**-16
EDGE = 2.0**15
EXAMPLES = settings(max_examples=20, deadline=None)

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)


def values(seed, shape):
    """Small numbers, neighbours, ties, and the edges of the range."""
    generator = np.random.default_rng(seed)
    special = [0.0, UNIT, -UNIT, 1.0, -1.0, 1 + UNIT, EDGE, -EDGE, EDGE - UNIT, UNIT - EDGE, 2 * EDGE - UNIT]
    chosen = generator.choice(special, size=shape)
    real = np.rint(generator.normal(size=shape) * 100 / UNIT) * UNIT
    return np.where(generator.random(shape) < 0.5, chosen, real)


def partner(shape, seed):
    """A shape that broadcasts with `shape`."""
    generator = np.random.default_rng(seed)
    kept = [size if generator.random() < 0.6 else 1 for size in shape]
    return tuple(kept[generator.integers(0, len(kept) + 1) :])


def result(function, *arguments, **options):
    return evaluate(function, *arguments, **options).results[0]


def ring(bits):
    return order.to_ring(bits)


@EXAMPLES
@given(shapes, seeds, st.integers(2, 5))
def test_comparisons_with_broadcasting(shape, seed, parties):
    x, y = values(seed, shape), values(seed + 1, partner(shape, seed))
    x = np.where(np.random.default_rng(seed).random(shape) < 0.3, np.broadcast_to(y, shape), x)  # ties
    less, at_least, equal, largest, smallest = evaluate(
        lambda a, b: (
            ring(order.less(a, b)),
            ring(order.logical_not(order.less(a, b))),
            ring(order.equal_zero(linear.subtract(a, b))),
            order.maximum(a, b),
            order.minimum(a, b),
        ),
        x,
        y,
        parties=parties,
    ).results
    np.testing.assert_array_equal(less, x < y)
    np.testing.assert_array_equal(at_least, x >= y)
    np.testing.assert_array_equal(equal, x == y)
    np.testing.assert_array_equal(largest, np.maximum(x, y))
    np.testing.assert_array_equal(smallest, np.minimum(x, y))


@EXAMPLES
@given(shapes, seeds, st.sampled_from([0.0, 1.0, -1.0, 0.3, UNIT, -UNIT, EDGE, -EDGE, 1e9, -1e9]))
def test_comparison_with_a_public_number(shape, seed, number):
    x = values(seed, shape)
    below, not_above = evaluate(
        lambda a: (ring(order.less_scalar(a, number)), ring(order.less_equal_scalar(a, number))), x
    ).results
    np.testing.assert_array_equal(below, x < number)
    np.testing.assert_array_equal(not_above, x <= number)


@EXAMPLES
@given(shapes, seeds, st.lists(st.integers(-(2**32), 2**32), min_size=1, max_size=6))
def test_many_thresholds_from_one_opening(shape, seed, thresholds):
    x = values(seed, shape)
    evaluation = evaluate(lambda a: ring(order.below(a, thresholds)), x)
    integers = np.ldexp(x, 16)
    np.testing.assert_array_equal(evaluation.results[0], np.stack([integers < threshold for threshold in thresholds]))
    assert evaluation.cost.rounds == 1 + 2 + 1 + 1


@EXAMPLES
@given(shapes, seeds)
def test_relu_absolute_sign_clamp(shape, seed):
    x = values(seed, shape)
    relu, absolute, sign, clamped, capped, same = evaluate(
        lambda a: (
            order.relu(a)[0],
            order.absolute(a),
            order.sign(a),
            order.clamp(a, -1.0, 1.5),
            order.clamp(a, None, 2.0),
            order.clamp(a, None, None),
        ),
        x,
    ).results
    np.testing.assert_array_equal(relu, np.maximum(x, 0))
    np.testing.assert_array_equal(absolute, np.abs(x))
    np.testing.assert_array_equal(sign, np.sign(x))
    np.testing.assert_array_equal(clamped, np.clip(x, -1, 1.5))
    np.testing.assert_array_equal(capped, np.minimum(x, 2))
    np.testing.assert_array_equal(same, x)


def test_clamp_with_crossed_limits_is_the_upper_one():
    x = np.array([-5.0, 0.0, 5.0])
    np.testing.assert_array_equal(result(lambda a: order.clamp(a, 2.0, 1.0), x), np.full(3, 1.0))


def test_relu_of_a_product_rescales_on_the_way():
    x, y = np.linspace(-30, 30, 61), np.linspace(20, 1, 61)
    evaluation = evaluate(lambda a, b: order.relu(linear.multiply(a, b))[0], x, y)
    np.testing.assert_allclose(evaluation.results[0], np.maximum(x * y, 0), atol=1e-3)
    assert evaluation.cost.rounds == 1 + 4 + 1


@EXAMPLES
@given(st.integers(1, 30), st.integers(1, 4), seeds, st.integers(2, 4))
def test_maximum_of_rows_with_ties(size, rows, seed, parties):
    generator = np.random.default_rng(seed)
    x = generator.integers(-3, 4, (rows, size)).astype(float) * generator.choice([UNIT, 1.0, EDGE / 4])
    largest, kept, marked, index = evaluate(
        lambda a: (
            order.max_last(a)[0],
            order.max_last(a, keepdims=True)[0],
            ring(order.max_last(a)[1]),
            order.index_of(order.argmax_bits(a)),
        ),
        x,
        parties=parties,
    ).results
    np.testing.assert_array_equal(largest, x.max(axis=1))
    np.testing.assert_array_equal(kept, x.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(marked, np.arange(size) == x.argmax(axis=1)[:, np.newaxis])
    np.testing.assert_array_equal(index, x.argmax(axis=1))


def test_maximum_of_nothing_is_refused():
    with pytest.raises(InputError, match="no elements"):
        result(lambda a: order.max_last(a)[0], np.zeros((2, 0)))


@EXAMPLES
@given(st.integers(1, 12), seeds)
def test_one_hot_of_a_secret_index(classes, seed):
    index = np.random.default_rng(seed).integers(-2, classes + 2, (3, 2))
    marked = result(lambda a: ring(order.one_hot(a, classes)), index)
    np.testing.assert_array_equal(marked, np.arange(classes) == index[..., np.newaxis])


def test_one_hot_needs_integers():
    with pytest.raises(InputError, match="integer"):
        result(lambda a: ring(order.one_hot(a, 3)), np.zeros(3))


@EXAMPLES
@given(shapes, seeds)
def test_logic(shape, seed):
    x, y = values(seed, shape), values(seed + 1, partner(shape, seed))

    def gates(a, b):
        left, right = order.negative(a), order.less_scalar(b, 1.0)
        return [ring(gate(left, right)) for gate in (order.logical_and, order.logical_or, order.logical_xor)]

    for actual, gate in zip(
        evaluate(gates, x, y).results, (np.logical_and, np.logical_or, np.logical_xor), strict=True
    ):
        np.testing.assert_array_equal(actual, gate(x < 0, y < 1))


@pytest.mark.parametrize("planes", range(1, 20))
def test_conjunction_of_any_number_of_planes(planes):
    x = np.arange(40.0)

    def conjunction(a):
        bits = [order.logical_not(order.less_scalar(a, k)) for k in range(planes)]
        return ring(order.and_planes(a.builder.add("join_planes", *bits)))

    np.testing.assert_array_equal(result(conjunction, x), x >= planes - 1)


@EXAMPLES
@given(shapes, seeds)
def test_where_and_select(shape, seed):
    x, y, c = values(seed, shape), values(seed + 1, shape), values(seed + 2, partner(shape, seed))
    chosen, kept = evaluate(
        lambda a, b, condition: (
            order.where(order.negative(condition), a, b),
            order.select(order.negative(condition), a),
        ),
        x,
        y,
        c,
    ).results
    np.testing.assert_array_equal(chosen, np.where(c < 0, x, y))
    np.testing.assert_array_equal(kept, np.where(c < 0, x, 0))


@pytest.mark.parametrize(("fraction", "range_bits"), [(10, 4), (12, 30), (16, 28), (24, 12)])
def test_every_precision(fraction, range_bits):
    top, unit = 2.0**range_bits, 2.0**-fraction
    x = np.array([-top + unit, -1.0, -unit, 0.0, unit, 1.0, top - unit])
    relu, sign = evaluate(
        lambda a: (order.relu(a)[0], order.sign(a)), x, precision=Precision(fraction, range_bits)
    ).results
    np.testing.assert_array_equal(relu, np.maximum(x, 0))
    np.testing.assert_array_equal(sign, np.sign(x))


def test_comparison_of_a_public_value():
    x = np.linspace(-1, 1, 5)
    np.testing.assert_array_equal(result(lambda a: ring(order.less(linear.constant(a, [0.0]), a)), x), x > 0)
    with pytest.raises(InputError, match="nan"):
        result(lambda a: ring(order.less_scalar(a, float("nan"))), x)
