"""Fits reproduce the design's table, and keep their promises."""

import math

import numpy as np
import pytest

from parley.errors import InputError
from parley.functions import fit


def sigmoid_centred(x):
    return np.tanh(x / 2) / 2


def erf(x):
    return np.array([math.erf(item) for item in x])


def inverse(x):
    return 1 / x


def inverse_root(x):
    return 1 / np.sqrt(x)


# function, interval, p, K, symmetry, regularisation, the largest error of protocols.md, section 7
TABLE = [
    (sigmoid_centred, -8, 8, 5, 12, "odd", 1e-10, 1.8e-5),
    (sigmoid_centred, -11, 11, 5, 16, "odd", 1e-8, 7.7e-6),
    (np.tanh, -5.5, 5.5, 4, 16, "odd", 1e-8, 1.5e-5),
    (erf, -4, 4, 4, 12, "odd", 1e-10, 8e-7),
    (np.exp, -11.5, 0.5, 5, 8, "none", 1e-8, 7.1e-6),
    (inverse, 0.5, 1, 1, 4, "none", 1e-8, 3.8e-6),
    (inverse, 1, 10.5, 4, 12, "none", 1e-8, 5.7e-6),
    (np.log, 0.5, 1, 1, 4, "none", 1e-8, 8.3e-7),
    (inverse_root, 0.25, 1, 1, 6, "none", 1e-8, 3.3e-6),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0].__name__}[{row[1]},{row[2]}]")
def test_table_of_the_design(row):
    function, low, high, period_bits, terms, symmetry, regularisation, expected = row
    fitted = fit.fourier(function, low, high, period_bits, terms, symmetry, regularisation)
    assert fitted.error <= 1.05 * expected
    assert fitted.terms == terms
    x = np.random.default_rng(0).uniform(low, high, 3000)
    assert np.abs(fitted(x) - function(x)).max() <= 1.02 * fitted.error
    assert fitted.size == pytest.approx(np.abs(fitted.cosines).sum() + np.abs(fitted.sines).sum())
    if symmetry == "odd":
        assert not any(fitted.cosines)
        assert fitted.constant == 0


def test_regularisation_trades_error_for_small_coefficients():
    loose, tight = (fit.fourier(erf, -4.0, 4.0, 4, 12, "odd", strength) for strength in (1e-5, 1e-10))
    assert loose.size < tight.size / 10
    assert loose.error > tight.error


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_best_keeps_the_tolerance_with_few_terms(tolerance):
    fitted = fit.best(np.exp, -11.5, 0.5, tolerance)
    assert fitted.error <= tolerance
    if fitted.terms > 2:
        fewer = fit.TERMS[fit.TERMS.index(fitted.terms) - 1]
        for strength in fit.REGULARISATIONS:
            assert fit.fourier(np.exp, -11.5, 0.5, fitted.period_bits, fewer, "none", strength).error > tolerance


def test_fits_are_cached():
    assert fit.best(np.exp, -3.0, 0.5, 1e-5) is fit.best(np.exp, -3.0, 0.5, 1e-5)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="period"):
        fit.fourier(np.exp, 0.0, 4.0, 2, 8)
    with pytest.raises(InputError, match="shorter interval"):
        fit.best(np.sign, -1.0, 1.0, 1e-6)
