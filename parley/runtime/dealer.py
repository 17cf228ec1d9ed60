"""Runs plans at the dealer: masks instead of shares, and from them the corrections for the parties.

The dealer sends, and receives nothing that depends on data: of each party its entropy at the start, and fingerprints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parley.errors import ProtocolError
from parley.plan.schedule import Step
from parley.protocols.base import Array, Value
from parley.ring.prg import ExecutionStream, PrivateSource
from parley.runtime.channel import Channel
from parley.runtime.session import (
    ENTROPY,
    Execution,
    Statistics,
    expect_same,
    fresh_entropy,
    session_key,
)
from parley.runtime.vault import Vault


class DealerRuntime:
    """The dealer in one session; `parties[i]` is the channel to party i. All calls come from one thread.

    It runs ahead of the parties as far as the channels' back-pressure lets it. `entropy` is for tests that repeat a
    session; two real ones must never share it.
    """

    def __init__(
        self, session: bytes, parties: Sequence[Channel], entropy: Callable[[], bytes] = fresh_entropy
    ) -> None:
        self.vault = Vault()
        self.statistics = Statistics()
        self._session, self._parties = session, parties
        self._source = PrivateSource()
        self._next_execution = 0
        own = [entropy() for _ in parties]
        for channel, drawn in zip(parties, own, strict=True):
            channel.send(drawn)
        self._keys = [
            session_key(session, index, bytes(channel.receive(ENTROPY)), own[index])
            for index, channel in enumerate(parties)
        ]

    def execute(self, execution: Execution, finished: Callable[[int], None] = lambda number: None) -> None:
        """Deal for an execution, once all parties have announced the same."""
        execution.check()
        if execution.first < self._next_execution:
            raise ProtocolError(
                f"execution {execution.first} comes after {self._next_execution - 1}; numbers only grow"
            )
        self._next_execution = execution.first + len(execution.arguments)
        fingerprint = execution.fingerprint(self._session)
        for channel in self._parties:
            expect_same(fingerprint, channel, "the fingerprint of an execution")
        for channel in self._parties:
            channel.send(fingerprint)
        for repetition in range(len(execution.arguments)):
            start = time.perf_counter()
            with np.errstate(over="ignore"):
                self._run(execution, repetition)
            self.statistics.seconds += time.perf_counter() - start
            self.statistics.executions += 1
            finished(execution.first + repetition)

    def _run(self, execution: Execution, repetition: int) -> None:
        schedule = execution.prepared.schedule
        number = execution.first + repetition
        streams = [ExecutionStream(key, number, schedule.keystream) for key in self._keys]
        values: dict[int, Value] = {}
        outgoing: list[list[bytes]] = [[] for _ in self._parties]
        stored: list[tuple[str, Step]] = []
        for stage_number, stage in enumerate(schedule.stages):
            for step in (*stage.local, *stage.exchange):
                operation = step.node.operation
                if operation == "load":
                    values[step.index] = self.vault.get(execution.loads[step.node.text("slot")], step.node.type)
                    continue
                if operation == "argument":
                    values[step.index] = execution.arguments[repetition][step.node.text("name")]
                    continue
                if operation == "store":
                    stored.append((execution.stores[step.node.text("slot")], step))
                self._deal(step, values, streams, outgoing)
            for index in stage.dead:
                if schedule.plan.nodes[index].operation != "store":
                    values.pop(index, None)
            if schedule.last_stage_of_message[stage.message] == stage_number:
                self._flush(outgoing)
        for handle, step in stored:
            value = values[step.index]
            self.vault.put(handle, step.node.type, None if value is None else np.array(value))

    def _deal(
        self, step: Step, values: dict[int, Value], streams: Sequence[ExecutionStream], outgoing: list[list[bytes]]
    ) -> None:
        shares: list[list[Any]] = []
        drawn: list[Array] = []
        for slot in step.slots:
            correlation = slot.correlation
            holders = range(len(streams)) if correlation.owner is None else (correlation.owner,)
            expanded = [
                correlation.read(streams[index].take(slot.position, correlation.bytes))
                for index in holders
                if index != slot.receiver
            ]
            shares.append(expanded)
            if not correlation.corrected:
                drawn.append(correlation.combine(expanded))
        inputs = [values[index] for index in step.node.inputs]
        value, corrected = step.protocol.dealer(step.node, step.types, inputs, drawn, self._source)
        values[step.index] = value
        slots = [(slot, others) for slot, others in zip(step.slots, shares, strict=True) if slot.receiver >= 0]
        for (slot, others), target in zip(slots, corrected, strict=True):
            correction = slot.correlation.correction(np.asarray(target), others)
            outgoing[slot.receiver].append(correction.tobytes())

    def _flush(self, outgoing: list[list[bytes]]) -> None:
        for channel, parts in zip(self._parties, outgoing, strict=True):
            if any(parts):
                channel.send(*parts)
            parts.clear()
