"""Fits trigonometric polynomials to functions on an interval (protocols.md, section 7), when a plan is built.

    g(x) ≈ c + Σ_{k=1..K} a_k cos(2πkx/P) + b_k sin(2πkx/P)   on [low, high],   P = 2^p > high − low.
g need not be periodic: the slack P − (high − low) lets the polynomial bend (a Fourier extension). The least-squares
problem on Chebyshev points is ill-conditioned on purpose; regularisation keeps the coefficients small, which the
precision of the shares asks for.
Source: Huybrechs, "On the Fourier extension of nonperiodic functions", 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from parley.errors import InputError

Reals = npt.NDArray[np.float64]
RealFunction = Callable[[Reals], Reals]
"""Applied elementwise to an array; a fit is cached by it, so that it should be a function of a module and no lambda."""

REGULARISATIONS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10)
TERMS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 22, 24, 28, 32, 40, 48, 56, 64)
SYMMETRIES = ("none", "odd", "even")


@dataclass(frozen=True)
class Fit:
    """A trigonometric polynomial and how well it fits."""

    period_bits: int
    """p, of the period 2^p; may be negative."""
    constant: float
    cosines: tuple[float, ...]
    sines: tuple[float, ...]
    error: float
    """The largest deviation on the interval."""
    size: float
    """Σ|a_k| + |b_k|: how much an error in the shares of sines and cosines can grow."""

    @property
    def terms(self) -> int:
        return len(self.cosines)

    def __call__(self, x: npt.ArrayLike) -> Reals:
        """The polynomial itself, in float64."""
        angles = 2 * math.pi * np.multiply.outer(np.asarray(x, dtype=np.float64), np.arange(1, self.terms + 1))
        angles /= 2.0**self.period_bits
        result: Reals = self.constant + np.cos(angles) @ np.array(self.cosines) + np.sin(angles) @ np.array(self.sines)
        return result


def _basis(x: Reals, period_bits: int, terms: int, symmetry: str) -> Reals:
    angles = 2 * math.pi / 2.0**period_bits * np.multiply.outer(x, np.arange(1, terms + 1))
    columns = []
    if symmetry != "odd":
        columns += [np.ones((len(x), 1)), np.cos(angles)]
    if symmetry != "even":
        columns.append(np.sin(angles))
    return np.concatenate(columns, axis=1)


def _fits(
    function: RealFunction,
    low: float,
    high: float,
    period_bits: int,
    terms: int,
    symmetry: str,
    regularisations: tuple[float, ...],
) -> list[Fit]:
    """One fit for every regularisation, from one decomposition."""
    if not low < high or not high - low < 2.0**period_bits or symmetry not in SYMMETRIES or terms < 1:
        raise InputError(f"no fit of {terms} {symmetry} terms on [{low}, {high}] with period 2^{period_bits}")
    count = 16 * terms + 128
    nodes = (low + high) / 2 + (high - low) / 2 * np.cos(math.pi * (np.arange(count) + 0.5) / count)
    left, singular, right = np.linalg.svd(_basis(nodes, period_bits, terms, symmetry), full_matrices=False)
    projected = left.T @ function(nodes)
    singular, scale = singular / math.sqrt(count), 1 / math.sqrt(count)
    grid = np.linspace(low, high, 40 * terms + 401)
    basis, wanted = _basis(grid, period_bits, terms, symmetry), function(grid)
    fits = []
    for regularisation in regularisations:
        filtered = singular / (singular**2 + regularisation**2) * projected * scale
        solution = right.T @ filtered
        error = float(np.abs(basis @ solution - wanted).max())
        zeros = np.zeros(terms)
        constant = 0.0 if symmetry == "odd" else float(solution[0])
        cosines = zeros if symmetry == "odd" else solution[1 : terms + 1]
        sines = zeros if symmetry == "even" else solution[-terms:]
        size = float(np.abs(cosines).sum() + np.abs(sines).sum())
        fits.append(Fit(period_bits, constant, tuple(cosines.tolist()), tuple(sines.tolist()), error, size))
    return fits


@lru_cache(maxsize=512)
def fourier(
    function: RealFunction,
    low: float,
    high: float,
    period_bits: int,
    terms: int,
    symmetry: str = "none",
    regularisation: float = 1e-8,
) -> Fit:
    """The regularised least-squares fit with the given period and number of terms.

    symmetry: "odd" (sines only), "even" (cosines only) or "none". Raises InputError where the period is not longer
    than the interval.
    """
    return _fits(function, low, high, period_bits, terms, symmetry, (regularisation,))[0]


@lru_cache(maxsize=512)
def best(function: RealFunction, low: float, high: float, tolerance: float, symmetry: str = "none") -> Fit:
    """The fit with the fewest terms whose error is at most `tolerance`; among those, the one with the smallest
    coefficients.

    Periods of the next two powers of two above high − low are tried. Raises InputError where 64 terms do not suffice.
    """
    shortest = math.floor(math.log2(high - low)) + 1
    for terms in TERMS:
        found = [
            fit
            for period_bits in (shortest, shortest + 1)
            for fit in _fits(function, low, high, period_bits, terms, symmetry, REGULARISATIONS)
            if fit.error <= tolerance
        ]
        if found:
            return min(found, key=lambda fit: fit.size)
    raise InputError(
        f"no trigonometric polynomial of {TERMS[-1]} terms is within {tolerance:g} of {function.__name__} "
        f"on [{low:g}, {high:g}]; take a shorter interval"
    )
