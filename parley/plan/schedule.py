"""The order in which every role runs a plan, and where its correlated randomness lies. Derived from the plan alone, so
all agree.

A stage is the local nodes that are ready, then all openings that are ready: one message to each peer. The number of
stages with an opening is the plan's number of rounds. Every correlation has a position in the keystream of an
execution, and, where it is corrected, a party that receives the correction: the one with the fewest bytes so far, so
that the load spreads.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

from parley.plan.graph import Node, Plan, Type
from parley.protocols.base import PROTOCOLS, Correlation, Exchange, Protocol
from parley.ring.prg import BLOCK

DEALER_MESSAGE = 1 << 18
"""Corrections of consecutive stages share a message until they reach this many bytes for one party."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one correlation comes from."""

    correlation: Correlation
    position: int
    """First byte in the keystream of the execution."""
    receiver: int
    """Index of the party that receives a correction instead of expanding its share; -1: none."""


@dataclass(frozen=True, slots=True)
class Step:
    """A node with everything that running it needs."""

    index: int
    node: Node
    types: tuple[Type, ...]
    protocol: Protocol
    slots: tuple[Slot, ...]
    sizes: tuple[int, ...]
    """For an exchange: bytes that each party sends to each other party."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Local steps, then the steps that share one round; `dead` are the nodes whose values nobody needs afterwards."""

    local: tuple[Step, ...]
    exchange: tuple[Step, ...]
    dead: tuple[int, ...]
    message: int
    """Number of the dealer's message that holds this stage's corrections."""


@dataclass(frozen=True)
class Schedule:
    """A plan made ready to run."""

    plan: Plan
    stages: tuple[Stage, ...]
    keystream: int
    """Bytes of keystream an execution uses."""
    messages: tuple[tuple[int, ...], ...]
    """For every message of the dealer, the bytes to each party (0: not sent)."""

    @cached_property
    def last_stage_of_message(self) -> tuple[int, ...]:
        last = [0] * len(self.messages)
        for number, stage in enumerate(self.stages):
            last[stage.message] = number
        return tuple(last)

    @cached_property
    def reveals(self) -> tuple[tuple[int, Node], ...]:
        return tuple(self.plan.with_operation("reveal"))

    @cached_property
    def rounds(self) -> int:
        """Messages that a party sends to each peer in one execution, reveals and the check before them not counted."""
        return sum(bool(stage.exchange) for stage in self.stages)


def make_schedule(plan: Plan) -> Schedule:
    """Sort the nodes of a checked plan into stages and place its correlations."""
    levels, last_use = _levels(plan)
    depth = max(levels, default=0) + 1
    local: list[list[int]] = [[] for _ in range(depth)]
    exchange: list[list[int]] = [[] for _ in range(depth)]
    for index, node in enumerate(plan.nodes):
        if isinstance(PROTOCOLS[node.operation], Exchange):
            exchange[levels[index] - 1].append(index)
        else:
            local[levels[index]].append(index)
    dead: list[list[int]] = [[] for _ in range(depth)]
    for index, level in enumerate(last_use):
        dead[max(level, levels[index])].append(index)

    position = 0
    received = [0] * len(plan.parties)
    stages: list[Stage] = []
    messages: list[list[int]] = []

    def step(index: int) -> Step:
        nonlocal position
        node, types = plan.nodes[index], tuple(plan.input_types(plan.nodes[index]))
        protocol = PROTOCOLS[node.operation]
        slots = []
        for correlation in protocol.correlations(node, types):
            receiver = -1
            if correlation.corrected:
                receiver = min(range(len(received)), key=received.__getitem__)
                received[receiver] += correlation.bytes
                messages[-1][receiver] += correlation.bytes
            slots.append(Slot(correlation, position, receiver))
            position += -(-correlation.bytes // BLOCK) * BLOCK
        sizes: tuple[int, ...] = ()
        if isinstance(protocol, Exchange):
            sizes = tuple(protocol.size(node, types, sender, plan.parties) for sender in range(len(plan.parties)))
        return Step(index, node, types, protocol, tuple(slots), sizes)

    for level in range(depth):
        if not messages or max(messages[-1]) >= DEALER_MESSAGE:
            messages.append([0] * len(plan.parties))
        stages.append(
            Stage(
                local=tuple(step(index) for index in local[level]),
                exchange=tuple(step(index) for index in exchange[level]),
                dead=tuple(dead[level]),
                message=len(messages) - 1,
            )
        )
    return Schedule(plan, tuple(stages), position, tuple(map(tuple, messages)))


def _levels(plan: Plan) -> tuple[list[int], list[int]]:
    """For every node the stage after which it is known, and the last stage that reads it (-1: none)."""
    levels: list[int] = []
    last_use = [-1] * len(plan.nodes)
    for node in plan.nodes:
        ready = max((levels[index] for index in node.inputs), default=0)
        levels.append(ready + isinstance(PROTOCOLS[node.operation], Exchange))
        for index in node.inputs:
            last_use[index] = max(last_use[index], ready)
    return levels, last_use


def correlations(schedule: Schedule) -> list[Slot]:
    """All correlations of the plan, in the order of execution."""
    steps = itertools.chain.from_iterable((*stage.local, *stage.exchange) for stage in schedule.stages)
    return [slot for step in steps for slot in step.slots]
