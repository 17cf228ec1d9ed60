"""Softmax and its kin against float64."""

import numpy as np
import pytest

from parley.errors import InputError
from parley.functions import linear, neural
from parley.plan.builder import Precision
from parley.runtime.evaluate import evaluate


def quantised(values):
    return np.rint(np.ldexp(np.asarray(values, dtype=np.float64), 16)) / 2**16


def reference(x, axis=-1):
    shifted = x - x.max(axis=axis, keepdims=True)
    logarithm = np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return np.exp(shifted - logarithm), shifted - logarithm, (x.max(axis=axis, keepdims=True) + logarithm)


def result(function, *arguments, **options):
    return evaluate(function, *arguments, **options).results[0]


@pytest.mark.parametrize("classes", [1, 2, 3, 9, 10, 11, 12, 13, 40, 100])
def test_any_number_of_classes(classes):
    x = quantised(np.random.default_rng(classes).normal(size=(40, classes)) * 5)
    softmax, log_softmax, logsumexp = reference(x)
    values = evaluate(
        lambda v: (neural.softmax(v), neural.log_softmax(v), neural.logsumexp(v), neural.logsumexp(v, keepdims=True)), x
    ).results
    assert np.abs(values[0] - softmax).max() <= 2e-4
    assert np.abs(values[1] - log_softmax).max() <= 2e-4
    assert np.abs(values[2] - logsumexp[:, 0]).max() <= 2e-4
    assert values[3].shape == logsumexp.shape


@pytest.mark.parametrize("classes", [3, 10, 30])
@pytest.mark.parametrize("row", ["equal", "far", "edge", "one", "threshold"])
def test_extreme_rows(classes, row):
    x = np.zeros((3, classes))
    if row == "far":
        x[:, 0], x[:, 1:] = 300, -300
    elif row == "edge":
        x[:, 0], x[:, 1:] = 2.0**15 - 1, -(2.0**15) + 1
    elif row == "one":
        x[:, -1] = 12
    elif row == "threshold":
        x[:, 1:] = quantised([[-11.5], [-11.499], [-11.51]])
    softmax, log_softmax, logsumexp = reference(x)
    values = evaluate(lambda v: (neural.softmax(v), neural.log_softmax(v), neural.logsumexp(v)), x).results
    assert np.abs(values[0] - softmax).max() <= 2e-4
    assert np.abs(values[1] - log_softmax).max() <= 2e-4
    assert np.abs(values[2] - logsumexp[:, 0]).max() <= 2e-4
    assert values[0].min() >= -(2.0**-15)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_any_axis(axis):
    x = quantised(np.random.default_rng(3).normal(size=(3, 4, 5)) * 3)
    softmax, log_softmax, logsumexp = reference(x, axis)
    values = evaluate(
        lambda v: (
            neural.softmax(v, axis),
            neural.log_softmax(v, axis),
            neural.logsumexp(v, axis),
            neural.logsumexp(v, axis, keepdims=True),
        ),
        x,
    ).results
    wanted = (softmax, log_softmax, logsumexp.squeeze(axis), logsumexp)
    for actual, right in zip(values, wanted, strict=True):
        assert actual.shape == right.shape
        assert np.abs(actual - right).max() <= 2e-4


def test_of_a_product():
    """Logits of 32 fractional bits are opened as they are."""
    generator = np.random.default_rng(4)
    x, w = quantised(generator.normal(size=(30, 20))), quantised(generator.normal(size=(20, 10)))
    evaluation = evaluate(lambda a, b: neural.softmax(linear.matmul(a, b)), x, w)
    assert np.abs(evaluation.results[0] - reference(x @ w)[0]).max() <= 2e-4
    assert evaluation.cost.rounds == 1 + 12 + 1


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_softmax_sums_to_one(parties):
    x = quantised(np.random.default_rng(5).normal(size=(200, 10)) * 4)
    p = result(neural.softmax, x, parties=parties)
    assert np.abs(p.sum(axis=1) - 1).max() <= 2e-4


def test_known_sum_is_used_and_right():
    """Rows of a softmax sum to a public 1, so that nothing is spent on their sum."""
    x = quantised(np.random.default_rng(6).normal(size=(5, 4)))
    sums = evaluate(lambda v: linear.shared(linear.sum_axes(neural.softmax(v), (-1,))), x)
    np.testing.assert_array_equal(sums.results[0], np.ones(5))
    assert sums.cost.rounds == 1, "everything else was dead code"
    along_other_axis = result(lambda v: linear.sum_axes(neural.softmax(v, 0), (-1,)), x)
    np.testing.assert_allclose(along_other_axis, reference(x, 0)[0].sum(axis=1), atol=1e-3)


def test_parts_are_shared():
    """log_softmax besides softmax costs no opening of its own."""
    x = quantised(np.random.default_rng(7).normal(size=(64, 10)))

    def alone(value):
        parts = neural.softmax_parts(value)
        return parts.softmax(), parts.shifted

    def together(value):
        parts = neural.softmax_parts(value)
        return parts.softmax(), parts.shifted, parts.log_softmax(), neural.softmax(value), neural.log_softmax(value)

    costs = [evaluate(function, x).cost for function in (alone, together)]
    assert costs[0].rounds == costs[1].rounds
    assert max(costs[1].bytes_to_each_peer) <= 1.01 * max(costs[0].bytes_to_each_peer)


@pytest.mark.parametrize(("fraction", "range_bits"), [(12, 16), (20, 16), (24, 12)])
def test_every_precision(fraction, range_bits):
    x = np.rint(np.random.default_rng(8).normal(size=(50, 10)) * 4 * 2.0**fraction) / 2.0**fraction
    values = evaluate(
        lambda v: (neural.softmax(v), neural.log_softmax(v)), x, precision=Precision(fraction, range_bits)
    ).results
    unit = 2.0**-fraction
    assert np.abs(values[0] - reference(x)[0]).max() <= 12 * unit
    assert np.abs(values[1] - reference(x)[1]).max() <= 12 * unit


def test_bad_axes_are_refused():
    with pytest.raises(InputError, match="axis 2"):
        result(lambda v: neural.softmax(v, 2), np.zeros((2, 3)))
    with pytest.raises(InputError, match="classes"):
        result(neural.softmax, np.zeros((2, 0)))
