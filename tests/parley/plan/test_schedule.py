"""The schedule follows from the plan alone, reads every value when it is known, and gives every correlation a place."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.plan.builder import Builder
from parley.plan.cost import ROUND_HEADER, cost
from parley.plan.graph import Plan
from parley.plan.schedule import DEALER_MESSAGE, Schedule, correlations, make_schedule
from parley.plan.wire import plan_hash
from parley.ring.prg import BLOCK, expand
from parley.runtime.dealer import DealerRuntime
from parley.runtime.local import LocalSession
from parley.runtime.party import _Shares
from parley.runtime.session import Execution, Prepared
from tests.parley.harness import opened, party_names, publish, quick, run, secret
from tests.parley.plans import every_operation, layout, prepare_vaults


def assert_sound(schedule: Schedule) -> None:
    """Every node runs once, after its inputs and before they are forgotten; no two correlations share a byte."""
    known: set[int] = set()
    gone: set[int] = set()
    for stage in schedule.stages:
        for step in stage.local:
            assert set(step.node.inputs) <= known - gone
            known.add(step.index)
        for step in stage.exchange:
            assert set(step.node.inputs) <= known - gone
        known |= {step.index for step in stage.exchange}
        assert not gone & set(stage.dead)
        gone |= set(stage.dead)
    assert known == set(range(len(schedule.plan.nodes)))
    assert gone == known
    end = 0
    for slot in correlations(schedule):
        assert slot.position >= end
        assert slot.position % BLOCK == 0
        end = slot.position + slot.correlation.bytes
        assert (slot.receiver >= 0) == slot.correlation.corrected
    assert schedule.keystream >= end


def random_plan(seed: int, parties: int) -> Plan:
    """A random graph of openings, products and sums over small arrays."""
    rng = np.random.default_rng(seed)
    builder = Builder(party_names(parties))
    values = [secret(builder, f"x{k}", (3,), 20, 16) for k in range(3)]
    for _ in range(int(rng.integers(1, 25))):
        x, y = (values[int(rng.integers(len(values)))] for _ in range(2))
        match rng.integers(4):
            case 0:
                values.append(builder.add("add", x, y) if x.scale == y.scale else x)
            case 1 if x.scale + y.scale < 100:
                values.append(builder.add("multiply", opened(x), opened(y), bound=20))
            case 2 if x.scale > 20:
                values.append(builder.add("truncate", opened(x), bits=8))
            case _:
                values.append(builder.add("negate", x))
    for number, value in enumerate(values[-3:]):
        publish(value, f"y{number}")
    return builder.finish()


@quick
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_random_plans(seed: int, parties: int) -> None:
    plan = random_plan(seed, parties)
    schedule = make_schedule(plan)
    assert_sound(schedule)
    depth: list[int] = []
    for node in plan.nodes:
        depth.append(max((depth[source] for source in node.inputs), default=0) + (node.operation == "open"))
    assert schedule.rounds == max(depth)  # as many rounds as the longest chain of openings
    assert make_schedule(plan).stages == schedule.stages


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_every_operation(parties: int) -> None:
    schedule = make_schedule(every_operation(parties))
    assert_sound(schedule)
    dealt = [sum(message[party] for message in schedule.messages) for party in range(parties)]
    largest = max(slot.correlation.bytes for slot in correlations(schedule))
    assert max(dealt) - min(dealt) <= largest  # the load spreads
    for party in range(parties):
        own = sum(slot.correlation.bytes for slot in correlations(schedule) if slot.receiver == party)
        assert dealt[party] == own


def test_independent_openings_share_a_round() -> None:
    builder = Builder(party_names(3))
    for number in range(10):
        x = opened(secret(builder, f"x{number}", (4,), 20))
        publish(builder.add("multiply", x, x), f"y{number}")
    outcome = run(builder, {f"x{k}": np.full(4, k) for k in range(10)})
    assert outcome.cost.rounds == 2
    assert outcome.cost.bytes_to_each_peer[0] == 10 * 32 + 2 * ROUND_HEADER
    assert all((outcome.values[f"y{k}"] == k * k).all() for k in range(10))


def test_the_dealers_messages_are_bounded() -> None:
    builder = Builder(party_names(2))
    size = DEALER_MESSAGE // 8
    x = opened(secret(builder, "x", (size,), 4))
    for _ in range(6):
        x = opened(builder.add("multiply", x, x, bound=4))
    publish(x)
    schedule = make_schedule(builder.finish())
    assert len(schedule.messages) >= 3
    assert max(max(message) for message in schedule.messages) <= 2 * DEALER_MESSAGE
    stages = [stage.message for stage in schedule.stages]
    assert stages == sorted(stages)
    for message, last in enumerate(schedule.last_stage_of_message):
        assert schedule.stages[last].message == message
        assert last + 1 == len(schedule.stages) or schedule.stages[last + 1].message == message + 1


def test_several_messages_of_the_dealer() -> None:
    builder = Builder(party_names(3))
    size = DEALER_MESSAGE // 8
    x = secret(builder, "x", (size,), 4)
    for _ in range(4):
        x = builder.add("multiply", opened(x), opened(x), bound=4)
    publish(x)
    values = np.random.default_rng(1).integers(-1, 2, size=size)
    assert np.array_equal(run(builder, {"x": values}).y, values**16)


PRINT = """
from parley.plan.schedule import make_schedule
from parley.plan.wire import plan_hash
from tests.parley.plans import every_operation, layout
plan = every_operation()
print(plan_hash(plan).hex())
print(layout(make_schedule(plan)))
"""


def test_another_process_makes_the_same_plan_and_schedule() -> None:
    """Under another seed of Python's hashes, on which no order may depend."""
    result = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    plan = every_operation()
    assert result.stdout == f"{plan_hash(plan).hex()}\n{layout(make_schedule(plan))}\n"


# Where randomness comes from.


@quick
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(0, 2**40))
def test_no_piece_of_keystream_serves_twice(seed: int, parties: int, execution: int) -> None:
    """(key, execution, position) is used for one correlation: keys are a party's own, positions do not overlap, and
    other executions have other counter blocks altogether."""
    schedule = make_schedule(random_plan(seed, parties))
    blocks: set[bytes] = set()
    count = 0
    for number in (execution, execution + 1):
        for slot in correlations(schedule):
            raw = expand(bytes(16), number, slot.position, -(-slot.correlation.bytes // BLOCK) * BLOCK)
            count += len(raw) // BLOCK
            blocks |= {raw[start : start + BLOCK] for start in range(0, len(raw), BLOCK)}
    assert len(blocks) == count


def test_what_the_dealer_expands_is_what_the_parties_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every correlation: the parties' shares add up to what the dealer computed, or to the mask that it drew."""
    held: dict[tuple[int, int], list[np.ndarray]] = {}
    dealt: dict[int, np.ndarray] = {}
    take, deal = _Shares.take, DealerRuntime._deal

    def recording_take(self: _Shares, slots):  # type: ignore[no-untyped-def]
        shares = take(self, slots)
        for slot, share in zip(slots, shares, strict=True):
            if share is not None:
                held.setdefault((slot.position, id(slot)), []).append(np.array(share))
        return shares

    def recording_deal(self, step, values, streams, outgoing):  # type: ignore[no-untyped-def]
        protocol = step.protocol
        drawn_of: list[list[np.ndarray]] = []

        class Spy:
            def dealer(self, node, types, inputs, drawn, source):  # type: ignore[no-untyped-def]
                value, corrected = protocol.dealer(node, types, inputs, drawn, source)
                drawn_of.append([*drawn, *corrected])
                return value, corrected

        deal(self, replace(step, protocol=Spy()), values, streams, outgoing)
        order = [s for s in step.slots if s.receiver < 0] + [s for s in step.slots if s.receiver >= 0]
        for slot, value in zip(order, drawn_of[0], strict=True):
            dealt[id(slot)] = np.array(value).astype(slot.correlation.dtype).reshape(slot.correlation.shape)

    monkeypatch.setattr(_Shares, "take", recording_take)
    monkeypatch.setattr(DealerRuntime, "_deal", recording_deal)
    plan = every_operation(3)
    prepared = Prepared.of(plan)
    session = LocalSession(plan.parties, {"p1": lambda _: np.ones((5, 3))})
    loads = {node.text("slot"): node.type for _, node in plan.with_operation("load")}
    prepare_vaults(session, loads)
    stores = {"w": "w2", "bits": "bits"}
    arguments = ({"rows": np.array([0, 1])},)
    session.execute(Execution(prepared, 5, {slot: slot for slot in loads}, stores, arguments))
    session.close()
    slots = correlations(prepared.schedule)
    assert len(dealt) == len(slots)
    for slot in slots:
        shares = held[slot.position, id(slot)]
        assert len(shares) == (3 if slot.correlation.owner is None else 1)
        assert np.array_equal(slot.correlation.combine(shares), dealt[id(slot)])


def test_two_openings_of_one_value_draw_different_masks() -> None:
    """A mask belongs to a node and an execution; no plan can name one. So two of them have two masks."""
    builder = Builder(party_names(2))
    x = secret(builder, "x", (1000,), 20)
    masks = [opened(x, 64), opened(builder.add("negate", builder.add("negate", x)), 64)]
    for number, value in enumerate(masks):
        builder.add("store", value, slot=f"m{number}")
    prepared = Prepared.of(builder.finish())
    session = LocalSession(party_names(2))
    session.put("x", x.type, np.zeros(1000, dtype=np.int64))
    openings = []
    for execution in range(2):
        session.execute(Execution(prepared, execution, {"x": "x"}, {"m0": "a", "m1": "b"}))
        for runtime in session._runtimes[:1]:
            openings += [runtime.vault.get(handle, masks[0].type).public for handle in "ab"]
    session.close()
    assert len(set(np.concatenate(openings).tolist())) == 4000


def test_the_same_node_twice_is_one_opening() -> None:
    builder = Builder(party_names(2))
    x = secret(builder, "x", (2,), 20)
    assert opened(x).index == opened(x).index
    assert [node.operation for node in builder.nodes] == ["load", "open"]


def test_keys_differ_between_parties_and_sessions() -> None:
    keys = []
    for _ in range(2):
        session = LocalSession(party_names(3))
        assert session._dealer is not None
        assert [runtime._key for runtime in session._runtimes] == session._dealer._keys
        keys += session._dealer._keys
        session.close()
    assert len(set(keys)) == 6
    assert all(len(key) == 16 for key in keys)


def test_rounds_and_bytes_of_an_empty_value() -> None:
    builder = Builder(party_names(2))
    publish(opened(secret(builder, "x", (0,), 20)))
    counted = cost(builder.finish())
    assert counted.rounds == 2
    assert counted.bytes_to_each_peer == (2 * ROUND_HEADER,) * 2
    assert counted.bytes_from_dealer == (0, 0)
