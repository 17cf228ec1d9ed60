"""Softmax and its kin along one axis: what cross-entropy and attention are made of.

With x_max the exact maximum, u = x − x_max ≤ 0, e = exp(u) (0 below −11.5) and s = Σe in [1, classes]:
    softmax = e·(1/s),    log_softmax = u − log s,    logsumexp = x_max + log s.
For up to DIRECT classes, 1/s and log s are each a trigonometric polynomial of the one opening of s; for more, s is
normalised first. All of it hangs on the same few openings, and what nobody uses is dead code: exp(log_softmax(x)) is
softmax(x) without new work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parley.errors import InputError
from parley.functions import fit, linear, order, smooth
from parley.functions.fit import Reals
from parley.functions.linear import RING_BITS, masked
from parley.plan.builder import Value

DIRECT = 10
"""Up to so many classes, functions of the sum are fitted on [1, classes] as a whole."""
GUARD_BITS = 4
"""Fractional bits beyond the precision in which exponentials are added up."""


def _inverse(x: Reals) -> Reals:
    return 1 / x


@dataclass(frozen=True)
class SoftmaxParts:
    """What softmax and log_softmax of one value share, along the last axis."""

    shifted: Value
    """u = x − max, at the precision's scale."""
    exponentials: Value
    """e^u, in [0, 1], open, with GUARD_BITS more fractional bits than the precision."""
    total: Value
    """Σe^u over the last axis, which is kept with size 1."""
    maximum: Value
    """The exact maximum; last axis kept."""

    @property
    def classes(self) -> int:
        return self.shifted.shape[-1]

    def softmax(self) -> Value:
        """e/s, of rows known to sum to 1: 12 rounds from the logits for up to 10 classes, at a high scale."""
        if self.classes == 1:
            return linear.constant(self.shifted, np.ones(self.shifted.shape)).with_total(1.0)
        if self.classes > DIRECT:
            quotient = smooth.divide(self.exponentials, self.total, 1.0, self.classes, signed=False, magnitude=1.0)
            return quotient.with_total(1.0)
        finest = RING_BITS - 2 - self.exponentials.scale
        inverse = smooth.factor(self.total, self._fit(_inverse), 1.1, finest)
        scale = self.exponentials.scale + inverse.scale
        builder = self.total.builder
        product = builder.add("multiply", masked(self.exponentials), masked(inverse), bound=scale + 1)
        return product.with_total(1.0)

    def log_total(self) -> Value:
        """log Σe^u, in [0, log(classes)]."""
        if self.classes == 1:
            return linear.constant(self.total, np.zeros(self.total.shape))
        if self.classes > DIRECT:
            return smooth.log(self.total, 1.0, self.classes)
        finest = self.shifted.scale + RING_BITS - 1 - self.shifted.type.bound  # so that log_softmax needs no rescaling
        return smooth.periodic(self.total, self._fit(np.log), 1.1 * math.log(self.classes) + 0.1, finest=finest)

    def log_softmax(self) -> Value:
        """u − log s: 11 rounds from the logits for up to 10 classes."""
        return linear.subtract(self.shifted, self.log_total())

    def logsumexp(self) -> Value:
        """max + log s; last axis kept."""
        return linear.add(self.maximum, self.log_total())

    def _fit(self, function: fit.RealFunction) -> fit.Fit:
        return fit.best(function, 1.0, self.classes + 0.5, smooth.tolerance(self.total))


def softmax_parts(value: Value) -> SoftmaxParts:
    """Maximum, exponentials and their sum along the last axis: 10 rounds for up to 12 classes."""
    if not value.shape or value.shape[-1] == 0:
        raise InputError(f"a softmax needs classes; the shape is {value.shape}")
    maximum, _ = order.max_last(value, keepdims=True)
    # The logits are open for the maximum, so that lowering their scale costs no round.
    shifted = linear.subtract(linear.factor(value), linear.factor(maximum))
    exponentials = masked(smooth.exp_nonpositive(shifted, GUARD_BITS, value.shape[-1]))  # and so their sum is open
    return SoftmaxParts(shifted, exponentials, linear.sum_axes(exponentials, (-1,), keepdims=True), maximum)


def axis_last(value: Value, axis: int) -> tuple[Value, tuple[int, ...]]:
    """`value` with `axis` last, and the permutation (its own inverse)."""
    rank = len(value.shape)
    if not -rank <= axis < rank:
        raise InputError(f"axis {axis} of shape {value.shape}")
    axes = list(range(rank))
    axes[axis], axes[-1] = axes[-1], axes[axis]
    return linear.transpose(value, axes), tuple(axes)


def softmax(value: Value, axis: int = -1) -> Value:
    """e^x / Σe^x along an axis; error 1e-4."""
    moved, axes = axis_last(value, axis)
    return linear.transpose(softmax_parts(moved).softmax(), axes)


def log_softmax(value: Value, axis: int = -1) -> Value:
    """log(softmax(x)) along an axis; error 1e-4."""
    moved, axes = axis_last(value, axis)
    return linear.transpose(softmax_parts(moved).log_softmax(), axes)


def logsumexp(value: Value, axis: int = -1, keepdims: bool = False) -> Value:
    """log Σe^x along an axis; error 1e-4."""
    moved, axes = axis_last(value, axis)
    result = linear.transpose(softmax_parts(moved).logsumexp(), axes)
    position = axis % len(value.shape)
    kept = tuple(size for index, size in enumerate(result.shape) if index != position)
    return result if keepdims else linear.reshape(result, kept)
