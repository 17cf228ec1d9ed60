"""Arithmetic on real values: kinds and scales are converted as needed, and products are right to two units."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parley.errors import InputError, PlanError
from parley.functions import linear, order
from parley.plan.builder import Precision
from parley.plan.graph import Kind
from parley.runtime.evaluate import evaluate

UNIT = 2.0**-16
EDGE = 2.0**15
EXAMPLES = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def quantised(values):
    return np.rint(np.asarray(values) / UNIT) * UNIT


def reals(seed, shape, size=100.0):
    return quantised(np.random.default_rng(seed).uniform(-size, size, shape))


def partner(shape, seed):
    generator = np.random.default_rng(seed)
    kept = [size if generator.random() < 0.6 else 1 for size in shape]
    return tuple(kept[generator.integers(0, len(kept) + 1) :])


def result(function, *arguments, **options):
    return evaluate(function, *arguments, **options).results[0]


@EXAMPLES
@given(shapes, seeds, st.integers(2, 5))
def test_sums_differences_products(shape, seed, parties):
    x, y = reals(seed, shape), reals(seed + 1, partner(shape, seed))
    total, difference, product, negated, lowered = evaluate(
        lambda a, b: (
            linear.add(a, b),
            linear.subtract(b, a),
            linear.multiply(a, b),
            linear.negate(a),
            linear.lower_scale(linear.multiply(a, b), 16),
        ),
        x,
        y,
        parties=parties,
    ).results
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(difference, y - x)
    np.testing.assert_array_equal(product, x * y)
    np.testing.assert_array_equal(negated, -x)
    assert np.abs(lowered - x * y).max() <= UNIT


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_products_at_the_edge_of_the_range(parties):
    x = np.array([EDGE, -EDGE, 2 * EDGE - UNIT, UNIT, -UNIT, 181.0, -256.0])
    y = np.array([1.0, 1.0, -1.0, UNIT, EDGE, 181.0, 255.0])
    exact, lowered = evaluate(
        lambda a, b: (linear.multiply(a, b), linear.factor(linear.multiply(a, b))), x, y, parties=parties
    ).results
    np.testing.assert_array_equal(exact, x * y)
    assert np.abs(lowered - x * y).max() <= 2 * UNIT


def test_lowering_is_unbiased():
    """The last place rounds up with the probability of what is cut off."""
    x = np.full(20000, 0.25 * UNIT * 2**8)
    mean = result(lambda a: linear.lower_scale(linear.raise_scale(a, 24), 8), x).mean()
    assert mean == pytest.approx(x[0], rel=0.1)


@EXAMPLES
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 5), seeds, st.sampled_from(["", "left", "both"]))
def test_matrix_products(rows, inner, columns, seed, batched):
    left = (3, rows, inner) if batched else (rows, inner)
    right = (3, inner, columns) if batched == "both" else (inner, columns)
    x, y = reals(seed, left, 10), reals(seed + 1, right, 10)
    secret, public = evaluate(lambda a, b: (linear.matmul(a, b), linear.matmul(a, linear.constant(a, y))), x, y).results
    np.testing.assert_allclose(secret, x @ y, atol=1e-9)
    np.testing.assert_allclose(public, x @ y, atol=1e-9)
    np.testing.assert_allclose(result(lambda b: linear.matmul(linear.constant(b, x), b), y), x @ y, atol=1e-9)


def test_opened_once_for_all_products():
    x = reals(0, (50,))
    once = evaluate(lambda a: linear.multiply(a, a), x).cost
    thrice = evaluate(lambda a: (linear.multiply(a, a), linear.multiply(a, linear.negate(a)), linear.add(a, a)), x).cost
    assert once.rounds == thrice.rounds == 2
    assert once.bytes_to_each_peer == thrice.bytes_to_each_peer


@EXAMPLES
@given(
    seeds,
    st.one_of(st.sampled_from([0.0, 1.0, -1.0, 2.0, 3.0, 0.5, 1 / 3, 1e-4, 1e-9]), st.floats(-100, 100, width=32)),
)
def test_public_numbers(seed, number):
    x = reals(seed, (20,))
    product, total, shared_sum = evaluate(
        lambda a: (
            linear.multiply_scalar(a, number),
            linear.add_scalar(a, number),
            linear.add(a, linear.constant(a, number)),
        ),
        x,
    ).results
    assert (np.abs(product - x * number) <= 2 * UNIT + np.abs(x * number) * 2**-13).all()
    np.testing.assert_allclose(total, x + number, atol=UNIT)
    np.testing.assert_array_equal(total, shared_sum)


@pytest.mark.parametrize("number", [1, -3, 7, 0.5, 2**-10, 1024, 0])
def test_integers_and_powers_of_two_are_exact_and_free(number):
    x = reals(1, (20,), 30)
    evaluation = evaluate(lambda a: linear.multiply_scalar(a, number), x)
    np.testing.assert_array_equal(evaluation.results[0], x * number)
    assert evaluation.cost.rounds == 1


def test_long_chains_of_public_factors_stay_in_the_ring():
    x = reals(2, (20,), 30)

    def chain(value):
        for _ in range(12):
            value = linear.multiply_scalar(value, 1.1)
        return value

    np.testing.assert_allclose(result(chain, x), x * 1.1**12, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("number", [0.3, -0.7, 1.1, 1e-3])
def test_multiples_by_a_public_number_are_bounded_rightly(number):
    """What reads the result opens no fewer bits than it has."""
    x = np.array([-2.0 * EDGE + 1, -300.0, -1.0, 1.0, 300.0, 2.0 * EDGE - 1]) / max(1, abs(number))
    relu, lowered = evaluate(
        lambda a: (
            order.relu(linear.multiply_scalar(a, number))[0],
            linear.factor(linear.multiply_scalar(a, number)),
        ),
        x,
    ).results
    np.testing.assert_allclose(relu, np.maximum(x * number, 0), rtol=1e-4, atol=2 * UNIT)
    np.testing.assert_allclose(lowered, x * number, rtol=1e-4, atol=2 * UNIT)


def test_long_chains_of_products_stay_in_the_ring():
    x = np.linspace(-1.5, 1.5, 31)

    def chain(value):
        product = value
        for _ in range(6):
            product = linear.multiply(product, value)
        return linear.add(product, value)

    np.testing.assert_allclose(result(chain, x), x**7 + x, atol=1e-3)


def test_division_by_a_public_number():
    x = reals(3, (20,))
    np.testing.assert_allclose(result(lambda a: linear.divide_scalar(a, 128.0), x), x / 128, atol=0)
    np.testing.assert_allclose(result(lambda a: linear.divide_scalar(a, 7.0), x), x / 7, rtol=2**-12, atol=UNIT)
    with pytest.raises(InputError, match="zero"):
        result(lambda a: linear.divide_scalar(a, 0.0), x)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(number):
    for function in (linear.multiply_scalar, linear.add_scalar, linear.constant):
        with pytest.raises(InputError, match="finite"):
            result(lambda a, function=function: linear.add(a, function(a, number)), np.zeros(2))


def test_constants_beyond_the_range_are_refused():
    with pytest.raises(InputError, match="range"):
        result(lambda a: linear.add(a, linear.constant(a, 1e18)), np.zeros(2))


@EXAMPLES
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), seeds, st.data())
def test_sums_and_means_over_axes(shape, seed, data):
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    keepdims = data.draw(st.booleans())
    x = reals(seed, shape)
    total, mean, everything = evaluate(
        lambda a: (linear.sum_axes(a, axes, keepdims), linear.mean_axes(a, axes, keepdims), linear.sum_axes(a)), x
    ).results
    np.testing.assert_allclose(total, x.sum(axis=axes, keepdims=keepdims), atol=1e-9)
    np.testing.assert_allclose(mean, x.mean(axis=axes, keepdims=keepdims), rtol=2**-12, atol=2 * UNIT)
    np.testing.assert_allclose(everything, x.sum(), atol=1e-9)


def test_the_mean_of_nothing_is_refused():
    with pytest.raises(InputError, match="no elements"):
        result(linear.mean_axes, np.zeros((0, 3)))


def test_known_sums_are_public():
    labels = np.eye(4)
    evaluation = evaluate(lambda a: linear.sum_axes(linear.multiply_scalar(a.with_total(1.0), -0.5), (-1,)), labels)
    np.testing.assert_array_equal(evaluation.results[0], np.full(4, -0.5))
    kept = evaluate(lambda a: linear.sum_axes(linear.swap(a.with_total(1.0)), (-1,)), np.ones((2, 4)) / 4)
    np.testing.assert_array_equal(kept.results[0], np.full(4, 0.5)), "a transposed row is no row"


@EXAMPLES
@given(seeds, st.booleans())
def test_shapes(seed, opened):
    x = reals(seed, (2, 3, 4))
    index = [2, 0, 2]
    other = reals(seed + 1, (2, 1, 4))

    def moves(a, b):
        a = linear.masked(a) if opened else a
        return (
            linear.reshape(a, (4, 6)),
            linear.transpose(a, (2, 0, 1)),
            linear.swap(a),
            linear.expand(linear.reshape(a, (2, 3, 1, 4)), (2, 3, 5, 4)),
            linear.take_range(a, 1, 1, 2),
            linear.take_range(a, -1, 0, 2, 2),
            linear.flip(a, (0, 2)),
            linear.pad(a, (1, 0, 2), (0, 1, 0)),
            linear.concatenate([a, b], 1),
            linear.gather(a, 1, a.builder.constant(index)),
            linear.scatter_add(a, 1, a.builder.constant(index), 5),
        )

    scattered = np.zeros((2, 5, 4))
    np.add.at(scattered, (slice(None), index), x)
    wanted = (
        x.reshape(4, 6),
        x.transpose(2, 0, 1),
        x.swapaxes(1, 2),
        np.broadcast_to(x[:, :, np.newaxis], (2, 3, 5, 4)),
        x[:, 1:3],
        x[:, :, :4:2],
        x[::-1, :, ::-1],
        np.pad(x, ((1, 0), (0, 1), (2, 0))),
        np.concatenate([x, other], 1),
        x[:, index],
        scattered,
    )
    for actual, right in zip(evaluate(moves, x, other).results, wanted, strict=True):
        np.testing.assert_array_equal(actual, right)


def test_scales_and_kinds_meet():
    """A masked product of scale 32, a shared value of scale 16 and an integer add up."""
    x, y, n = reals(4, (10,)), reals(5, (10,)), np.arange(10)

    def mixed(a, b, integers):
        product = linear.masked(linear.multiply(a, b))
        assert product.kind == Kind.MASKED
        return linear.add(linear.add(product, a), integers)

    np.testing.assert_allclose(result(mixed, x, y, n), x * y + x + n, atol=2 * UNIT, rtol=0)


def test_scales_are_not_mistaken():
    with pytest.raises(PlanError, match="already"):
        result(lambda a: linear.raise_scale(a, 8), np.zeros(2))
    with pytest.raises(PlanError, match="already"):
        result(lambda a: linear.lower_scale(a, 24), np.zeros(2))


@pytest.mark.parametrize(("fraction", "range_bits"), [(10, 4), (10, 40), (16, 28), (20, 20), (24, 12)])
def test_products_at_every_precision(fraction, range_bits):
    precision, unit = Precision(fraction, range_bits), 2.0**-fraction
    root = 2.0 ** (range_bits / 2)
    x = np.rint(np.linspace(-root, root, 41) * 0.99 / unit) * unit
    lowered = result(lambda a: linear.factor(linear.multiply(a, linear.negate(a))), x, precision=precision)
    assert np.abs(lowered + x * x).max() <= 2 * unit


@EXAMPLES
@given(st.integers(1, 17))
def test_a_tree_combines_everything_once(count):
    x = reals(count, (count, 3))
    combined = result(
        lambda a: linear.tree(linear.add, [linear.take_range(a, 0, index, 1) for index in range(count)]), x
    )
    np.testing.assert_allclose(combined[0], x.sum(axis=0), atol=1e-9)
