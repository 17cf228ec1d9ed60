"""The cost report, counted by hand on plans small enough for that."""

from __future__ import annotations

import numpy as np
import pytest

from parley.plan.builder import Builder
from parley.plan.cost import ROUND_HEADER, cost
from parley.ring.kernels import ring_bytes
from parley.runtime.local import LocalSession
from parley.runtime.session import Execution, Prepared
from tests.parley.harness import check_statistics, opened, party_names, publish, run, secret
from tests.parley.plans import every_operation, prepare_vaults


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
def test_a_product_with_rescaling(parties: int) -> None:
    """One round after the operands are open, 8 + 10 bytes of correction an element (protocols.md, section 9)."""
    n = 1000
    builder = Builder(party_names(parties))
    x, y = (builder.add("load", slot=slot, kind=3, shape=(n,), scale=16, bound=31) for slot in "xy")
    builder.add("store", builder.add("truncate", opened(builder.add("multiply", x, y, bound=62)), bits=16), slot="z")
    plan = builder.finish()
    counted = cost(plan)
    assert counted.rounds == 1
    (_, opening), *_ = plan.with_operation("open")
    assert counted.bytes_to_each_peer == (ring_bytes(n, opening.type.width) + ROUND_HEADER,) * parties
    wrap = 2 if opening.type.width == 64 else 4  # the wrap's share: as many bits as were not opened, and 16
    assert sum(counted.bytes_from_dealer) == (8 + 8 + wrap) * n
    assert counted.bytes_to_peers == tuple(size * (parties - 1) for size in counted.bytes_to_each_peer)
    assert counted.multiply_adds == 2 * n


def test_lines_add_up() -> None:
    builder = Builder(party_names(3))
    builder.line = "a.py:1"
    x = opened(secret(builder, "x", (4, 8), 20))
    builder.line = "a.py:2"
    y = builder.add("matmul", x, builder.add("transpose", x, axes=(1, 0)))
    builder.line = "a.py:3"
    publish(builder.add("truncate", opened(y), bits=4))
    counted = cost(builder.finish())
    assert set(counted.lines) == {"a.py:1", "a.py:2", "a.py:3"}
    assert counted.lines["a.py:2"].multiply_adds == counted.multiply_adds == 2 * 4 * 4 * 8
    assert [counted.lines[f"a.py:{k}"].rounds for k in (1, 2, 3)] == [1, 0, 1]
    assert counted.rounds == 3
    openings = sum(line.bytes_to_each_peer for line in counted.lines.values())
    assert counted.bytes_to_each_peer[0] == openings + 3 * ROUND_HEADER
    assert sum(line.bytes_from_dealer for line in counted.lines.values()) == sum(counted.bytes_from_dealer)
    assert sum(line.nodes for line in counted.lines.values()) == len(builder.finish().nodes)


def test_a_plan_without_reveals_has_no_check_before_them() -> None:
    builder = Builder(party_names(2))
    builder.add("store", opened(secret(builder, "x", (2,), 20)), slot="y")
    assert cost(builder.finish()).rounds == 1
    assert run(builder, {"x": np.zeros(2)}).statistics[0].rounds == 1


def test_reveals_to_parties_are_counted_apart() -> None:
    builder = Builder(party_names(3))
    publish(secret(builder, "x", (10,), 20), receivers=("p0", "p2", "submitter"))
    outcome = run(builder, {"x": np.arange(10)})
    assert [item.bytes_to_peers for item in outcome.statistics] == [2 * 16 + 80, 2 * 16 + 160, 2 * 16 + 80]
    assert outcome.cost.bytes_to_peers == (32, 32, 32)


def test_memory_at_the_fullest_stage() -> None:
    builder = Builder(party_names(2))
    x = secret(builder, "x", (1000,), 20)
    publish(x)
    small = cost(builder.finish()).peak_memory
    assert small >= 8000
    publish(builder.add("truncate", opened(x), bits=4), "z")
    assert cost(builder.finish()).peak_memory >= 3 * 8000


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
def test_every_operation_costs_what_it_says(parties: int) -> None:
    """The counts of the run are compared with the report in `run` itself; here on everything at once."""

    plan = every_operation(parties)
    prepared = Prepared.of(plan)
    session = LocalSession(plan.parties, {"p1": lambda _: np.ones((5, 3))})
    loads = {node.text("slot"): node.type for _, node in plan.with_operation("load")}
    prepare_vaults(session, loads)
    arguments = tuple({"rows": np.array([0, k])} for k in range(3))
    session.execute(Execution(prepared, 0, {slot: slot for slot in loads}, {"w": "w2", "bits": "bits"}, arguments))
    check_statistics(prepared.schedule, session.statistics, 3)
    session.close()
