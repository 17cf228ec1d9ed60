"""The passes make plans cheaper and change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.functions import linear, order
from parley.plan.builder import Builder, Precision, Value
from parley.plan.checker import check
from parley.plan.cost import cost
from parley.plan.graph import Plan
from parley.plan.passes import narrow_openings, optimise, remove_dead_code
from tests.parley.harness import finish, opened, party_counts, party_names, publish, quick, run, secret
from tests.parley.plans import every_operation


def test_dead_code_goes_and_what_is_kept_or_revealed_stays() -> None:
    builder = Builder(party_names(2))
    x, y = secret(builder, "x", (2,), 20), secret(builder, "y", (2,), 20)
    opened(y)
    builder.add("multiply", opened(x), opened(x))
    publish(builder.add("negate", x))
    builder.add("store", builder.add("add", x, x), slot="kept")
    plan = remove_dead_code(Plan(builder.parties, tuple(builder.nodes)))
    assert [node.operation for node in plan.nodes] == ["load", "negate", "reveal", "add", "store"]
    assert [node.inputs for node in plan.nodes] == [(), (0,), (1,), (0, 0), (3,)]
    assert remove_dead_code(plan) == plan


def test_a_plan_of_dead_code_alone() -> None:
    builder = Builder(party_names(2))
    opened(secret(builder, "x", (2,), 20))
    with pytest.raises(PlanError, match="stores and reveals nothing"):
        builder.finish()


def test_a_loss_that_nobody_reveals_costs_nothing() -> None:
    builder = Builder(party_names(2))
    x = secret(builder, "x", (5,), 20)
    publish(x)
    before = cost(builder.finish())
    order.relu(x)
    assert cost(builder.finish()) == before


def grow(builder: Builder, data: st.DataObject, values: list[Value]) -> Value:
    """One more value of scale 16 from those there are."""
    x, y = (data.draw(st.sampled_from(values)) for _ in range(2))
    match data.draw(st.sampled_from(("add", "subtract", "multiply", "relu", "maximum", "scalar", "negate", "cut"))):
        case "add":
            return linear.add(x, y)
        case "subtract":
            return linear.subtract(x, y)
        case "multiply":
            return linear.multiply(linear.factor(x), linear.factor(y))
        case "relu":
            return order.relu(x)[0]
        case "maximum":
            return order.maximum(x, y)
        case "scalar":
            return linear.multiply_scalar(x, data.draw(st.sampled_from((0.5, -2.0, 0.3))))
        case "negate":
            return linear.negate(x)
        case _:
            return linear.factor(x)


@quick
@given(st.data(), party_counts)
def test_random_programs_give_the_same_with_narrow_openings(data: st.DataObject, parties: int) -> None:
    """Each is compared with itself at full width, and the passes repeated change nothing."""
    builder = Builder(party_names(parties), Precision(16, 12))
    values = [secret(builder, slot, (6,), 17, 16) for slot in "abc"]
    for _ in range(data.draw(st.integers(1, 6))):
        values.append(grow(builder, data, values))
    result = values[-1]
    publish(result)
    narrow, full = finish(builder), finish(builder, narrow=False)
    assert optimise(narrow) == narrow
    assert narrow_openings(full) == narrow
    assert sum(cost(narrow).bytes_to_each_peer) <= sum(cost(full).bytes_to_each_peer)
    assert cost(narrow).rounds == cost(full).rounds
    inputs = {slot: np.random.default_rng(ord(slot)).integers(-(1 << 17), 1 << 17, size=6) for slot in "abc"}
    results = [run(plan, {slot: inputs.get(slot, 0) for slot in inputs}).y for plan in (narrow, full)]
    ulp = 2.0 ** max(result.scale - 16, 0)  # of the precision, in units of the result
    assert np.abs(results[0] - results[1]).max() / ulp <= 2**8  # a few units in the last place times factors below 2^6


def test_an_opening_is_as_wide_as_its_widest_reader_needs() -> None:
    def width_with(*readers: str) -> int:
        builder = Builder(party_names(2))
        x = opened(secret(builder, "x", (4,), 20, 16))
        for reader in readers:
            match reader:
                case "truncate":
                    publish(builder.add("truncate", x, bits=8), reader)
                case "deep":
                    publish(builder.add("truncate", x, bits=30), reader)
                case "periodic":
                    wave = {"constants": (0.0,), "cosines": (1.0,), "sines": (0.0,), "share_bits": 9, "public_bits": 9}
                    publish(builder.add("periodic", x, period_bits=3, **wave), reader)  # type: ignore[arg-type]
                case "share":
                    publish(x, reader)
                case "sum":
                    total = builder.add("sum", x, axes=(0,))
                    publish(builder.add("truncate", total, bits=8), reader)
                case "store":
                    builder.add("store", x, slot="x")
        return builder.finish().with_operation("open")[0][1].type.width

    assert width_with("truncate") == 22
    assert width_with("deep") == 33  # 30 bits are cut off, and 3 must be left
    assert width_with("sum") == 24
    assert width_with("periodic") == 19
    assert width_with("truncate", "periodic") == 22
    assert width_with("truncate", "share") == 64
    assert width_with("periodic", "store") == 64


def test_a_product_of_narrow_openings_stays_wide_enough_for_its_own_reader() -> None:
    builder = Builder(party_names(2))
    x, y = opened(secret(builder, "x", (4,), 20)), opened(secret(builder, "y", (4,), 10))
    publish(builder.add("truncate", opened(builder.add("multiply", x, y)), bits=8))
    plan = builder.finish()
    assert [node.type.width for _, node in plan.with_operation("open")] == [32, 32, 32]


def test_every_operation_survives() -> None:
    plan = every_operation()
    assert optimise(plan) == plan
    check(plan)


def test_a_value_is_opened_once() -> None:
    builder = Builder(party_names(2))
    x = secret(builder, "x", (4,), 20, 16)
    assert linear.masked(x).index == linear.masked(x).index
    publish(linear.multiply(x, linear.add(x, x)))
    assert len(builder.finish().with_operation("open")) == 1  # x + x is masked by the sum of the masks


def test_random_values_are_never_the_same_node() -> None:
    builder = Builder(party_names(2))
    draw = {"distribution": "uniform", "parameters": (0.0, 1.0), "shape": (3,), "scale": 16, "bound": 20}
    assert builder.add("random", **draw).index != builder.add("random", **draw).index  # type: ignore[arg-type]


def test_values_of_another_plan() -> None:
    one, other = Builder(party_names(2)), Builder(party_names(2))
    with pytest.raises(PlanError, match="another plan"):
        one.add("negate", secret(other, "x", (2,)))
