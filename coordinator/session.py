"""Sessions, as the coordinator drives them: commands to all nodes, a window ahead, and their answers.

A `ClusterSession` numbers commands and executions and never sees a share, a mask or a result: values that it passes on
are sealed to their receivers. Commands are sent in the order in which they are given; each is answered by all nodes.
When one node fails, or is gone, the session is closed at all others with that cause; every answer that is still due,
and every later call, then raises it.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import grpc

from parley.errors import Denied, InputError, NotFound, ParleyError, ProtocolError, SessionClosed, Unreachable
from services.client import Connection
from services.failures import error_of
from services.identity import Caller, Identity, Role, verify_bundle
from services.logs import get_logger
from services.parts import join, split
from services.protocol import dealer_pb2_grpc, party_pb2_grpc
from services.protocol import session_pb2 as pb
from services.protocol.coordinator_pb2 import NodeStatus, ResultPart
from services.settings import CoordinatorSettings, NodeAddress
from services.status import explain
from services.version import check, request

__all__ = ["ClusterSession", "Outcome", "SessionManager"]

_log = get_logger(__name__)

COMMAND_REPETITIONS = 32
"""Most repetitions in one command; fewer where they take long, so that a command takes about a second."""
COMMAND_SECONDS = 1.0
VERDICT_SECONDS = 1.0
"""How long, after one node has failed, the others may take to say why, since the first to speak may only have heard."""
CLOSE_SECONDS = 5.0

Progress = Callable[[int, Mapping[str, pb.Executed]], None]
"""Called with the repetitions done so far, and with what those since the last call took, by node."""


@dataclass
class Outcome:
    """What one `execute` has come to."""

    statistics: dict[str, pb.Executed] = field(default_factory=dict)
    """By node, the dealer included; sums over all repetitions, without reveals."""
    parts: list[ResultPart] = field(default_factory=list)
    """The parties' parts of what is revealed to the submitter, sealed to it, in the order of the executions."""


def add_executed(total: pb.Executed, more: pb.Executed) -> None:
    """Add up two statistics, without reveals."""
    total.seconds += more.seconds
    total.rounds += more.rounds
    total.bytes_sent += more.bytes_sent
    total.bytes_from_dealer += more.bytes_from_dealer
    total.seconds_waiting_for_peers += more.seconds_waiting_for_peers
    total.seconds_waiting_for_dealer += more.seconds_waiting_for_dealer
    total.repetitions += more.repetitions


# ---- work -----------------------------------------------------------------------------------------------------------


class _Work(ABC):
    """Something to be done by one or more commands; the future gets `result` when all are answered."""

    exhausted = False
    """Whether all commands were taken."""
    outstanding = 0
    """Commands that were taken and are not answered."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it cannot be taken back

    @abstractmethod
    def next(self, session: ClusterSession) -> pb.Command | dict[str, pb.Command]:
        """The next command: one for all nodes, or one for each."""

    def answered(self, events: dict[str, pb.Event]) -> None:  # noqa: B027 - most have nothing to do
        """All nodes have answered a command."""

    def result(self) -> Any:
        """What the future gets."""
        return None


class _Single(_Work):
    """One command."""

    def __init__(self, command: pb.Command | dict[str, pb.Command]) -> None:
        super().__init__()
        self._command = command

    def next(self, session: ClusterSession) -> pb.Command | dict[str, pb.Command]:
        self.exhausted = True
        return self._command


class _Load(_Single):
    """A plan, of which all nodes find the same hash."""

    def __init__(self, plan: bytes) -> None:
        super().__init__(pb.Command(load_plan=pb.LoadPlan(plan=plan)))
        self._hash = b""

    def answered(self, events: dict[str, pb.Event]) -> None:
        hashes = {event.plan_loaded.plan_hash for event in events.values()}
        if len(hashes) != 1 or not next(iter(hashes)):
            raise ProtocolError("the nodes give the plan different hashes: run the same version of Parley everywhere")
        self._hash = hashes.pop()

    def result(self) -> bytes:
        return self._hash


class _Execution(_Work):
    """A plan, repeated; numbered when it is sent."""

    def __init__(
        self,
        session: str,
        plan_hash: bytes,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[pb.Arguments],
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self._hash, self._loads, self._stores = plan_hash, dict(loads), dict(stores)
        self._arguments = arguments
        self._sent = 0
        self._progress = progress
        self._session = session
        self._outcome = Outcome()

    def next(self, session: ClusterSession) -> pb.Command:
        count = min(session.batch, len(self._arguments) - self._sent)
        command = pb.Command()
        execute = command.execute
        execute.plan_hash = self._hash
        execute.first_execution = session.take_numbers(count)
        execute.load.update(self._loads)
        execute.store.update(self._stores)
        execute.arguments.extend(self._arguments[self._sent : self._sent + count])
        self._sent += count
        self.exhausted = self._sent == len(self._arguments)
        return command

    def answered(self, events: dict[str, pb.Event]) -> None:
        latest = {}
        for node, event in events.items():
            executed = event.executed
            self._outcome.parts.extend(
                ResultPart(party=node, session=self._session, reveal=reveal) for reveal in executed.reveals
            )
            executed.ClearField("reveals")
            add_executed(self._outcome.statistics.setdefault(node, pb.Executed()), executed)
            latest[node] = executed
        if self._progress is not None:
            self._progress(next(iter(self._outcome.statistics.values())).repetitions, latest)

    def result(self) -> Outcome:
        return self._outcome


@dataclass
class _Sent:
    """A command that is not yet answered by all nodes."""

    work: _Work
    kind: str
    bytes: int
    answers: dict[str, pb.Event] = field(default_factory=dict)


_ANSWERS = {
    "load_plan": "plan_loaded",
    "execute": "executed",
    "put": "done",
    "release": "done",
    "open_session": "ready",
}


# ---- one node of a session ------------------------------------------------------------------------------------------


class _Link:
    """The stream of commands and events to one node."""

    def __init__(self, session: ClusterSession, peer: Caller, stream: Any, connection: Connection, limit: int) -> None:
        self.peer = peer
        self._session = session
        self._limit = limit
        self._outbox: SimpleQueue[pb.Command | None] = SimpleQueue()
        self._finished = False
        self._call = stream(self._commands(), metadata=connection.metadata)
        self._thread = threading.Thread(target=self._read, name=f"events of {peer}", daemon=True)
        self._thread.start()

    def send(self, command: pb.Command) -> None:
        """Send a command; never waits."""
        self._outbox.put(command)

    def finish(self) -> None:
        """No more commands will follow."""
        self._finished = True
        self._outbox.put(None)

    def cancel(self) -> None:
        """Cut the stream."""
        self._call.cancel()

    def join(self, timeout: float) -> None:
        """Wait for the end of the stream."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _commands(self) -> Iterator[pb.Command]:
        while (command := self._outbox.get()) is not None:
            yield from split(command)

    def _read(self) -> None:
        failed = pb.Failed(kind=SessionClosed.__name__, cause=f"{self.peer} ended the session", node=str(self.peer))
        try:
            for event in join(self._call, self._limit):
                self._session._event(self, event)
        except grpc.RpcError as error:
            reason = explain(error, str(self.peer))
            failed = pb.Failed(kind=type(reason).__name__, cause=str(reason), node=str(self.peer))
        except ParleyError as error:
            failed = pb.Failed(kind=type(error).__name__, cause=f"{self.peer}: {error}", node=str(self.peer))
            self._call.cancel()
        except Exception as error:
            _log.error("events cannot be handled", node=str(self.peer), exc_info=error)
            failed = pb.Failed(kind="ParleyError", cause="internal error: the coordinator's log says more")
            self._call.cancel()
        finally:
            self._outbox.put(None)
            self._session._gone(self, failed)


# ---- the session ----------------------------------------------------------------------------------------------------


class ClusterSession:
    """One session of several parties and the dealer; made by `SessionManager.open`. All methods are thread-safe."""

    def __init__(self, id: str, job: str, parties: Sequence[str], dealer: str, settings: CoordinatorSettings) -> None:
        self.id = id
        self.job = job
        self.parties = tuple(parties)
        self.dealer = dealer
        self.nodes: list[pb.Node] = []
        """The parties, in the order of their indices."""
        self.dealer_node = pb.Node()
        self.party_identity_bundles: dict[str, bytes] = {}
        self.batch = 1
        """Repetitions in the next command."""
        self.failure: pb.Failed | None = None
        """Why it failed: cause, node and kind of error."""
        self._settings = settings
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._links: dict[str, _Link] = {}
        self._present: set[str] = set()
        self._waiting: deque[_Work] = deque()
        self._sent: dict[int, _Sent] = {}
        self._sent_bytes = 0
        self._number = 0
        self._execution = 0
        self._plans: dict[bytes, Future[bytes]] = {}
        self._reports: list[pb.Failed] = []
        self._closing = ""
        self._on_end: list[Callable[[ParleyError], None]] = []
        self._manager: SessionManager | None = None
        self._datasets: Callable[[], list[pb.Dataset]] = list

    # ---- commands -------------------------------------------------------------------------------------------------

    def load_plan(self, plan: bytes) -> bytes:
        """Have all nodes check a plan; returns its hash. Of a plan that is loaded already nothing is sent."""
        return self.load_plan_later(plan).result()

    def load_plan_later(self, plan: bytes) -> Future[bytes]:
        """The same, without waiting; commands that are given afterwards may name the plan already."""
        key = hashlib.sha256(plan).digest()
        with self._lock:
            known = self._plans.get(key)
            if known is None:
                work = _Load(plan)
                self._submit(work)
                known = self._plans[key] = work.future
        return known

    def execute(
        self,
        plan_hash: bytes,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[pb.Arguments],
        progress: Progress | None = None,
    ) -> Future[Outcome]:
        """Run a loaded plan once for every entry of `arguments` (an empty one where it takes none).

        It is sent in commands of several repetitions, as the window allows; `progress` is called after each.
        """
        work = _Execution(self.id, plan_hash, loads, stores, arguments, progress)
        if not arguments:
            raise InputError("an execution needs at least one entry of arguments, an empty one where there are none")
        self._submit(work)
        return work.future

    def put(self, handle: str, type: bytes, sealed_shares: Mapping[str, bytes]) -> Future[None]:
        """Place a client's shares, each sealed to its party, under a handle."""
        if set(sealed_shares) != set(self.parties):
            raise InputError(f"a value is put in with one share for each of {', '.join(self.parties)}")
        commands = {
            name: pb.Command(put=pb.Put(handle=handle, type=type, sealed_share=share))
            for name, share in sealed_shares.items()
        }
        commands[self.dealer] = pb.Command(put=pb.Put(handle=handle, type=type))
        work = _Single(commands)
        self._submit(work)
        return work.future

    def release(self, handles: Sequence[str]) -> Future[None]:
        """Have all nodes forget values; unknown handles are ignored."""
        work = _Single(pb.Command(release=pb.Release(handles=handles)))
        self._submit(work)
        return work.future

    def datasets(self) -> list[pb.Dataset]:
        """What the parties offer now."""
        return self._datasets()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that was given is answered; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._sent, timeout)

    def wait_for_room(self, works: int) -> None:
        """Wait until fewer than `works` calls wait to be sent, or the session is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < works or self.closed is not None)

    def on_end(self, callback: Callable[[ParleyError], None]) -> None:
        """Call back with the cause when the session is over (at once, where it is)."""
        with self._lock:
            if self.failure is None:
                self._on_end.append(callback)
                return
            error = error_of(self.failure)
        callback(error)

    @property
    def finished(self) -> bool:
        """Whether it was closed here, and not by a failure."""
        return bool(self._closing)

    @property
    def closed(self) -> str | None:
        """The cause that ended the session; None while it stands."""
        return None if self.failure is None else self.failure.cause

    def close(self, cause: str = "") -> None:
        """End the session at all nodes, at once; with no cause, it is simply finished. Repeating it does nothing."""
        with self._lock:
            if self._closing or self.failure is not None:
                return
            self._closing = cause or "the session is finished"
            links = self._close_links(cause)
        end = time.monotonic() + CLOSE_SECONDS
        for link in links:
            link.join(max(0.0, end - time.monotonic()))
        for link in links:
            link.cancel()
        self._finish(pb.Failed(cause=self._closing, kind=SessionClosed.__name__))

    # ---- sending --------------------------------------------------------------------------------------------------

    def take_numbers(self, count: int) -> int:
        """The first of `count` fresh execution numbers (while the session is locked)."""
        first = self._execution
        self._execution += count
        return first

    def _submit(self, work: _Work) -> None:
        with self._lock:
            if self.failure is not None:
                raise error_of(self.failure)
            if self._closing:
                raise SessionClosed(self._closing)
            self._waiting.append(work)
            self._pump()

    def _pump(self) -> None:
        """Send what the window lets through (while the session is locked)."""
        settings = self._settings
        while self._waiting and not self._closing and not self._reports:
            if len(self._sent) >= settings.window or (self._sent and self._sent_bytes >= settings.window_bytes):
                return
            work = self._waiting[0]
            command = work.next(self)
            if work.exhausted:
                self._waiting.popleft()
                self._changed.notify_all()
            self._number += 1
            work.outstanding += 1
            commands = command if isinstance(command, dict) else dict.fromkeys(self._links, command)
            some = next(iter(commands.values()))
            sent = _Sent(work, some.WhichOneof("command") or "", max(each.ByteSize() for each in commands.values()))
            self._sent[self._number] = sent
            self._sent_bytes += sent.bytes
            for name, each in commands.items():
                each.number = self._number
                self._links[name].send(each)

    # ---- answers --------------------------------------------------------------------------------------------------

    def _event(self, link: _Link, event: pb.Event) -> None:
        kind = event.WhichOneof("event")
        name = link.peer.name
        if kind == "failed":
            self._report(event.failed)
            return
        if kind == "closed":
            return
        with self._lock:
            sent = self._sent.get(event.number)
            if sent is None or name in sent.answers or _ANSWERS.get(sent.kind) != kind:
                if self._closing or self._reports:
                    return
                raise ProtocolError(f"answered command {event.number} with {kind}, which was not asked for")
            sent.answers[name] = event
            if len(sent.answers) < len(self._links):
                return
            work = sent.work
            if sent.kind == "execute":
                self._adapt(sent)
            work.answered({each: sent.answers[each] for each in self._links})
            del self._sent[event.number]
            self._sent_bytes -= sent.bytes
            work.outstanding -= 1
            self._pump()
            done = work.exhausted and not work.outstanding
            self._changed.notify_all()
        if done:
            work.future.set_result(work.result())

    def _adapt(self, sent: _Sent) -> None:
        """Let a command take about a second."""
        executed = [event.executed for event in sent.answers.values()]
        each = max(entry.seconds / max(entry.repetitions, 1) for entry in executed)
        wanted = round(COMMAND_SECONDS / each) if each > 0 else COMMAND_REPETITIONS
        self.batch = min(max(wanted, 1), 2 * self.batch, COMMAND_REPETITIONS)

    # ---- the end --------------------------------------------------------------------------------------------------

    def _report(self, failed: pb.Failed) -> None:
        """A node has failed: close the others at once, and decide soon which cause to name."""
        with self._lock:
            if self.failure is not None or self._closing:
                return
            first = not self._reports
            self._reports.append(failed)
            if not first:
                return
            self._close_links(failed.cause)
        timer = threading.Timer(VERDICT_SECONDS, self._decide)
        timer.daemon = True
        timer.start()

    def _gone(self, link: _Link, failed: pb.Failed) -> None:
        """The stream of a node has ended."""
        with self._lock:
            self._present.discard(link.peer.name)
            last = not self._present
        self._report(failed)
        if last:
            self._decide()

    def _decide(self) -> None:
        with self._lock:
            if not self._reports or self.failure is not None:
                return
            # Who says that it was closed has heard it from another node; who is silent is gone.
            own = [report for report in self._reports if report.kind != SessionClosed.__name__]
            verdict = (own or self._reports)[0]
            links = list(self._links.values())
        for link in links:
            link.cancel()
        self._finish(verdict)

    def _close_links(self, cause: str) -> list[_Link]:
        links = list(self._links.values())
        self._number += 1
        for link in links:
            link.send(pb.Command(number=self._number, close=pb.CloseSession(cause=cause)))
            link.finish()
        return links

    def _finish(self, failed: pb.Failed) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = failed
            works = {id(sent.work): sent.work for sent in self._sent.values()}
            works.update((id(work), work) for work in self._waiting)
            self._sent.clear()
            self._waiting.clear()
            callbacks, self._on_end = self._on_end, []
            self._changed.notify_all()
        _log.info("session ended", session=self.id, job=self.job, cause=failed.cause, node=failed.node)
        for work in works.values():
            if not work.future.done():
                work.future.set_exception(error_of(failed))
        for callback in callbacks:
            callback(error_of(failed))
        if self._manager is not None:
            self._manager._forget(self)

    # ---- opening --------------------------------------------------------------------------------------------------

    def _open(self, links: Mapping[str, Callable[[], _Link]], openings: Mapping[str, pb.OpenSession]) -> None:
        """Open all streams and wait until every node is ready; raises the cause where one is not."""
        work = _Single({name: pb.Command(open_session=opening) for name, opening in openings.items()})
        with self._lock:
            self._present = set(links)
            for name, make in links.items():
                self._links[name] = make()
            self._waiting.append(work)
            self._pump()
        timeout = self._settings.connect_seconds + CLOSE_SECONDS
        try:
            work.future.result(timeout)
        except FutureTimeout:
            with self._lock:
                answered = set(self._sent[1].answers) if 1 in self._sent else set()
                silent = sorted(set(self._links) - answered)
            cause = f"{', '.join(silent)} did not open the session within {timeout:g} s"
            self.close(cause)
            raise Unreachable(cause) from None


class SessionManager:
    """Opens sessions among the nodes that the settings name."""

    def __init__(self, settings: CoordinatorSettings, identity: Identity | None) -> None:
        """`identity` None: without TLS, on loopback. Raises InputError where no dealer is named."""
        if settings.dealer is None:
            raise InputError("dealer is not set: name the dealer's name and address")
        if settings.dealer.name in {party.name for party in settings.parties}:
            raise InputError(f"a party and the dealer are both called {settings.dealer.name!r}")
        self.settings = settings
        self.identity = identity
        self.own_identity = identity or Identity.ephemeral("coordinator", settings.name)
        self._dealer = settings.dealer
        self._parties = {party.name: party for party in settings.parties}
        self._lock = threading.Lock()
        self._connections: dict[Caller, Connection] = {}
        self._sessions: dict[str, ClusterSession] = {}
        self._stopping = False

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of all parties that the coordinator knows."""
        return tuple(self._parties)

    @property
    def sessions(self) -> list[ClusterSession]:
        """Those that are open."""
        with self._lock:
            return list(self._sessions.values())

    def open(
        self, parties: Sequence[str], submitter: str, submitter_bundle: bytes, job: str = "", attempt: int = 1
    ) -> ClusterSession:
        """A session of these parties; for no job, one of its own name. `attempt` grows with every attempt at a job.

        Raises InputError, NotFound, IdentityError, Unreachable or Denied, which name the node.
        """
        if len(set(parties)) != len(parties) or len(parties) < 2:
            raise InputError(f"a session has 2 or more different parties, not {', '.join(parties) or 'none'}")
        for name in parties:
            self._party(name)
        authority = None if self.identity is None else self.identity.authority_pem
        verify_bundle(submitter_bundle, authority, "submitter", submitter)
        limit = self.settings.limits.sessions
        with self._lock:
            if self._stopping:
                raise Denied("the coordinator is stopping: try again when it is back")
            if len(self._sessions) >= limit:
                raise Denied(f"the coordinator has {limit} sessions already (limits.sessions): try again later")
        id = secrets.token_hex(16)
        session = ClusterSession(id, job or f"session-{id}", parties, self._dealer.name, self.settings)
        addresses: list[tuple[Role, NodeAddress]] = [("party", self._parties[name]) for name in parties]
        addresses.append(("dealer", self._dealer))
        descriptions = {node.name: self.describe(role, node) for role, node in addresses}
        session.party_identity_bundles = {name: descriptions[name].identity_bundle for name in parties}
        session.nodes = [pb.Node(name=node.name, address=node.address) for _, node in addresses[:-1]]
        session.dealer_node = pb.Node(name=self._dealer.name, address=self._dealer.address)
        session._datasets = lambda: self.datasets(parties)
        links: dict[str, Callable[[], _Link]] = {}
        openings: dict[str, pb.OpenSession] = {}
        for index, (role, node) in enumerate(addresses):
            links[node.name] = lambda role=role, node=node: self._link(session, role, node)  # type: ignore[misc]
            openings[node.name] = pb.OpenSession(
                session=id,
                attempt=attempt,
                job=session.job,
                parties=session.nodes,
                index=index if role == "party" else -1,
                dealer=session.dealer_node,
                submitter=submitter,
                submitter_identity_bundle=submitter_bundle,
            )
        with self._lock:
            self._sessions[id] = session
        session._manager = self
        try:
            session._open(links, openings)
        except BaseException:
            session.close("the session could not be opened")
            self._forget(session)
            raise
        _log.info("session opened", session=id, job=session.job, parties=list(parties), submitter=submitter)
        return session

    def describe(self, role: Role, node: NodeAddress, timeout: float = 5.0) -> pb.Description:
        """Who a node is; raises Unreachable, IdentityError, or ProtocolError where it runs another version."""
        connection = self._connection(role, node)
        stub: Any = party_pb2_grpc.PartyStub if role == "party" else dealer_pb2_grpc.DealerStub
        description: pb.Description = connection.call(stub(connection.channel).Describe, request(), timeout)
        check(description, connection.peer)
        return description

    def statuses(self) -> list[NodeStatus]:
        """All nodes, and whether they can be reached now."""
        everyone: list[tuple[Role, NodeAddress]] = [("party", party) for party in self._parties.values()]
        everyone.append(("dealer", self._dealer))
        statuses = []
        for role, node in everyone:
            status = NodeStatus(node=pb.Node(name=node.name, address=node.address), role=role)
            try:
                status.description.CopyFrom(self.describe(role, node))
                status.reachable = True
            except ParleyError as error:
                status.reason = str(error)
            statuses.append(status)
        return statuses

    def datasets(self, parties: Sequence[str] | None = None) -> list[pb.Dataset]:
        """What these parties (None: all that can be reached) offer; raises Unreachable where a named one is away."""
        found: list[pb.Dataset] = []
        for name in self._parties if parties is None else parties:
            connection = self._connection("party", self._party(name))
            stub = party_pb2_grpc.PartyStub(connection.channel)
            try:
                response = connection.call(stub.ListDatasets, pb.ListDatasetsRequest())
            except Unreachable:
                if parties is not None:
                    raise
                continue
            # A party speaks for its own data only.
            found.extend(dataset for dataset in response.datasets if dataset.name.startswith(f"{name}/"))
        return found

    def close(self, cause: str = "the coordinator is stopping") -> None:
        """End all sessions and connections; no more are opened."""
        with self._lock:
            self._stopping = True
        for session in self.sessions:
            session.close(cause)
        with self._lock:
            connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.close()

    def _party(self, name: str) -> NodeAddress:
        if name not in self._parties:
            raise NotFound(f"the coordinator knows no party {name!r}; it knows {', '.join(self._parties) or 'none'}")
        return self._parties[name]

    def _connection(self, role: Role, node: NodeAddress) -> Connection:
        peer = Caller(role, node.name)
        with self._lock:
            connection = self._connections.get(peer)
            if connection is None:
                connection = self._connections[peer] = Connection(
                    node.address,
                    role,
                    node.name,
                    self.identity,
                    claimed=Caller("coordinator", self.settings.name),
                    keepalive=self.settings.keepalive,
                )
            return connection

    def _link(self, session: ClusterSession, role: Role, node: NodeAddress) -> _Link:
        connection = self._connection(role, node)
        stub: Any = party_pb2_grpc.PartyStub if role == "party" else dealer_pb2_grpc.DealerStub
        limit = self.settings.limits.message_bytes
        return _Link(session, connection.peer, stub(connection.channel).Session, connection, limit)

    def _forget(self, session: ClusterSession) -> None:
        with self._lock:
            self._sessions.pop(session.id, None)
