"""All roles in one process: a thread for every party and for the dealer, over in-memory channels.

The embedded default, the test bed, and what a notebook uses. The code that runs is the same as between machines; only
the channel is another.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from parley.errors import InputError, NotFound, ProtocolError, SessionClosed
from parley.plan.graph import Kind, Type
from parley.protocols.base import Party
from parley.ring.prg import PrivateSource
from parley.runtime.channel import Channel
from parley.runtime.dealer import DealerRuntime
from parley.runtime.party import PartyRuntime
from parley.runtime.session import Execution, Revealed, Statistics, fresh_entropy

DEPTH = 64
"""Messages that a channel holds before its sender waits."""


class QueueChannel:
    """One end of a pair of queues."""

    def __init__(
        self, peer: str, inbox: queue.Queue[bytes | None], outbox: queue.Queue[bytes | None], end: _End
    ) -> None:
        self.peer = peer
        self._inbox, self._outbox, self._end = inbox, outbox, end

    def send(self, *parts: Buffer) -> None:
        message = b"".join(parts)
        while True:
            self._end.check(self.peer)
            try:
                self._outbox.put(message, timeout=0.1)
                return
            except queue.Full:
                continue

    def receive(self, size: int) -> memoryview:
        while True:
            try:
                message = self._inbox.get_nowait() if self._end.closed else self._inbox.get(timeout=0.1)
            except queue.Empty:
                self._end.check(self.peer)
                continue
            if message is None:
                self._end.check(self.peer)
                continue
            if len(message) != size:
                raise ProtocolError(f"{self.peer} sent {len(message)} bytes, the plan says {size}")
            return memoryview(message)

    def close(self, cause: str = "") -> None:
        self._end.close(cause)
        for waiting in (self._inbox, self._outbox):
            try:
                waiting.put_nowait(None)
            except queue.Full:
                continue


class _End:
    """Whether, and why, a pair of channels is closed."""

    def __init__(self) -> None:
        self.closed = False
        self.cause = ""

    def close(self, cause: str) -> None:
        if not self.closed:
            self.cause, self.closed = cause, True

    def check(self, peer: str) -> None:
        if self.closed:
            raise SessionClosed(self.cause or f"the channel to {peer} is closed")


def channel_pair(left: str, right: str) -> tuple[QueueChannel, QueueChannel]:
    """Two connected ends: the one that `left` holds, and the one that `right` holds."""
    forth: queue.Queue[bytes | None] = queue.Queue(DEPTH)
    back: queue.Queue[bytes | None] = queue.Queue(DEPTH)
    end = _End()
    return QueueChannel(right, back, forth, end), QueueChannel(left, forth, back, end)


class LocalSession:
    """A session of `parties` and a dealer in this process.

    `data` gives each party's datasets by name. Executions run in the order in which they are submitted.
    """

    def __init__(
        self, parties: Sequence[str], data: Mapping[str, Callable[[str], npt.NDArray[np.generic]]] | None = None
    ) -> None:
        self.parties = tuple(parties)
        self._identity = fresh_entropy()
        self._source = PrivateSource()
        count = len(self.parties)
        peers: list[list[Channel | None]] = [[None] * count for _ in range(count)]
        for i in range(count):
            for j in range(i + 1, count):
                peers[i][j], peers[j][i] = channel_pair(self.parties[i], self.parties[j])
        dealer_ends = [channel_pair("dealer", name) for name in self.parties]
        self._channels = [c for row in peers for c in row if c is not None] + [
            end for pair in dealer_ends for end in pair
        ]
        self._runtimes: list[PartyRuntime] = []
        self._dealer: DealerRuntime | None = None

        def open_party(index: int) -> None:
            party = Party(index, self.parties, (data or {}).get(self.parties[index], _no_data))
            self._runtimes.append(PartyRuntime(self._identity, party, peers[index], dealer_ends[index][1]))

        def open_dealer() -> None:
            self._dealer = DealerRuntime(self._identity, [here for here, _ in dealer_ends])

        self._together([open_dealer, *(partial(open_party, index) for index in range(count))])
        self._runtimes.sort(key=lambda runtime: runtime.index)

    def execute(self, execution: Execution) -> list[Revealed]:
        """Run an execution at all roles and return what it reveals, each result complete, to whomever it is revealed.

        Raises PlanError where bindings or arguments do not fit the plan, before anything runs; else the first role's
        error, and the session is closed then.
        """
        execution.check()
        results: list[list[Revealed]] = [[] for _ in self._runtimes]

        def run_party(index: int) -> None:
            runtime = self._runtimes[index]
            runtime.announce(execution)
            results[index] = runtime.execute(execution)

        def run_dealer() -> None:
            assert self._dealer is not None
            self._dealer.execute(execution)

        self._together([run_dealer, *(partial(run_party, index) for index in range(len(self._runtimes)))])
        return combine(results)

    def put(self, handle: str, type: Type, values: npt.NDArray[np.int64]) -> None:
        """Share ring elements among the parties under a handle. Raises InputError where they do not fit the type."""
        if values.dtype != np.int64 or values.shape != type.shape:
            raise InputError(f"{handle!r} is {values.dtype}{values.shape}, its type says int64{type.shape}")
        if type.kind != Kind.SHARED or type.width != 64:
            raise InputError(f"{handle!r} is put in as a shared value of 64 bits, not as {type}")
        shares = [self._source.ring(values.shape) for _ in self.parties[1:]]
        with np.errstate(over="ignore"):
            shares.insert(0, values - sum(shares))
        for runtime, share in zip(self._runtimes, shares, strict=True):
            runtime.vault.put(handle, type, share)
        assert self._dealer is not None
        self._dealer.vault.put(handle, type, None)

    def release(self, handles: Sequence[str]) -> None:
        for runtime in self._runtimes:
            runtime.vault.release(handles)
        assert self._dealer is not None
        self._dealer.vault.release(handles)

    @property
    def statistics(self) -> list[Statistics]:
        """What each party did so far, in the parties' order."""
        return [runtime.statistics for runtime in self._runtimes]

    def close(self, cause: str = "the session was closed") -> None:
        for channel in self._channels:
            channel.close(cause)

    def _together(self, actions: Sequence[Callable[[], None]]) -> None:
        """Run all actions at once; where one fails, close the session and raise the error that came first."""
        errors: list[BaseException] = []

        def guarded(action: Callable[[], None]) -> None:
            try:
                action()
            except BaseException as error:
                errors.append(error)
                self.close(f"the session ended: {error}")

        threads = [threading.Thread(target=guarded, args=(action,), daemon=True) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def _no_data(name: str) -> npt.NDArray[np.generic]:
    raise NotFound(f"this party has no dataset {name!r}")


def combine(results: Sequence[Sequence[Revealed]]) -> list[Revealed]:
    """Put together what the parties returned: parts for one receiver add up; complete results stand for themselves."""
    combined: dict[tuple[str, int, str], Revealed] = {}
    for revealed in (item for party in results for item in party):
        key = (revealed.name, revealed.execution, revealed.receiver)
        if revealed.complete or key not in combined:
            combined[key] = revealed
        else:
            with np.errstate(over="ignore"):
                values = combined[key].values + revealed.values
            combined[key] = Revealed(*key, values, revealed.scale, False)
    return [Revealed(*key, item.values, item.scale, True) for key, item in combined.items()]
