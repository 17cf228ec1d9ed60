"""What a plan will cost, before anything runs: in total, and for every source line of the user's model."""

from __future__ import annotations

from dataclasses import dataclass, field

from parley.plan.graph import Kind, Plan, Type
from parley.plan.schedule import Schedule, Stage, Step, make_schedule

ROUND_HEADER = 16
"""Bytes of transcript digest at the head of every message between parties."""


@dataclass
class LineCost:
    """The share of one source line. Bytes of openings are what one party sends to one peer."""

    rounds: int = 0
    bytes_to_each_peer: int = 0
    bytes_from_dealer: int = 0
    multiply_adds: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of one execution; exact but for memory, which counts a party's values and not the interpreter."""

    rounds: int
    """Openings one after the other, and one more for the check before reveals."""
    bytes_to_each_peer: tuple[int, ...]
    """For every party, what it sends to one other party, headers of rounds included, reveals to parties not."""
    bytes_from_dealer: tuple[int, ...]
    """For every party, the corrections that it receives."""
    multiply_adds: int
    """Ring multiply-adds of products at a party."""
    peak_memory: int
    """Bytes of a party's values at the fullest stage."""
    lines: dict[str, LineCost] = field(default_factory=dict)

    @property
    def bytes_to_peers(self) -> tuple[int, ...]:
        """For every party, what it sends to all others together."""
        return tuple(size * (len(self.bytes_to_each_peer) - 1) for size in self.bytes_to_each_peer)


def cost(plan: Plan) -> Cost:
    """Count the cost of a legal plan."""
    return cost_of_schedule(make_schedule(plan))


def cost_of_schedule(schedule: Schedule) -> Cost:
    parties = len(schedule.plan.parties)
    rounds = schedule.rounds + bool(schedule.reveals)
    to_peer = [rounds * ROUND_HEADER] * parties
    lines: dict[str, LineCost] = {}
    multiply_adds = 0
    for stage in schedule.stages:
        for line in {step.node.line for step in stage.exchange}:
            lines.setdefault(line, LineCost()).rounds += 1
        for step in (*stage.local, *stage.exchange):
            entry = lines.setdefault(step.node.line, LineCost())
            entry.nodes += 1
            for party, size in enumerate(step.sizes):
                to_peer[party] += size
            entry.bytes_to_each_peer += max(step.sizes, default=0)
            entry.bytes_from_dealer += sum(slot.correlation.bytes for slot in step.slots if slot.receiver >= 0)
            work = _multiply_adds(step)
            entry.multiply_adds += work
            multiply_adds += work
    dealt = tuple(sum(message[party] for message in schedule.messages) for party in range(parties))
    return Cost(rounds, tuple(to_peer), dealt, multiply_adds, _peak_memory(schedule.stages), lines)


def _multiply_adds(step: Step) -> int:
    if step.node.operation == "multiply":
        return 2 * step.node.type.elements
    if step.node.operation == "matmul":
        return 2 * step.node.type.elements * step.types[0].shape[-1]
    return 0


def value_bytes(type: Type) -> int:
    """Bytes of a value at a party."""
    if type.kind in (Kind.BITS, Kind.MASKED_BITS):
        size = (type.elements + 7) // 8 * type.planes
    else:
        size = 8 * type.elements
    return 2 * size if type.kind in (Kind.MASKED, Kind.MASKED_BITS) else size


def _peak_memory(stages: tuple[Stage, ...]) -> int:
    alive: dict[int, int] = {}
    peak = 0
    for stage in stages:
        for step in (*stage.local, *stage.exchange):
            alive[step.index] = value_bytes(step.node.type) + sum(
                slot.correlation.bytes for slot in step.slots if slot.receiver >= 0
            )
        peak = max(peak, sum(alive.values()))
        for index in stage.dead:
            alive.pop(index, None)
    return peak
