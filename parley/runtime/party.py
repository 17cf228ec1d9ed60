"""Runs plans at a party: local steps on shares, openings with the peers, corrections from the dealer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from parley.errors import ProtocolError
from parley.plan.schedule import Slot, Step
from parley.protocols.base import Array, Exchange, Masked, Party, Value
from parley.ring.prg import ExecutionStream
from parley.runtime.channel import Channel
from parley.runtime.session import (
    DIGEST,
    ENTROPY,
    Execution,
    Revealed,
    Statistics,
    expect_same,
    fresh_entropy,
    session_key,
)
from parley.runtime.vault import Vault


class PartyRuntime:
    """One party in one session.

    `peers[j]` is the channel to party j (None at this party's own index), `dealer` the one to the dealer. All calls
    come from one thread, except `announce`. After an exception the session is over: close the channels with the cause.
    `entropy` is for tests that repeat a session; two real ones must never share it.
    """

    def __init__(
        self,
        session: bytes,
        party: Party,
        peers: Sequence[Channel | None],
        dealer: Channel,
        entropy: Callable[[], bytes] = fresh_entropy,
    ) -> None:
        self.vault = Vault()
        self.statistics = Statistics()
        self.index = party.index
        self._session, self._party = session, party
        self._peers = [(index, peer) for index, peer in enumerate(peers) if peer is not None]
        self._dealer = dealer
        self._next_execution = 0
        self._transcript = hashlib.sha256(session)
        own = entropy()
        dealer.send(own)
        self._key = session_key(session, party.index, own, bytes(dealer.receive(ENTROPY)))

    def announce(self, execution: Execution) -> None:
        """Tell the dealer that this execution will follow, so that it can work ahead; once for each execution, in their
        order.

        May be called from another thread than `execute`.
        """
        execution.check()
        self._dealer.send(execution.fingerprint(self._session))

    def execute(self, execution: Execution, finished: Callable[[int], None] = lambda number: None) -> list[Revealed]:
        """Run an announced execution and return what it reveals; `finished` is called with the number of each
        repetition done.

        Raises ProtocolError where a peer or the dealer does not keep to the plan, SessionClosed where one is gone.
        """
        if execution.first < self._next_execution:
            raise ProtocolError(
                f"execution {execution.first} comes after {self._next_execution - 1}; numbers only grow"
            )
        self._next_execution = execution.first + len(execution.arguments)
        fingerprint = execution.fingerprint(self._session)
        for _, peer in self._peers:
            peer.send(fingerprint)
        for _, peer in self._peers:
            expect_same(fingerprint, peer, "the fingerprint of an execution")
        expect_same(fingerprint, self._dealer, "the fingerprint of an execution")
        revealed: list[Revealed] = []
        for repetition in range(len(execution.arguments)):
            start = time.perf_counter()
            with np.errstate(over="ignore"):
                revealed += self._run(execution, repetition)
            self.statistics.seconds += time.perf_counter() - start
            self.statistics.executions += 1
            finished(execution.first + repetition)
        return revealed

    def _run(self, execution: Execution, repetition: int) -> list[Revealed]:
        schedule = execution.prepared.schedule
        number = execution.first + repetition
        randomness = _Shares(self._key, number, schedule.keystream, self._party.index)
        values: dict[int, Value] = {}
        stored: list[tuple[str, Step]] = []
        message = -1
        for stage in schedule.stages:
            if stage.message != message:
                message = stage.message
                randomness.corrections = self._corrections(schedule.messages[message][self._party.index])
            for step in stage.local:
                operation = step.node.operation
                if operation == "load":
                    handle = execution.loads[step.node.text("slot")]
                    values[step.index] = self.vault.get(handle, step.node.type)
                    continue
                if operation == "argument":
                    values[step.index] = execution.arguments[repetition][step.node.text("name")]
                    continue
                if operation == "store":
                    stored.append((execution.stores[step.node.text("slot")], step))
                inputs = [values[index] for index in step.node.inputs]
                values[step.index] = step.protocol.party(
                    self._party, step.node, step.types, inputs, randomness.take(step.slots)
                )
            if stage.exchange:
                self._exchange(stage.exchange, values, randomness)
            for index in stage.dead:
                if schedule.plan.nodes[index].operation not in ("reveal", "store"):
                    values.pop(index, None)
        revealed = self._reveal(execution, number, values)
        for handle, step in stored:
            self.vault.put(handle, step.node.type, _owned(values[step.index]))
        return revealed

    def _corrections(self, size: int) -> memoryview:
        if not size:
            return memoryview(b"")
        start = time.perf_counter()
        data = self._dealer.receive(size)
        self.statistics.seconds_waiting_for_dealer += time.perf_counter() - start
        self.statistics.bytes_from_dealer += size
        return data

    def _exchange(self, steps: Sequence[Step], values: dict[int, Value], randomness: _Shares) -> None:
        """One round: all openings in one message to every peer, headed by the digest of all that was opened before."""
        digest = self._digest()
        parts: list[bytes | memoryview] = [digest]
        owns: list[Any] = []
        protocols: list[Exchange] = []
        for step in steps:
            assert isinstance(step.protocol, Exchange)
            inputs = [values[index] for index in step.node.inputs]
            data, own = step.protocol.message(self._party, step.node, step.types, inputs, randomness.take(step.slots))
            parts.append(data)
            owns.append(own)
            protocols.append(step.protocol)
        self._send(parts)
        received = self._receive(digest, {index: sum(step.sizes[index] for step in steps) for index, _ in self._peers})
        self.statistics.rounds += 1
        for step, protocol, own in zip(steps, protocols, owns, strict=True):
            messages: list[memoryview | None] = [None] * len(self._party.names)
            for index, _ in self._peers:
                size = step.sizes[index]
                messages[index], received[index] = received[index][:size], received[index][size:]
            value, public = protocol.finish(self._party, step.node, own, messages, step.types)
            values[step.index] = value
            if public is not None:
                self._transcript.update(np.ascontiguousarray(public).data)

    def _send(self, parts: Sequence[bytes | memoryview]) -> None:
        for _, peer in self._peers:
            peer.send(*parts)
        self.statistics.bytes_to_peers += len(self._peers) * sum(len(part) for part in parts)

    def _receive(self, digest: bytes, sizes: dict[int, int]) -> dict[int, memoryview]:
        """One message from every peer, its digest compared with one's own and taken off."""
        start = time.perf_counter()
        received: dict[int, memoryview] = {}
        for index, peer in self._peers:
            data = peer.receive(DIGEST + sizes[index])
            if data[:DIGEST] != digest:
                raise ProtocolError(f"what was opened so far differs between {peer.peer} and {self._party.name}")
            received[index] = data[DIGEST:]
        self.statistics.seconds_waiting_for_peers += time.perf_counter() - start
        return received

    def _digest(self) -> bytes:
        return self._transcript.digest()[:DIGEST]

    def _reveal(self, execution: Execution, number: int, values: dict[int, Value]) -> list[Revealed]:
        """Compare the transcript once more, then give every receiver its parts."""
        reveals = execution.prepared.schedule.reveals
        if not reveals:
            return []
        digest = self._digest()
        self._send([digest])
        self._receive(digest, {index: 0 for index, _ in self._peers})
        self.statistics.rounds += 1
        for index, peer in self._peers:
            name = self._party.names[index]
            parts = [
                np.ascontiguousarray(values[k]).tobytes() for k, node in reveals if name in node.texts("receivers")
            ]
            if parts:
                peer.send(*parts)
                self.statistics.bytes_to_peers += sum(map(len, parts))
        mine = [(k, node) for k, node in reveals if self._party.name in node.texts("receivers")]
        totals = {k: np.array(values[k]) for k, _ in mine}
        if mine:
            for _, peer in self._peers:
                data = peer.receive(sum(8 * node.type.elements for _, node in mine))
                for k, node in mine:
                    size = 8 * node.type.elements
                    totals[k] += np.frombuffer(data[:size], dtype=np.int64).reshape(node.type.shape)
                    data = data[size:]
        result = []
        for k, node in reveals:
            for receiver in node.texts("receivers"):
                if receiver == self._party.name:
                    result.append(Revealed(node.text("name"), number, receiver, totals[k], node.type.scale, True))
                elif receiver not in self._party.names:
                    result.append(
                        Revealed(node.text("name"), number, receiver, np.asarray(values[k]), node.type.scale, False)
                    )
        return result


class _Shares:
    """This party's shares of the correlations of one execution."""

    def __init__(self, key: bytes, execution: int, keystream: int, index: int) -> None:
        self._stream = ExecutionStream(key, execution, keystream)
        self._index = index
        self.corrections = memoryview(b"")

    def take(self, slots: Sequence[Slot]) -> list[Array]:
        shares: list[Any] = []
        for slot in slots:
            correlation = slot.correlation
            if correlation.owner is not None and correlation.owner != self._index:
                shares.append(None)
            elif slot.receiver == self._index:
                shares.append(correlation.read(self.corrections[: correlation.bytes]))
                self.corrections = self.corrections[correlation.bytes :]
            else:
                shares.append(correlation.read(self._stream.take(slot.position, correlation.bytes)))
        return shares


def _owned(value: Value) -> Value:
    """A value that holds no large buffer of which it is a small part alive."""

    def own(array: Array) -> Array:
        return array if array.base is None or 0 in array.strides else np.array(array)

    if isinstance(value, Masked):
        return Masked(own(value.public), own(value.share))
    return own(np.asarray(value))
