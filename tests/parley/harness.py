"""Small plans on secret integers, run in this process with every count compared with the plan's own cost report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st

from parley.plan.builder import Builder, Value
from parley.plan.checker import SUBMITTER, check
from parley.plan.cost import Cost, cost_of_schedule
from parley.plan.graph import Kind, Plan
from parley.plan.passes import remove_dead_code
from parley.plan.schedule import Schedule
from parley.plan.wire import plan_from_bytes, plan_to_bytes
from parley.runtime.local import LocalSession
from parley.runtime.session import Execution, Prepared, Revealed, Statistics

Ring = npt.NDArray[np.int64]

EXAMPLES = int(os.environ.get("PARLEY_TEST_EXAMPLES", "25"))
quick = settings(deadline=None, max_examples=EXAMPLES, derandomize=EXAMPLES == 25, database=None)
"""Decorator of every property: the same examples each time, unless PARLEY_TEST_EXAMPLES asks for another number of
them, and no time limit on a busy machine."""

party_counts = st.integers(2, 5)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
"""With 0-d and empty ones among them."""


def party_names(count: int) -> tuple[str, ...]:
    return tuple(f"p{index}" for index in range(count))


def ring_arrays(shape: tuple[int, ...], bound: int) -> st.SearchStrategy[Ring]:
    """Arrays of integers below 2^bound in magnitude, with the edges of the range and zero often among them."""
    edge = (1 << bound) - 1
    element = st.one_of(st.sampled_from((0, 1, -1, edge, -edge, edge // 2, -(edge // 2))), st.integers(-edge, edge))
    size = int(np.prod(shape))
    return st.lists(element, min_size=size, max_size=size).map(lambda v: np.array(v, dtype=np.int64).reshape(shape))


def uniform(shape: tuple[int, ...], bound: int, seed: int) -> Ring:
    """Uniform integers below 2^bound in magnitude."""
    edge = (1 << bound) - 1
    return np.random.default_rng(seed).integers(-edge, edge, size=shape, endpoint=True, dtype=np.int64)


def secret(
    builder: Builder, slot: str, shape: Sequence[int], bound: int = 62, scale: int = 0, kind: Kind = Kind.SHARED
) -> Value:
    """A value that the parties keep shares of before the plan runs."""
    return builder.add("load", slot=slot, kind=int(kind), shape=tuple(shape), scale=scale, bound=bound)


def opened(value: Value, width: int = 64) -> Value:
    return value.builder.add("open", value, width=width)


def publish(value: Value, name: str = "y", receivers: Sequence[str] = (SUBMITTER,)) -> Value:
    """Reveal a value of any secret or public kind; bits as a first axis of planes."""
    builder = value.builder
    if value.kind == Kind.BITS:
        value = builder.add("open_bits", builder.add("stack_planes", value))
    elif value.kind == Kind.MASKED_BITS:
        value = builder.add("stack_planes", value)
    if value.kind == Kind.MASKED_BITS:
        value = builder.add("bit_to_ring", value)
    if value.kind != Kind.SHARED:
        value = builder.add("share", value)
    return builder.add("reveal", value, name=name, receivers=tuple(receivers))


def secret_bits(builder: Builder, slot: str, shape: Sequence[int]) -> Value:
    """One plane of shared bits [x < 0] of a secret integer x: the sign plane of a comparison, folded by hand.

    With a width of 2 bits there is one chunk below the sign: [x < 0] = sign plane ⊕ lt_0.
    """
    words = builder.add("words", opened(secret(builder, slot, shape, bound=0), 2), thresholds=(0,))
    sign = builder.add("planes", words, indices=(2,), negate=(0,))
    below = builder.add("planes", words, indices=(1,), negate=(0,))
    bits = builder.add("xor", sign, below)
    return builder.add("reshape", bits, shape=tuple(shape))


@dataclass(frozen=True)
class Outcome:
    values: dict[str, Ring]
    """By name of the result; where several receivers got it, they got the same."""
    revealed: list[Revealed]
    cost: Cost
    statistics: list[Statistics]
    plan: Plan

    @property
    def y(self) -> Ring:
        return self.values["y"]


def finish(builder: Builder, narrow: bool = True) -> Plan:
    plan = builder.finish() if narrow else remove_dead_code(Plan(builder.parties, tuple(builder.nodes)))
    check(plan)
    assert plan_from_bytes(plan_to_bytes(plan)) == plan
    return plan


def run(
    builder: Builder | Plan,
    secrets: Mapping[str, Ring] | None = None,
    *,
    arguments: Sequence[Mapping[str, Ring]] = ({},),
    data: Mapping[str, Callable[[str], Any]] | None = None,
    narrow: bool = True,
    prepared: Prepared | None = None,
) -> Outcome:
    """Run what is revealed and compare every count with the cost report; secrets go to the slots of their names."""
    plan = builder if isinstance(builder, Plan) else finish(builder, narrow)
    check(plan)
    prepared = prepared or Prepared.of(plan)
    session = LocalSession(plan.parties, data)
    try:
        for _, node in plan.with_operation("load"):
            slot = node.text("slot")
            session.put(slot, node.type, np.asarray((secrets or {})[slot], dtype=np.int64))
        slots = {node.text("slot"): node.text("slot") for _, node in plan.with_operation("load")}
        stores = {node.text("slot"): node.text("slot") for _, node in plan.with_operation("store")}
        revealed = session.execute(Execution(prepared, 0, slots, stores, tuple(arguments)))
        statistics = session.statistics
    finally:
        session.close()
    cost = cost_of_schedule(prepared.schedule)
    check_statistics(prepared.schedule, statistics, len(arguments))
    values: dict[str, Ring] = {}
    for item in revealed:
        assert item.complete
        known = values.setdefault(item.name, item.values)
        if len(arguments) == 1:
            assert np.array_equal(known, item.values)
    return Outcome(values, revealed, cost, statistics, plan)


def check_statistics(schedule: Schedule, statistics: Sequence[Statistics], executions: int) -> None:
    """What the parties counted is what the cost report promised, and what they revealed to each other besides."""
    cost = cost_of_schedule(schedule)
    for index, (name, measured) in enumerate(zip(schedule.plan.parties, statistics, strict=True)):
        to_others = 0
        for _, node in schedule.reveals:
            others = set(node.texts("receivers")) & set(schedule.plan.parties) - {name}
            to_others += 8 * node.type.elements * len(others)
        assert measured.executions == executions
        assert measured.rounds == executions * cost.rounds
        assert measured.bytes_to_peers == executions * (cost.bytes_to_peers[index] + to_others)
        assert measured.bytes_from_dealer == executions * cost.bytes_from_dealer[index]
