"""Secret random values: the moments of their distributions, and other values each time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parley.errors import PlanError
from parley.plan.builder import Builder
from tests.parley.harness import party_names, publish, run

SIZE = 40000


def sample(
    distribution: str, parameters: tuple[float, ...], scale: int = 16, bound: int = 40, parties: int = 3
) -> np.ndarray:
    builder = Builder(party_names(parties))
    publish(
        builder.add("random", distribution=distribution, parameters=parameters, shape=(SIZE,), scale=scale, bound=bound)
    )
    return run(builder).y / 2.0**scale


@pytest.mark.statistical
@pytest.mark.parametrize("parties", [2, 5])
@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_bernoulli(p: float, parties: int) -> None:
    values = sample("bernoulli", (p,), scale=0, bound=1, parties=parties)
    assert set(values) <= {0.0, 1.0}
    assert abs(values.mean() - p) <= 6 * math.sqrt(p * (1 - p) / SIZE)


@pytest.mark.statistical
def test_uniform() -> None:
    values = sample("uniform", (-1.0, 3.0))
    assert values.min() >= -1
    assert values.max() <= 3
    assert abs(values.mean() - 1) <= 6 * 4 / math.sqrt(12 * SIZE)
    histogram = np.histogram(values, bins=16, range=(-1, 3))[0]
    assert ((histogram - SIZE / 16) ** 2 / (SIZE / 16)).sum() < 15 + 6 * math.sqrt(30)


@pytest.mark.statistical
def test_normal() -> None:
    values = sample("normal", (2.0, 0.5))
    assert abs(values.mean() - 2) <= 6 * 0.5 / math.sqrt(SIZE)
    assert abs(values.std() - 0.5) <= 6 * 0.5 / math.sqrt(2 * SIZE)
    assert abs(((values - 2) ** 3).mean()) <= 6 * 0.125 * math.sqrt(15 / SIZE)


@pytest.mark.parametrize(("scale", "bound"), [(16, 20), (0, 62), (16, 62), (40, 55), (-3, 60)])
def test_samples_stay_below_the_bound(scale: int, bound: int) -> None:
    values = sample("normal", (0.0, 2.0 ** min(bound - scale, 61)), scale=scale, bound=bound)
    assert np.abs(values).max() < 2.0 ** (bound - scale) or bound > 53
    assert np.abs(values).max() <= 2.0 ** (bound - scale)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    builder = Builder(party_names(2))
    publish(builder.add("random", distribution="bernoulli", parameters=(1.0,), shape=shape, scale=0, bound=1))
    assert np.array_equal(run(builder).y, np.ones(shape))


def test_each_node_and_each_execution_draws_its_own() -> None:
    builder = Builder(party_names(2))
    for name in "ab":
        value = builder.add("random", distribution="uniform", parameters=(0.0, 1.0), shape=(50,), scale=40, bound=41)
        publish(value, name)
    outcome = run(builder, arguments=({}, {}))
    drawn = np.concatenate([item.values for item in outcome.revealed])
    assert len(drawn) == 200
    assert len(set(drawn.tolist())) == 200


GOOD = {"distribution": "normal", "parameters": (0.0, 1.0), "shape": (2,), "scale": 16, "bound": 30}
BAD: list[dict[str, object]] = [
    {"distribution": "cauchy"},
    {"distribution": 3},
    {"parameters": (1.0,)},
    {"parameters": (0.0, -1.0)},
    {"parameters": (math.nan, 1.0)},
    {"parameters": (0.0, math.inf)},
    {"parameters": (1e308, 1.0)},
    {"parameters": (10**400, 1)},
    {"distribution": "uniform", "parameters": (1.0, 0.0)},
    {"distribution": "uniform", "parameters": (-1e308, 1e308)},
    {"distribution": "bernoulli", "parameters": (1.5,)},
    {"distribution": "bernoulli", "parameters": (-0.5,)},
    {"distribution": "bernoulli", "parameters": (0.5,), "scale": 16, "bound": 16},
    {"shape": (-1,)},
    {"shape": (1.5,)},
    {"shape": (2**70,)},
    {"bound": 0},
    {"bound": 63},
    {"bound": 2**70},
    {"scale": 2**40},
    {"scale": -63},
]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_refused(bad: dict[str, object]) -> None:
    builder = Builder(party_names(2))

    def record_and_run() -> None:
        publish(builder.add("random", **{**GOOD, **bad}))  # type: ignore[arg-type]
        run(builder)

    with pytest.raises(PlanError):
        record_and_run()
