"""One-opening trigonometric polynomials against the formula in floating point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan.builder import Builder
from parley.plan.cost import ROUND_HEADER, cost
from parley.ring import kernels
from tests.parley.harness import opened, party_counts, party_names, publish, quick, run, secret, shapes, uniform

GOOD = {
    "period_bits": 4,
    "constants": (0.5,),
    "cosines": (1.0, -0.25),
    "sines": (0.125, 2.0),
    "share_bits": 20,
    "public_bits": 16,
}


def formula(
    x: np.ndarray, period_bits: int, c: float, cosines: tuple[float, ...], sines: tuple[float, ...]
) -> np.ndarray:
    angle = 2 * math.pi * x / 2.0**period_bits
    waves = [
        a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(zip(cosines, sines, strict=True), 1)
    ]
    return c + np.sum(waves, axis=0)


@quick
@given(
    parties=party_counts,
    shape=shapes,
    period_bits=st.integers(-3, 8),
    c=st.floats(-4, 4),
    coefficients=st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=1, max_size=6),
    width=st.sampled_from([30, 50, 64]),
    seed=st.integers(0, 99),
)
def test_the_formula(
    parties: int,
    shape: tuple[int, ...],
    period_bits: int,
    c: float,
    coefficients: list[tuple[float, float]],
    width: int,
    seed: int,
) -> None:
    """Anywhere in the ring, since the function is periodic, and at every width of the opening."""
    cosines, sines = (tuple(column) for column in zip(*coefficients, strict=True))
    values = uniform(shape, 28, seed)
    builder = Builder(party_names(parties))
    x = opened(secret(builder, "x", shape, 28, scale=16), width)
    publish(
        builder.add(
            "periodic",
            x,
            period_bits=period_bits,
            constants=(c,),
            cosines=cosines,
            sines=sines,
            share_bits=24,
            public_bits=20,
        )
    )
    outcome = run(builder, {"x": values})
    expected = formula(values / 2**16, period_bits, c, cosines, sines)
    size = sum(abs(a) + abs(b) for a, b in coefficients)
    assert np.abs(outcome.y / 2.0**44 - expected).max(initial=0) <= size * 2.0**-24 + 2 * len(sines) * 2.0**-20 + 1e-9
    assert np.abs(outcome.y).max(initial=0) < 2 ** outcome.plan.nodes[-1].type.bound


@pytest.mark.parametrize("terms", [1, 12])
def test_cost_is_one_narrow_opening(terms: int) -> None:
    builder = Builder(party_names(3))
    attributes = {**GOOD, "cosines": (0.1,) * terms, "sines": (0.1,) * terms}
    result = builder.add("periodic", opened(secret(builder, "x", (100,), 32, scale=16)), **attributes)
    builder.add("store", result, slot="y")
    counted = cost(builder.finish())
    assert counted.rounds == 1
    assert counted.bytes_to_each_peer[0] == kernels.ring_bytes(100, 4 + 16) + ROUND_HEADER
    assert sum(counted.bytes_from_dealer) == 16 * terms * 100


BAD = [
    {"period_bits": 38},
    {"period_bits": -16},
    {"period_bits": -(2**40)},
    {"constants": ()},
    {"constants": (1.0, 2.0)},
    {"constants": (math.nan,)},
    {"constants": (1e300,)},
    {"cosines": ()},
    {"cosines": (1.0,)},
    {"cosines": (math.inf, 0.0)},
    {"cosines": (10**400, 0.0)},
    {"cosines": ("a", "b")},
    {"cosines": (0.0,) * 65, "sines": (0.0,) * 65},
    {"share_bits": 0},
    {"share_bits": 41},
    {"public_bits": -1},
    {"share_bits": 40, "public_bits": 40},
    {"constants": (2.0**40,)},
    {"share_bits": "x"},
]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_refused(bad: dict[str, object]) -> None:
    builder = Builder(party_names(2))
    x = opened(secret(builder, "x", (2,), 32, scale=16))

    def record_and_run() -> None:
        publish(builder.add("periodic", x, **{**GOOD, **bad}))  # type: ignore[arg-type]
        run(builder, {"x": np.zeros(2)})

    with pytest.raises(PlanError):
        record_and_run()


def test_a_missing_attribute() -> None:
    for name in GOOD:
        builder = Builder(party_names(2))
        x = opened(secret(builder, "x", (2,), 32, scale=16))
        with pytest.raises(PlanError, match=name):
            builder.add("periodic", x, **{key: item for key, item in GOOD.items() if key != name})  # type: ignore[arg-type]
