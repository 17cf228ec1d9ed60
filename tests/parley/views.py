"""What a coalition sees of an execution, and whether two samples of such views have the same distribution.

A view is a set of variables, each sampled once an element of the inputs (the elements run in parallel under masks of
their own, so one execution gives thousands of samples): what the honest parties sent, what became public, the
coalition's shares of its inputs and of every correlation (expanded or corrected), their sums, and what it was told in
reveals. Two samples are compared by
- the histogram of bytes at four places of every variable, and of the difference of neighbouring elements,
- the same for differences and sums of every two ring variables, also after shifts that the plan makes itself,
- the correlation of every two bits of any two variables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parley.plan.cost import ROUND_HEADER
from parley.plan.graph import Kind, Plan
from parley.plan.schedule import Schedule, Slot, Step
from parley.protocols.base import Masked
from parley.ring import kernels
from parley.runtime import party as party_module
from parley.runtime.local import LocalSession, QueueChannel
from parley.runtime.session import Execution, Prepared
from tests.parley.harness import Ring

Variables = dict[str, npt.NDArray[np.int64]]
"""Name → samples; the name of what is not a ring element ends in the number of its bits: "…:16"."""
ELEMENTS = 4104
"""Samples an execution; no other axis of a plan under test has this size."""
LIMIT = 7.5
"""Standard deviations beyond which two distributions are different: once in 10^13 tests by chance."""


def broken(prepared: Prepared, change: Callable[[Step, int, Slot], Slot]) -> Prepared:
    """The same plan with other correlations: `change` gets each step, the number of the slot in it, and the slot."""

    def steps(group: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(
            replace(step, slots=tuple(change(step, number, slot) for number, slot in enumerate(step.slots)))
            for step in group
        )

    stages = tuple(
        replace(stage, local=steps(stage.local), exchange=steps(stage.exchange)) for stage in prepared.schedule.stages
    )
    return Prepared(prepared.hash, replace(prepared.schedule, stages=stages))


@dataclass
class Trace:
    """Everything that each party received or expanded during one execution."""

    shares: dict[int, list[tuple[Slot, Any]]] = field(default_factory=dict)
    messages: dict[tuple[int, str], list[bytes]] = field(default_factory=dict)
    """(receiver, sender) → messages."""
    sent_to_submitter: dict[int, list[Ring]] = field(default_factory=dict)
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What each party's vault held: slot → value."""


def trace(
    prepared: Prepared,
    secrets: Mapping[str, Ring],
    data: Mapping[str, Callable[[str], Any]] | None = None,
) -> Trace:
    """Run the plan once in a fresh session and write everything down."""
    plan = prepared.plan
    result = Trace()
    session = LocalSession(plan.parties, data)
    take, receive = party_module._Shares.take, QueueChannel.receive
    owners: dict[int, int] = {}
    for runtime in session._runtimes:
        for _, channel in runtime._peers:
            owners[id(channel)] = runtime.index

    def recording_take(self: Any, slots: Sequence[Slot]) -> list[Any]:
        shares = take(self, slots)
        copies = [None if share is None else np.array(share) for share in shares]
        result.shares.setdefault(self._index, []).extend(zip(slots, copies, strict=True))
        return shares

    def recording_receive(self: Any, size: int) -> memoryview:
        message = receive(self, size)
        if id(self) in owners:
            result.messages.setdefault((owners[id(self)], self.peer), []).append(bytes(message))
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(party_module._Shares, "take", recording_take)
        patch.setattr(QueueChannel, "receive", recording_receive)
        slots = {node.text("slot"): node for _, node in plan.with_operation("load")}
        for slot, node in slots.items():
            session.put(slot, node.type, np.array(secrets[slot], dtype=np.int64))
        for runtime in session._runtimes:
            result.values[runtime.index] = {slot: runtime.vault.get(slot, node.type) for slot, node in slots.items()}
        stores = {node.text("slot"): node.text("slot") for _, node in plan.with_operation("store")}
        execution = Execution(prepared, 0, {slot: slot for slot in slots}, stores)
        outputs: dict[int, Any] = {}

        def act(index: int) -> None:
            session._runtimes[index].announce(execution)
            outputs[index] = session._runtimes[index].execute(execution)

        def deal() -> None:
            assert session._dealer is not None
            session._dealer.execute(execution)

        session._together([deal, *(lambda index=index: act(index) for index in range(len(plan.parties)))])  # type: ignore[misc]
        session.close()
    for index, items in outputs.items():
        result.sent_to_submitter[index] = [item.values for item in items if not item.complete]
    return result


def view(schedule: Schedule, seen: Trace, coalition: Collection[int], submitter: bool = False) -> Variables:
    """The variables that the parties in `coalition` (and the submitter) see together, one row of samples each."""
    names = schedule.plan.parties
    members = sorted(coalition)
    variables: Variables = {}

    def note(name: str, array: Any) -> None:
        bits, rows = _rows(np.asarray(array))
        for number, row in enumerate(rows):
            variables[f"{name}.{number}{bits}"] = row

    for member in members:
        for slot, value in seen.values[member].items():
            note(f"{slot}@{member}", value.share if isinstance(value, Masked) else value)
    # Correlations: each member's share, and the sum of all members' (the value less what the honest parties hold).
    for number in range(max((len(seen.shares.get(member, ())) for member in members), default=0)):
        shares = [(member, *seen.shares[member][number]) for member in members]
        known = [(member, slot, share) for member, slot, share in shares if share is not None]
        for member, _, share in known:
            note(f"share {number}@{member}", share)
        if len(known) > 1:
            note(f"share {number} sum", known[0][1].correlation.combine([share for _, _, share in known]))
    # Openings: what every honest party sent, and what all of it adds up to with the coalition's own messages.
    if members:
        for name, messages in _openings(schedule, seen, members[0]):
            for sender, content in messages.items():
                note(f"{name} from {sender}", content)
    for name, content in _public(schedule, seen):
        if members:
            note(f"{name} public", content)
    # Reveals.
    for member in members:
        for index, name in enumerate(names):
            size = _reveal_bytes(schedule, names[member])
            if index not in coalition and size:
                note(f"reveal {name}→{member}", _split_reveal(schedule, seen.messages[member, name][-1], names[member]))
    if submitter:
        for index in range(len(names)):
            note(f"reveal {index}→submitter", np.stack(seen.sent_to_submitter[index]))
    return variables


def _rows(array: Any) -> tuple[str, npt.NDArray[np.int64]]:
    """Every row of ELEMENTS samples in an array of ring elements, words or packed bits, and what to call it."""
    bits = "" if array.dtype.kind == "i" else ":16"
    if array.dtype == np.uint8:
        array, bits = np.unpackbits(array, axis=-1, count=ELEMENTS), ":1"
    axes = [axis for axis, size in enumerate(array.shape) if size == ELEMENTS]
    assert axes, f"no axis of shape {array.shape} has {ELEMENTS} elements"
    return bits, np.moveaxis(array, axes[0], -1).reshape(-1, ELEMENTS).astype(np.int64)


def _openings(schedule: Schedule, seen: Trace, member: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Per opening, what each other party sent to `member`: ring elements or packed bits."""
    names = schedule.plan.parties
    taken = dict.fromkeys(names, 1)  # the fingerprint comes first
    for stage in schedule.stages:
        if not stage.exchange:
            continue
        messages: dict[str, bytes] = {}
        for name in names:
            if name != names[member]:
                messages[name] = seen.messages[member, name][taken[name]][ROUND_HEADER:]
                taken[name] += 1
        for step in stage.exchange:
            parts = {}
            for sender, message in messages.items():
                size = step.sizes[names.index(sender)]
                if size:
                    parts[sender] = _decode(step, message[:size])
                messages[sender] = message[size:]
            yield f"{step.node.operation} {step.index}", parts


def _decode(step: Step, data: bytes) -> Any:
    if step.node.type.kind == Kind.MASKED_BITS:
        return np.frombuffer(data, dtype=np.uint8).reshape(step.node.type.planes, -1)
    return kernels.unpack_ring(data, step.node.type.shape, step.node.type.width)


def _public(schedule: Schedule, seen: Trace) -> Iterator[tuple[str, Any]]:
    """Per opening, the value that became public: the sum of what all parties sent, seen from two of them."""
    names = schedule.plan.parties
    first, second = (list(_openings(schedule, seen, member)) for member in (0, 1))
    steps = [step for stage in schedule.stages for step in stage.exchange]
    for step, (name, others), (_, back) in zip(steps, first, second, strict=True):
        parts = [*others.values(), *([back[names[0]]] if names[0] in back else [])]
        total = np.array(parts[0])
        for part in parts[1:]:
            total = total ^ part if step.node.type.kind == Kind.MASKED_BITS else total + part
        if step.node.type.kind != Kind.MASKED_BITS:
            total = kernels.reduce(total, step.node.type.width)
        yield name, total


def _reveal_bytes(schedule: Schedule, receiver: str) -> int:
    return sum(8 * node.type.elements for _, node in schedule.reveals if receiver in node.texts("receivers"))


def _split_reveal(schedule: Schedule, message: bytes, receiver: str) -> Ring:
    count = sum(receiver in node.texts("receivers") for _, node in schedule.reveals)
    return np.frombuffer(message, dtype=np.int64).reshape(count, -1)


PLACES = (0, 20, 40, 56)
"""Lowest bits of the bytes that are counted."""
SINGLE_BITS = (0, 1, 2, 8, 9, 10, 11, 15, 16, 17, 19, 31, 32, 47, 48, 61, 62, 63)
"""The bits of a ring element whose correlations are compared; 11 and 19 are the tops of narrow openings under test."""


@dataclass(frozen=True)
class Sample:
    """What is compared of a view."""

    histograms: dict[str, npt.NDArray[np.int64]]
    bits: list[str]
    correlations: npt.NDArray[np.float64]
    """For every two bits, how much more often they agree than they differ."""


def summary(variables: Variables, shifts: Sequence[int]) -> Sample:
    histograms: dict[str, npt.NDArray[np.int64]] = {}

    def count(name: str, row: npt.NDArray[np.int64], places: Sequence[int] = PLACES) -> None:
        for place in places:
            values = (row.view(np.uint64) >> np.uint64(place)).astype(np.uint8)
            histograms[f"{name} [bit {place}…]"] = np.bincount(values, minlength=256)

    ring = {name: row for name, row in variables.items() if ":" not in name}
    for name, row in variables.items():
        count(name, row, PLACES if name in ring else (0,))
        if name in ring:
            count(f"Δ {name}", row - np.roll(row, 1))
    for name, row in list(ring.items()):
        for shift in shifts:
            ring[f"{name}>>{shift}"] = kernels.shift_right(row, shift)
    for (name, row), (other, second) in combinations(ring.items(), 2):
        count(f"{name} − {other}", row - second)
        count(f"{name} + {other}", row + second)
    bits = []
    signs = []
    for name, row in variables.items():
        places = range(int(name.rsplit(":")[-1])) if ":" in name else SINGLE_BITS
        for place in places:
            bits.append(f"bit {place} of {name}")
            signs.append(1 - 2 * ((row >> np.int64(place)) & 1).astype(np.float32))
    matrix = np.array(signs, dtype=np.float32)
    return Sample(histograms, bits, (matrix @ matrix.T).astype(np.float64))


def deviation(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """How many standard deviations the χ² statistic of two samples of equal size lies above what equal distributions
    give (Wilson and Hilferty's approximation); buckets with few samples are joined."""
    total = one + other
    few = total < 20
    if few.any():
        one, other = (np.append(counts[~few], counts[few].sum()) for counts in (one, other))
        total = one + other
    one, other, total = (counts[total > 0] for counts in (one, other, total))
    freedom = len(total) - 1
    if freedom < 1:
        return 0.0
    statistic = float((((one - other) ** 2) / total).sum())
    return float(((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom)))


@dataclass(frozen=True)
class Difference:
    """Where the views of two secrets differ most."""

    deviation: float
    variable: str
    coalition: tuple[int, ...]
    tests: int


def greatest_difference(
    plan: Plan | Prepared,
    one: Mapping[str, Ring],
    other: Mapping[str, Ring],
    *,
    data: Sequence[Mapping[str, Callable[[str], Any]]] = ({}, {}),
    coalitions: Sequence[tuple[tuple[int, ...], bool]] | None = None,
    shifts: Sequence[int] = (),
) -> Difference:
    """Compare the views of every coalition (default: all sets of all parties but one) for two inputs."""
    prepared = plan if isinstance(plan, Prepared) else Prepared.of(plan)
    schedule = prepared.schedule
    parties = len(schedule.plan.parties)
    chosen = coalitions or [(tuple(i for i in range(parties) if i != honest), False) for honest in range(parties)]
    traces = [trace(prepared, secrets, names) for secrets, names in zip((one, other), data, strict=True)]
    worst = Difference(0.0, "", (), 0)
    tests = 0
    for coalition, submitter in chosen:
        with np.errstate(over="ignore"):
            first, second = (summary(view(schedule, seen, coalition, submitter), shifts) for seen in traces)
        assert first.histograms.keys() == second.histograms.keys()
        found = {name: deviation(counts, second.histograms[name]) for name, counts in first.histograms.items()}
        scores = np.triu(np.abs(first.correlations - second.correlations), 1) / np.sqrt(2 * ELEMENTS)
        i, j = np.unravel_index(scores.argmax(), scores.shape)
        found[f"{first.bits[i]} with {first.bits[j]}"] = float(scores[i, j])
        tests += len(found) + scores.size // 2
        name = max(found, key=found.__getitem__)
        if found[name] > worst.deviation:
            worst = Difference(found[name], name, coalition, 0)
    return replace(worst, tests=tests)
