"""Smooth functions against float64: on their intervals, at the edges, far outside, at every precision."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parley.errors import InputError
from parley.functions import linear, smooth
from parley.plan.builder import Precision
from parley.runtime.evaluate import evaluate

UNIT = 2.0**-16
EDGE = 2.0**16 - UNIT
ERF = np.vectorize(math.erf)


def quantised(values, bits=16):
    return np.rint(np.ldexp(np.asarray(values, dtype=np.float64), bits)) / 2.0**bits


def sigmoid(x):
    return (1 + np.tanh(np.asarray(x) / 2)) / 2


def result(function, *arguments, **options):
    return evaluate(function, *arguments, **options).results[0]


SATURATING = {
    "sigmoid": (smooth.sigmoid, sigmoid, 1e-4),
    "tanh": (smooth.tanh, np.tanh, 1e-4),
    "erf": (smooth.erf, ERF, 1e-4),
    "softplus": (smooth.softplus, lambda x: np.logaddexp(x, 0), 1e-4),
    "log_sigmoid": (smooth.log_sigmoid, lambda x: -np.logaddexp(-x, 0), 1e-4),
    "gelu": (smooth.gelu, lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2, 1e-4),
    "silu": (smooth.silu, lambda x: x * sigmoid(x), 1e-4),
}


@pytest.mark.parametrize("name", SATURATING)
def test_everywhere(name):
    function, reference, limit = SATURATING[name]
    tails = [-EDGE, -(2.0**15), -100, 100, 2.0**15, EDGE]
    around = [edge + step for edge in (-16, -13.7, -11.1, -5.9, -4.5, -3.3, 0) for step in (-UNIT, 0, UNIT)]
    x = quantised(np.concatenate([np.linspace(-20, 20, 3001), tails, around, np.negative(around)]))
    assert np.abs(result(function, x) - reference(x)).max() <= limit


@pytest.mark.parametrize("name", SATURATING)
def test_saturated_values_are_exact(name):
    function, _, _ = SATURATING[name]
    x = np.array([-EDGE, -2000.0, -40.0, 40.0, 2000.0, EDGE])
    tails = {
        "sigmoid": (0, 0, 0, 1, 1, 1),
        "tanh": (-1, -1, -1, 1, 1, 1),
        "erf": (-1, -1, -1, 1, 1, 1),
        "log_sigmoid": (*x[:3], 0, 0, 0),
    }.get(name, (0, 0, 0, *x[3:]))
    np.testing.assert_array_equal(result(function, x), tails)


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "tanh"])
def test_of_a_product_without_rescaling_first(name):
    """The argument has 32 fractional bits: still four rounds."""
    function, reference, limit = SATURATING[name]
    x, y = quantised(np.linspace(-3, 3, 400)), quantised(np.linspace(5, 2, 400))
    evaluation = evaluate(lambda a, b: function(linear.multiply(a, b)), x, y)
    assert evaluation.cost.rounds == 1 + 4 + 1
    assert np.abs(evaluation.results[0] - reference(x * y)).max() <= limit


@pytest.mark.parametrize(
    ("fraction", "range_bits"), [(10, 16), (12, 20), (16, 28), (20, 16), (24, 12), (16, 4)], ids=lambda bits: str(bits)
)
def test_every_precision(fraction, range_bits):
    """Two units in the last place, relative above 1."""
    precision, unit, top = Precision(fraction, range_bits), 2.0**-fraction, 2.0**range_bits
    x = quantised(np.concatenate([np.linspace(-20, 20, 800), [-top, top]]).clip(-top + unit, top - unit), fraction)
    cases = [(function, reference, x) for function, reference, _ in SATURATING.values()]
    cases.append((smooth.exp, lambda x: np.exp(np.minimum(x, (range_bits - 1) * math.log(2))), x))
    positive = quantised(np.geomspace(unit, 0.99 * top, 600), fraction)
    cases.append((smooth.log, np.log, positive))
    for function, reference, arguments in cases:
        wanted = reference(arguments)
        error = np.abs(result(function, arguments, precision=precision) - wanted) / np.maximum(1, np.abs(wanted))
        assert error.max() <= 2.6 * unit, getattr(function, "__name__", "")


# Exponential


def test_exp_up_to_one_half():
    x = quantised(np.concatenate([np.linspace(-11.5, 0.5, 4001), [-11.5, 0, 0.5]]))
    assert np.abs(result(lambda v: smooth.exp(v, high=0.5), x) - np.exp(x)).max() <= 5e-5
    assert np.abs(result(smooth.exp, x) - np.exp(x)).max() <= 5e-5


def test_exp_of_large_arguments():
    x = quantised(np.linspace(0.5, 10.39, 3001))
    np.testing.assert_allclose(result(smooth.exp, x), np.exp(x), rtol=5e-5)


def test_exp_is_zero_far_below_and_constant_far_above():
    x = np.array([-EDGE, -1000.0, -12.0, 11.0, 1000.0, EDGE])
    values = result(smooth.exp, x)
    np.testing.assert_array_equal(values[:3], 0)
    np.testing.assert_allclose(values[3:], 2.0**15, rtol=1e-4)
    np.testing.assert_array_equal(result(lambda v: smooth.exp(v, high=0.5), x[:3]), 0)


def test_exp_methods():
    x = quantised(np.linspace(-8, 0.5, 200))
    error = np.abs(result(lambda v: smooth.exp(v, method="limit"), x) - np.exp(x))
    assert 1e-4 < error.max() <= 1e-2, "the limit form is right, and worse than a fit"
    with pytest.raises(InputError, match="limit"):
        result(lambda v: smooth.exp(v, method="taylor"), x)
    assert np.abs(result(smooth.expm1, x) - np.expm1(x)).max() <= 5e-5


# Logarithm, roots, division

WIDE = quantised(np.concatenate([np.geomspace(UNIT, EDGE, 2500), [UNIT, 1, 0.25, 0.25 - UNIT, 4, 4 - UNIT, EDGE]]))
USUAL = quantised(np.geomspace(0.0101, 1000, 2500))


def within(actual, wanted, relative=1e-3, units=2):
    """Within a relative error, or units in the last place where that is more."""
    return bool((np.abs(actual - wanted) <= np.maximum(relative * np.abs(wanted), units * UNIT)).all())


def test_log():
    assert within(result(smooth.log, USUAL), np.log(USUAL))
    assert np.abs(result(smooth.log, WIDE) - np.log(WIDE)).max() <= 3e-5
    outside = result(smooth.log, np.array([0.0, -1.0, -EDGE]))
    np.testing.assert_allclose(outside, -16 * math.log(2), atol=1e-4)
    x = quantised(np.linspace(0, 100, 500))
    assert np.abs(result(smooth.log1p, x) - np.log1p(x)).max() <= 3e-5


def test_log_with_promises_costs_less():
    x = quantised(np.linspace(1, 40, 500))
    promised = evaluate(lambda v: smooth.log(v, 1.0, 40.0), x)
    assert np.abs(promised.results[0] - np.log(x)).max() <= 3e-5
    assert max(promised.cost.bytes_to_each_peer) < 0.6 * max(evaluate(smooth.log, x).cost.bytes_to_each_peer)


@pytest.mark.parametrize("sign", [1, -1])
def test_reciprocal(sign):
    np.testing.assert_allclose(result(smooth.reciprocal, sign * USUAL), sign / USUAL, rtol=5e-5)
    wide = WIDE[WIDE > UNIT]
    np.testing.assert_allclose(result(smooth.reciprocal, sign * wide), sign / wide, rtol=5e-5)


def test_reciprocal_of_zero_and_of_positive_numbers():
    np.testing.assert_array_equal(result(smooth.reciprocal, np.zeros(3)), 0)
    np.testing.assert_allclose(result(lambda v: smooth.reciprocal(v, signed=False), USUAL), 1 / USUAL, rtol=5e-5)
    bounded = result(lambda v: smooth.reciprocal(v, 0.01, 1000), np.concatenate([USUAL, -USUAL]))
    np.testing.assert_allclose(bounded, 1 / np.concatenate([USUAL, -USUAL]), rtol=5e-5)


def test_reciprocal_methods():
    x = quantised(np.geomspace(0.0101, 300, 500))
    assert within(result(lambda v: smooth.reciprocal(v, method="newton"), x), 1 / x)
    with pytest.raises(InputError, match="newton"):
        result(lambda v: smooth.reciprocal(v, method="goldschmidt"), x)
    with pytest.raises(InputError, match="positive"):
        result(lambda v: smooth.reciprocal(v, -1.0, 1.0), x)


def test_roots():
    for function, reference in ((smooth.sqrt, np.sqrt), (smooth.rsqrt, lambda x: 1 / np.sqrt(x))):
        np.testing.assert_allclose(result(function, WIDE), reference(WIDE), rtol=5e-5)
        np.testing.assert_array_equal(result(function, np.array([0.0, -UNIT, -3.0])), 0)


def test_normalised_results_lowered_and_used():
    """High scales come down again, and enter products."""
    x = quantised(np.linspace(0.5, 300, 300))
    values = result(lambda v: linear.factor(smooth.rsqrt(v)), x)
    assert np.abs(values - 1 / np.sqrt(x)).max() <= 2 * UNIT
    values = result(lambda v: linear.multiply(smooth.sqrt(v), smooth.sqrt(v)), x)
    np.testing.assert_allclose(values, x, rtol=1e-4, atol=1e-4)
    values = result(lambda v: linear.multiply_scalar(smooth.reciprocal(v), 0.3), x)
    np.testing.assert_allclose(values, 0.3 / x, rtol=5e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(5,), (3, 1), (2, 3)]), st.sampled_from([(5,), (1, 5), (3, 5)]))
def test_division_with_broadcasting(seed, left, right):
    generator = np.random.default_rng(seed)
    try:
        shape = np.broadcast_shapes(left, right)
    except ValueError:
        left, shape = right, right
    b = quantised(np.exp(generator.uniform(-4, 10, right)) * generator.choice([-1, 1], right))
    a = quantised(generator.uniform(-1, 1, left) * min(2.0**15 * np.abs(b).min(), 2.0**15))
    wanted = a / b
    assert wanted.shape == shape
    error = np.abs(result(smooth.divide, a, b) - wanted)
    assert (error <= 2 * UNIT + 5e-5 * np.abs(wanted)).all()


def test_division_keeps_small_quotients_of_large_numbers():
    a = quantised(np.linspace(-30000, 30000, 500))
    b = np.full(500, 29999.0)
    assert np.abs(result(smooth.divide, a, b) - a / b).max() <= 2 * UNIT
    np.testing.assert_array_equal(result(smooth.divide, a, np.zeros(500)), 0)


@pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2, 3, 4, 5, 7])
def test_power(exponent):
    x = quantised(np.concatenate([np.linspace(-3, -0.5, 100), np.linspace(0.5, 3, 100)]))
    np.testing.assert_allclose(result(lambda v: smooth.power(v, exponent), x), x**exponent, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 0), (2, 1, 3, 2)])
def test_shapes(shape):
    x = quantised(np.random.default_rng(1).uniform(0.5, 4, shape))
    for function, reference in ((smooth.sigmoid, sigmoid), (smooth.log, np.log), (smooth.reciprocal, np.reciprocal)):
        values = result(function, x)
        assert values.shape == shape
        np.testing.assert_allclose(values, reference(x), atol=1e-4)


def test_integers():
    x = np.arange(1, 50)
    np.testing.assert_allclose(result(smooth.log, x), np.log(x), atol=1e-4)
    np.testing.assert_allclose(result(smooth.reciprocal, x), 1 / x, atol=1e-4)
    np.testing.assert_allclose(result(smooth.sigmoid, x - 25), sigmoid(x - 25), atol=1e-4)


def test_functions_of_one_value_share_their_opening():
    x = quantised(np.linspace(-5, 5, 1000))
    both = evaluate(lambda v: (smooth.sigmoid(v), smooth.softplus(v)), x).cost
    apart = [evaluate(function, x).cost for function in (smooth.sigmoid, smooth.softplus)]
    assert both.rounds == apart[0].rounds
    assert max(both.bytes_to_each_peer) < sum(max(cost.bytes_to_each_peer) for cost in apart) - 4 * x.size
