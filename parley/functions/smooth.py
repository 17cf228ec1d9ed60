"""Smooth functions of secret values: exponential, logarithm, division, roots, sigmoid, tanh, erf and their kin.

Every one is a trigonometric polynomial of one opening (`periodic`, protocols.md, section 7). Outside of its interval
a function is given by its tails, chosen by thresholds of the same opening (section 5). Wide ranges are normalised
first: thresholds at powers of four, again from one opening, give x = u·4^i with u in [1/4, 1) as one-hot bits of i.

Rounds are openings one after the other, up to a result whose scale may be above the precision's (lowering it costs
one more, and is left to whoever needs it). Errors are for 16 fractional bits; with f of them they are about 2^(16−f)
times as large. Measured figures: docs/functions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from parley.errors import InputError
from parley.functions import fit, linear, order
from parley.functions.fit import Fit, Reals
from parley.functions.linear import RING_BITS, fraction_bits, masked
from parley.plan.builder import Value

BASE_BITS = 2
"""Positions are found at powers of four: half the thresholds of powers of two, short fits, and whole square roots."""
LARGEST_CIRCLE = 53
"""Bits of a period together with the fractional bits of the argument: what a double resolves."""

GUARD_BITS = 2
"""Fractional bits beyond the precision with which factors are multiplied, once they are cut."""
LOST_BITS = 4
"""Fractional bits of a factor that are rather lost than saved by a round."""


# The functions in the clear, as they are fitted


def _sigmoid_centred(x: Reals) -> Reals:
    return np.tanh(x / 2) / 2


def _erf(x: Reals) -> Reals:
    return np.array([math.erf(item) for item in x])


def _softplus_even(x: Reals) -> Reals:
    return np.logaddexp(x / 2, -x / 2)


def _gelu_even(x: Reals) -> Reals:
    return x * _erf(x / math.sqrt(2)) / 2


def _silu_even(x: Reals) -> Reals:
    return x * np.tanh(x / 2) / 2


def _inverse_root(x: Reals) -> Reals:
    return 1 / np.sqrt(x)


# One opening


def tolerance(value: Value) -> float:
    """The error that a fit may have: half a unit in the last place."""
    return math.ldexp(1.0, -fraction_bits(value) - 1)


def argument(value: Value) -> Value:
    """A value fit to be opened for a function: no finer than twice the precision, or than a circle of 2^6 can be."""
    finest = min(2 * fraction_bits(value), LARGEST_CIRCLE - 6)
    return linear.lower_scale(value, fraction_bits(value)) if value.scale > finest else value


def periodic(
    value: Value,
    polynomial: Fit,
    magnitude: float,
    error: float | None = None,
    constant: float = 0.0,
    finest: int = RING_BITS,
) -> Value:
    """polynomial(value) + constant, from the opening of `value` (made if need be) and no other.

    magnitude: a bound of the result where it is used (elsewhere it may be anything, and must be selected away).
    error: what rounding of shares and public factors may add (default: the tolerance of the precision). The result
    has the scale that this takes, but no more than `finest`, and fits the ring.
    """
    opened = masked(value)
    if opened.scale + polynomial.period_bits > LARGEST_CIRCLE:
        raise InputError(
            f"an argument of {opened.scale} fractional bits is too fine for a period of 2^{polynomial.period_bits}"
        )
    error = tolerance(value) if error is None else error
    magnitude_bits = math.floor(math.log2(magnitude)) + 1
    # A share is off by half a unit at most, and enters with |a_k| + |b_k|; the 2K roundings of public factors are
    # independent: six deviations.
    share_bits = math.ceil(math.log2(max(polynomial.size, 1e-3) / error))
    public_bits = math.ceil(math.log2(1.8 * math.sqrt(polynomial.terms) / error))
    constant_bits = math.ceil(math.log2(abs(polynomial.constant + constant) + 1))
    excess = share_bits + public_bits - min(finest, RING_BITS - 1 - max(magnitude_bits, constant_bits))
    if excess > 0:
        share_bits, public_bits = share_bits - (excess + 1) // 2, public_bits - excess // 2
    share_bits, public_bits = (min(max(bits, 1), 40) for bits in (share_bits, public_bits))
    return value.builder.add(
        "periodic",
        opened,
        period_bits=polynomial.period_bits,
        constants=(polynomial.constant + constant,),
        cosines=polynomial.cosines,
        sines=polynomial.sines,
        share_bits=share_bits,
        public_bits=public_bits,
        bound=share_bits + public_bits + magnitude_bits,
    )


def factor(value: Value, polynomial: Fit, magnitude: float, finest: int, error: float | None = None) -> Value:
    """`periodic` for a product that leaves room for `finest` fractional bits: with fewer, if they are few, or one round
    later, cut to GUARD_BITS more than the precision's."""
    curve = periodic(value, polynomial, magnitude, error)
    if curve.scale <= finest + LOST_BITS:
        return periodic(value, polynomial, magnitude, error, finest=finest)
    return linear.lower_scale(curve, min(fraction_bits(value) + GUARD_BITS, finest))


@dataclass(frozen=True)
class Regions:
    """The line cut at thresholds: one-hot bits of where a value lies, from its one opening (three rounds)."""

    bits: Value
    """Bits (regions, *shape): open after one round more, for all their uses."""

    def region(self, number: int) -> Value:
        return linear.reshape(linear.take_range(order.open_bits(self.bits), 0, number, 1), self.bits.shape[1:])


def regions(value: Value, thresholds: Sequence[int]) -> Regions:
    """Regions between ascending integer thresholds at the value's scale; those beyond its bound cost nothing."""
    limit = 1 << value.type.bound
    shape = (1, *value.shape)
    never = value.builder.add("constant_bits", shape=shape, bit=0)
    always = value.builder.add("constant_bits", shape=shape, bit=1)
    asked = [threshold for threshold in thresholds if -limit < threshold < limit]
    # [value < τ], ascending in τ, with the certain ones at the ends
    parts = [never] * (1 + sum(threshold <= -limit for threshold in thresholds))
    if asked:
        parts.append(order.below(value, asked))
    parts += [always] * (1 + sum(threshold >= limit for threshold in thresholds))
    below = linear.concatenate(parts, 0)
    count = len(thresholds) + 1
    return Regions(order.logical_xor(linear.take_range(below, 0, 0, count), linear.take_range(below, 0, 1, count)))


def select(bits: Value, value: Value, magnitude: float) -> Value:
    """`order.select` of a value that is below `magnitude` wherever the bit is 1."""
    cut = max(value.scale - fraction_bits(value), 0)
    bound = value.scale - cut + math.floor(math.log2(magnitude)) + 1
    return value.builder.add("select", order.open_bits(bits), masked(value), bits=cut, bound=max(bound, 1))


def cut(value: Value, points: Sequence[float]) -> Regions:
    """`regions` at real thresholds."""
    return regions(value, [order.threshold(value, point) for point in points])


# Saturating functions: 4 rounds


def _bits_of_tail(value: Value) -> float:
    """The t at which e^−t is one unit in the last place: 11.1 with 16 fractional bits."""
    return fraction_bits(value) * math.log(2)


def sigmoid(value: Value) -> Value:
    """1/(1+e^−x) for every x. ½ + odd fit on (−11.1, 11.1); 0 below, 1 above. 4 rounds; error 4e-5."""
    value = argument(value)
    limit = _bits_of_tail(value)
    polynomial = fit.best(_sigmoid_centred, -limit, limit, tolerance(value), "odd")
    line = cut(value, (-limit, limit))
    inside = select(line.region(1), periodic(value, polynomial, 1.0, constant=0.5), 1.5)
    return _plus_units(inside, [(line.region(2), 1)])


def tanh(value: Value) -> Value:
    """The hyperbolic tangent for every x. Odd fit on (−5.9, 5.9); ±1 outside. 4 rounds; error 4e-5."""
    return _odd_saturating(value, np.tanh, (_bits_of_tail(value) + math.log(2)) / 2)


def erf(value: Value) -> Value:
    """The error function for every x. Odd fit on (−3.3, 3.3); ±1 outside. 4 rounds; error 4e-5."""
    return _odd_saturating(value, _erf, math.sqrt(_bits_of_tail(value)))


def _odd_saturating(value: Value, function: fit.RealFunction, limit: float) -> Value:
    value = argument(value)
    polynomial = fit.best(function, -limit, limit, tolerance(value), "odd")
    line = cut(value, (-limit, limit))
    inside = select(line.region(1), periodic(value, polynomial, 1.5), 1.5)
    return _plus_units(inside, [(line.region(2), 1), (line.region(0), -1)])


def _plus_units(inside: Value, tails: Sequence[tuple[Value, int]]) -> Value:
    """inside ± the bits of the tails; all is at most 1 in magnitude."""
    result = inside
    for bit, sign in tails:
        unit = linear.multiply_scalar(order.to_ring(bit), sign)
        unit = linear.raise_scale(unit, inside.scale)
        result = result.builder.add("add", result, unit, bound=inside.scale + 1)
    return result


# Functions with a tail of x: 4 rounds


def softplus(value: Value) -> Value:
    """log(1+e^x) for every x: x/2 + even fit on (−11.1, 11.1); 0 below, x above. 4 rounds; error 4e-5."""
    return _half_linear(value, _softplus_even, _bits_of_tail(value))


def log_sigmoid(value: Value) -> Value:
    """log(sigmoid(x)) = x − softplus(x) for every x. 4 rounds, shared with softplus of the same value; error 4e-5."""
    return linear.subtract(value, softplus(value))


def gelu(value: Value) -> Value:
    """x·Φ(x), Φ the normal distribution: x/2 + even fit on (−4.5, 4.5); 0 below, x above. 4 rounds; error 4e-5."""
    return _half_linear(value, _gelu_even, math.sqrt(2 * _bits_of_tail(value) - 1.8))


def silu(value: Value) -> Value:
    """x·sigmoid(x) for every x: x/2 + even fit on (−13.7, 13.7); 0 below, x above. 4 rounds; error 4e-5."""
    return _half_linear(value, _silu_even, _bits_of_tail(value) + 2.6)


def _half_linear(value: Value, even: fit.RealFunction, limit: float) -> Value:
    value = argument(value)
    polynomial = fit.best(even, -limit, limit, tolerance(value), "even")
    line = cut(value, (-limit, limit))
    curve = periodic(value, polynomial, limit)
    builder, bound = value.builder, curve.scale + math.ceil(math.log2(limit)) + 1  # outside, it is selected away
    half = linear.multiply_scalar(linear.shared(masked(value)), 0.5)
    bits = curve.scale - half.scale
    half = builder.add("multiply_public", half, builder.constant(1 << bits, bits), bound=bound)
    centre = builder.add("add", curve, half, bound=bound)
    inside = select(line.region(1), centre, 2 * limit)
    return linear.add(inside, order.select(line.region(2), value))


# Exponential


def lowest_exponent(value: Value) -> float:
    """Below this (−11.5 with 16 fractional bits), e^x is under two thirds of a unit, and taken to be 0."""
    return -math.log(2) * (fraction_bits(value) + 0.59)


def exp_nonpositive(value: Value, guard_bits: int = 0, terms: int = 1) -> Value:
    """e^x for x ≤ 0 (0 below −11.5) with `guard_bits` more fractional bits than the precision. 4 rounds; error 1e-5
    and 1 unit, for more than 10 `terms` of a sum proportionally less."""
    value = argument(value)
    many = max(terms / 10, 1.0)
    low = lowest_exponent(value) - math.log(many)
    curve = _exp_piece(value, low, 0.5, tolerance(value) / many)
    scale = fraction_bits(value) + guard_bits
    bits = order.open_bits(cut(value, (low,)).region(1))
    return value.builder.add("select", bits, masked(curve), bits=curve.scale - scale, bound=scale + 1)


def exp(value: Value, high: float | None = None, method: str = "fit") -> Value:
    """e^x; 0 below −11.5, and constant above `high`.

    `high` defaults to where e^x is half of the range (10.39 with range_bits 16). At most 0.5, it is a promise: one
    piece is fitted, and larger arguments give anything.
    method "fit": pieces of the line are fitted, all from one opening. 4 rounds; error 4e-5, above 0.5 relative.
    method "limit": (1 + x/2^8)^(2^8), as in CrypTen, for x in [−11.5, 2]. 16 rounds; relative error x²/2^9.
    """
    if method == "limit":
        return _exp_limit(value)
    if method != "fit":
        raise InputError(f"exp has the methods fit and limit, not {method!r}")
    value = argument(value)
    low = lowest_exponent(value)
    if high is not None and high <= 0.5:
        line = cut(value, (low,))
        return select(line.region(1), _exp_piece(value, low, high, tolerance(value)), 1.3 * math.exp(high))
    top = math.log(2) * (value.builder.precision.range_bits - 1)
    top = top if high is None else min(top, high)
    pieces = max(math.ceil((top - 0.5) / 5), 1)
    edges = [low, *np.linspace(0.5, top, pieces + 1).tolist()]
    line = cut(value, edges)
    terms = []
    for number, (start, end) in enumerate(pairwise(edges), 1):
        curve = _exp_piece(value, start, end, tolerance(value) * max(math.exp(start), 1.0))
        terms.append(select(line.region(number), curve, 1.3 * math.exp(end)))
    terms.append(linear.multiply(order.to_ring(line.region(pieces + 2)), linear.constant(value, math.exp(top))))
    return linear.tree(linear.add, terms)


def _exp_piece(value: Value, low: float, high: float, error: float) -> Value:
    """e^x on [low, high] without thresholds."""
    return periodic(value, fit.best(np.exp, low, high, error), 1.2 * math.exp(high), error)


def _exp_limit(value: Value, squarings: int = 8) -> Value:
    result = linear.add_scalar(linear.multiply_scalar(value, 2.0**-squarings), 1.0)
    for _ in range(squarings):
        result = linear.multiply(result, result)
    return result


def expm1(value: Value) -> Value:
    """e^x − 1, as exact as exp (absolutely)."""
    return linear.add_scalar(exp(value), -1.0)


# Normalisation


@dataclass(frozen=True)
class Normalised:
    """|x| = u·2^(e−f) with u in [1/4, 1), f the precision's fractional bits, and one-hot bits of e."""

    mantissa: Value
    """u, shared, with max(exponents) fractional bits; 0 where x is taken to be 0."""
    bits: Value
    """One-hot masked bits (buckets, *shape)."""
    exponents: tuple[int, ...]
    """e for every bucket."""
    signs: tuple[int, ...]
    """For every bucket: +1, −1, or 0 where x is taken to be 0."""

    def lookup(self, integers: Sequence[int], scale: int, magnitude: float) -> Value:
        """The number of the bucket that x lies in, in no round: `integers` of `scale` bits, below `magnitude`."""
        return _weigh(order.to_ring(self.bits), integers, scale, magnitude)


def _weigh(stack: Value, integers: Sequence[int], scale: int, magnitude: float) -> Value:
    """Σ integers[j]·stack[j] over the leading axis, of which one term is not zero; `scale` is added to the stack's."""
    builder = stack.builder
    column = np.array(integers, dtype=np.int64).reshape(-1, *(1,) * (len(stack.shape) - 1))
    bound = stack.scale + scale + math.floor(math.log2(magnitude)) + 1
    weighted = builder.add("multiply_public", stack, builder.constant(column, scale), bound=bound)
    return builder.add("sum", weighted, axes=(0,), bound=bound)


def normalise(value: Value, low: float | None = None, high: float | None = None, signed: bool = False) -> Normalised:
    """Find the power of four that normalises |x|: 4 rounds.

    low and high are promises on |x| that save thresholds. With low, the lowest bucket holds everything below as well;
    without, what is less than one unit in the last place, and, unless signed, everything negative, is taken to be 0.
    """
    if (low is not None and low <= 0) or (high is not None and high <= (low or 0)):
        raise InputError(f"an interval from {low} to {high} is not one of positive numbers")
    value = argument(value)
    precision = fraction_bits(value)
    value = linear.raise_scale(value, precision) if value.scale < precision else value
    finer = value.scale - precision
    top = value.type.bound - finer
    if high is not None:
        top = min(top, math.ceil(math.log2(high) + precision))
    bottom = 0 if low is None else max(math.floor(math.log2(low) + precision), 0)
    exponents = [bottom + 1 + (precision - bottom - 1) % BASE_BITS]
    while exponents[-1] < top:
        exponents.append(exponents[-1] + BASE_BITS)
    inner = [1 << (exponent + finer) for exponent in exponents[:-1]]
    least = [] if low is not None else [1 << finer]
    if signed:
        middle = [1 - least[0], least[0]] if least else [0]
        thresholds = [*(1 - edge for edge in reversed(inner)), *middle, *inner]
        signs = [-1] * len(exponents) + [0] * len(least) + [1] * len(exponents)
        buckets = [*reversed(exponents), *exponents[: len(least)], *exponents]
    else:
        thresholds = [*least, *inner]
        signs = [0] * len(least) + [1] * len(exponents)
        buckets = [*exponents[: len(least)], *exponents]
    bits = order.open_bits(regions(value, thresholds).bits)
    point = exponents[-1]
    weights = [sign << (point - exponent) for sign, exponent in zip(signs, buckets, strict=True)]
    mantissa = _weigh(order.select(bits, value), weights, point - precision, 1.0)
    return Normalised(mantissa, bits, tuple(buckets), tuple(signs))


# Logarithm, roots, division


def log(value: Value, low: float | None = None, high: float | None = None) -> Value:
    """The natural logarithm of positive numbers: log(u) + (e−f)·log 2. 5 rounds; error 2e-5.

    Everything below 2^−f, and what is negative, counts as 2^−f. low and high: promises that save thresholds.
    """
    precision = fraction_bits(value)
    parts = normalise(value, low, high)
    mantissa = parts.mantissa
    if 0 in parts.signs:
        half = [(1 - sign) << (mantissa.scale - 1) for sign in parts.signs]
        mantissa = linear.add(mantissa, parts.lookup(half, mantissa.scale, 1.0))
    largest = max(abs(exponent - precision) for exponent in parts.exponents) * math.log(2) + 2
    finest = RING_BITS - 2 - math.ceil(math.log2(largest))
    curve = periodic(mantissa, fit.best(np.log, 0.25, 1.0, tolerance(value)), 1.5, finest=finest)
    powers = [
        exponent - precision if sign else 1 - precision
        for exponent, sign in zip(parts.exponents, parts.signs, strict=True)
    ]
    logarithms = [round(math.ldexp(power * math.log(2), curve.scale)) for power in powers]
    return linear.add(curve, parts.lookup(logarithms, curve.scale, largest))


def log1p(value: Value) -> Value:
    """log(1 + x) for x > −1, as exact as log (absolutely)."""
    return log(linear.add_scalar(value, 1.0))


def sqrt(value: Value, low: float | None = None, high: float | None = None) -> Value:
    """The square root: √u·2^((e−f)/2). 6 rounds; relative error 2e-5 (0 for x ≤ 0)."""
    return _root(value, np.sqrt, 1, low, high)


def rsqrt(value: Value, low: float | None = None, high: float | None = None) -> Value:
    """1/√x for positive numbers: 1/√u·2^((f−e)/2). 6 rounds; relative error 2e-5 (0 for x < 2^−f)."""
    return _root(value, _inverse_root, -1, low, high)


def _root(value: Value, function: fit.RealFunction, sign: int, low: float | None, high: float | None) -> Value:
    precision = fraction_bits(value)
    parts = normalise(value, low, high)
    halves = [sign * (exponent - precision) // 2 for exponent in parts.exponents]
    shift = max(0, -min(halves))
    integers = [1 << (half + shift) if kept else 0 for half, kept in zip(halves, parts.signs, strict=True)]
    power = parts.lookup(integers, shift, 2.0 ** max(halves))
    largest = 2.0 if sign < 0 else 1.0
    finest = RING_BITS - 2 - shift - max(halves)
    error = tolerance(value) / 2
    curve = factor(parts.mantissa, fit.best(function, 0.25, 1.0, error), 1.1 * largest, finest, error)
    bound = curve.scale + power.scale + max(halves) + 2
    return value.builder.add("multiply", masked(curve), masked(power), bound=bound)


def _inverse(x: Reals) -> Reals:
    return 1 / x


def reciprocal(
    value: Value, low: float | None = None, high: float | None = None, signed: bool = True, method: str = "fit"
) -> Value:
    """1/x for |x| in the precision's range; 1/0 = 0. 7 rounds; relative error 2e-5.

    low, high: promises on |x| that save thresholds, and a round where high/low is small. signed=False promises x > 0,
    and halves the thresholds.
    method "newton": 10 steps y ← y(2 − xy) from 3·e^(½−x) + 0.003, as in CrypTen, for x in [0.01, 300]. 43 rounds.
    """
    if method == "newton":
        return _reciprocal_newton(value)
    if method != "fit":
        raise InputError(f"reciprocal has the methods fit and newton, not {method!r}")
    return _quotient(None, value, low, high, signed, None)


def divide(
    numerator: Value,
    denominator: Value,
    low: float | None = None,
    high: float | None = None,
    signed: bool = True,
    magnitude: float | None = None,
) -> Value:
    """a/b elementwise with broadcasting; a/0 = 0. 7 rounds; error 1 unit in the last place and relative 2e-5.

    low, high: promises on |b|; signed=False: b > 0; magnitude: a bound of |a/b| (default: the precision's range).
    The numerator is first scaled by the denominator's power of four, so that nothing is lost where |b| is large.
    """
    return _quotient(numerator, denominator, low, high, signed, magnitude)


def _quotient(
    numerator: Value | None, value: Value, low: float | None, high: float | None, signed: bool, magnitude: float | None
) -> Value:
    builder, precision = value.builder, fraction_bits(value)
    parts = normalise(value, low, high, signed)
    largest, smallest = max(parts.exponents) - precision, min(parts.exponents) - precision
    if magnitude is None:
        magnitude = 2.0**builder.precision.range_bits if numerator is not None or low is None else 1 / low
    shift = max(largest, 0)
    integers = [
        sign << (shift + precision - exponent) for sign, exponent in zip(parts.signs, parts.exponents, strict=True)
    ]
    scaled = parts.lookup(integers, shift, 2.0**-smallest)
    if numerator is not None:  # at most 1 more than the quotient, since u is below 1
        bound = numerator.scale + shift + math.ceil(math.log2(magnitude)) + 1
        if bound > RING_BITS:
            bound += min(precision - numerator.scale, 0)
            numerator = linear.lower_scale(numerator, min(precision, numerator.scale))
        scaled = builder.add("multiply", masked(numerator), masked(scaled), bound=bound)
    curve = periodic(parts.mantissa, fit.best(_inverse, 0.25, 1.0, tolerance(value)), 4.5)
    product_bits = math.ceil(math.log2(magnitude)) + 2
    if scaled.scale + curve.scale + product_bits > RING_BITS:
        curve = linear.lower_scale(curve, precision + GUARD_BITS)
        if scaled.scale + curve.scale + product_bits > RING_BITS:
            scaled = linear.lower_scale(
                scaled, min(scaled.scale, RING_BITS - curve.scale - product_bits, precision + GUARD_BITS)
            )
    bound = scaled.scale + curve.scale + product_bits
    return builder.add("multiply", masked(scaled), masked(curve), bound=bound)


def _reciprocal_newton(value: Value, steps: int = 10) -> Value:
    value = linear.factor(value)
    start = linear.multiply_scalar(exp(linear.add_scalar(linear.negate(value), 0.5), high=0.5), 3.0)
    guess = linear.add_scalar(start, 0.003)
    for _ in range(steps):
        guess = linear.multiply(guess, linear.add_scalar(linear.negate(linear.multiply(value, guess)), 2.0))
    return guess


def power(value: Value, exponent: int) -> Value:
    """x^n for an integer n, by squaring and multiplying: about 2·log2|n| rounds; of the reciprocal for negative n."""
    if exponent < 0:
        return power(reciprocal(value), -exponent)
    if exponent == 0:
        return linear.constant(value, np.ones(value.shape))
    result: Value | None = None
    while exponent:
        if exponent & 1:
            result = value if result is None else linear.multiply(result, value)
        exponent >>= 1
        if exponent:
            value = linear.multiply(value, value)
    assert result is not None
    return result
