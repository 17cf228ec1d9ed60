"""A session at a node: what the services of parties and of the dealer have in common.

Three threads serve a session. The *reader* takes the coordinator's commands: it checks plans, announces executions to
the dealer at once, and puts what touches the vault into a queue. The *worker* opens the streams to the other nodes and
then does what is in the queue, in order. The *writer* (gRPC's thread of the call) sends the answers.

Whatever ends a session (an error here, a stream that broke, the coordinator's word or its absence) calls `end` with one
cause; the first one counts. All streams are closed with it, the worker stops at its next message, the vault is emptied.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

import grpc
import torch

from parley.errors import Denied, InputError, NotFound, PlanError, ProtocolError, SessionClosed
from parley.plan.cost import cost_of_schedule, value_bytes
from parley.plan.graph import Plan
from parley.plan.wire import plan_from_bytes
from parley.protocols.base import Value
from parley.runtime.session import Execution, Prepared, Statistics
from parley.runtime.vault import Vault
from services.client import Connection
from services.failures import failure
from services.identity import Caller, Identity, Role, check_name, verify_bundle
from services.logs import configure_logs, get_logger
from services.metrics import Metrics, MetricsPage
from services.parts import join, split
from services.process import prepare_process
from services.protocol import session_pb2 as pb
from services.server import Server
from services.settings import DealerSettings, PartySettings, ServiceSettings
from services.status import caller
from services.streams import GRACE_SECONDS, FrameStream, SessionGate
from services.values import arguments_from_message, type_from_bytes
from services.version import describe

__all__ = ["Node", "NodeSession", "identity_of", "run"]

_log = get_logger(__name__)
_SESSION = re.compile(r"[A-Za-z0-9_-]{8,64}")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HANDLE_CHARACTERS = 256
_HANDLES = 1 << 20
_REMEMBERED_JOBS = 4096
_LOOK_SECONDS = 1.0
"""How often an idle session looks whether its streams still stand."""


class Node(ABC):
    """A party node or the dealer: its sessions, and the methods that both services have."""

    role: ClassVar[Role]

    def __init__(self, settings: PartySettings | DealerSettings, identity: Identity | None) -> None:
        """`identity` None: without TLS, with keys that live as long as the process."""
        self.settings = settings
        self.tls = identity
        self.identity = identity or Identity.ephemeral(self.role, settings.name)
        self.caller = Caller(self.role, settings.name)
        if (self.identity.role, self.identity.name) != (self.role, settings.name):
            raise InputError(f"the settings name {self.caller}, the certificate {identity!r}: use the right directory")
        self.metrics = Metrics()
        self.gate = SessionGate(settings.connect_seconds, settings.limits.waiting_streams)
        self._changed = threading.Condition()
        self._sessions: dict[str, NodeSession] = {}
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._draining = False

    # ---- methods of the service -----------------------------------------------------------------------------------

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.Description:
        """Version, build and identity."""
        return describe(self.identity)

    def Session(self, request_iterator: Iterator[pb.Command], context: grpc.ServicerContext) -> Iterator[pb.Event]:
        """One session, from its first command to its end."""
        commands = join(request_iterator, self.settings.limits.message_bytes)
        first = next(commands, None)
        if first is None:
            return
        if first.WhichOneof("command") != "open_session":
            raise ProtocolError("the first command of a session opens it")
        session = self.make_session(first.open_session, first.number)
        self._admit(session)
        _log.info("session opened", session=session.id, job=session.job, coordinator=caller(context).name)
        yield from session.serve(commands)

    # ---- sessions -------------------------------------------------------------------------------------------------

    @abstractmethod
    def make_session(self, opening: pb.OpenSession, number: int) -> NodeSession:
        """Check what a coordinator asks for, and prepare the session."""

    def connect(self, peer: Caller, address: str) -> Connection:
        """A connection to another node, as this one."""
        return Connection(
            address, peer.role, peer.name, self.tls, claimed=self.caller, keepalive=self.settings.keepalive
        )

    def verify(self, bundle: bytes, role: Role, name: str) -> bytes:
        """The sealing key that an identity bundle proves; raises IdentityError."""
        return verify_bundle(bundle, None if self.tls is None else self.tls.authority_pem, role, name)

    def _admit(self, session: NodeSession) -> None:
        limit = self.settings.limits.sessions
        with self._changed:
            if self._draining:
                raise Denied(f"{self.caller} is stopping")
            if session.id in self._sessions:
                raise Denied(f"session {session.id} is open already")
            if len(self._sessions) >= limit:
                raise Denied(f"{self.caller} has {limit} sessions already (limits.sessions): try again later")
            newest = self._attempts.get(session.job, 0)
            if session.attempt <= newest:
                raise Denied(
                    f"attempt {session.attempt} at job {session.job} is not newer than attempt {newest}, which "
                    f"{self.caller} has seen"
                )
            self._attempts[session.job] = session.attempt
            self._attempts.move_to_end(session.job)
            if len(self._attempts) > _REMEMBERED_JOBS:
                self._attempts.popitem(last=False)
            self._sessions[session.id] = session
            self.metrics.sessions.set(len(self._sessions))

    def forget(self, session: NodeSession) -> None:
        """A session is over."""
        with self._changed:
            self._sessions.pop(session.id, None)
            self.metrics.sessions.set(len(self._sessions))
            self._changed.notify_all()

    def drain(self, seconds: float) -> None:
        """Take no new sessions, wait for those that are open, and end what is left after `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._draining = True
            while self._sessions and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())
            left = list(self._sessions.values())
        for session in left:
            session.fail(Denied("the node is being stopped"))


class NodeSession(ABC):
    """One session at one node; see the module's text."""

    def __init__(self, node: Node, opening: pb.OpenSession, number: int) -> None:
        limits = node.settings.limits
        self.id, self.job, self.attempt = opening.session, opening.job, opening.attempt
        self.parties = tuple(party.name for party in opening.parties)
        self.submitter = opening.submitter
        if not _SESSION.fullmatch(self.id):
            raise InputError("a session's name has 8 to 64 letters, digits, hyphens and underscores")
        if not _JOB.fullmatch(self.job):
            raise InputError("a job's name has 1 to 64 letters, digits, hyphens and underscores")
        if not 2 <= len(self.parties) <= limits.parties or len(set(self.parties)) != len(self.parties):
            raise InputError(f"a session has 2 to {limits.parties} different parties, not {len(self.parties)}")
        for name in (*self.parties, opening.dealer.name, self.submitter):
            check_name(name)
        self._node = node
        self._opening = opening
        self._limits = limits
        self._last_command = number
        self._next_execution = 0
        self._plans: dict[bytes, Prepared] = {}
        self._plans_bytes = 0
        self._kept: dict[str, int] = {}  # handle to bytes, as it will be when all commands so far are done
        self._kept_bytes = 0
        self._unanswered = 1
        self._ready = False
        self._work: SimpleQueue[tuple[int, Callable[[], pb.Event]] | None] = SimpleQueue()
        self._outbox: SimpleQueue[pb.Event | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._streams: list[FrameStream] = []
        self._connections: list[Connection] = []
        self._over: str | None = None

    # ---- what the roles do differently ----------------------------------------------------------------------------

    @abstractmethod
    def open(self) -> None:
        """Open the streams to the other nodes (`keep` each), and the runtime."""

    def check_plan(self, plan: Plan) -> None:  # noqa: B027 - the dealer has nothing to add
        """Raise PlanError where the plan, though legal, does not fit this node."""

    @abstractmethod
    def announce(self, execution: Execution) -> None:
        """An execution will follow."""

    @abstractmethod
    def execute(self, execution: Execution) -> list[pb.Reveal]:
        """Run it, and return what leaves this node."""

    @abstractmethod
    def share(self, put: pb.Put, shape: tuple[int, ...]) -> Value:
        """What this node keeps of a value that a client puts in."""

    @property
    @abstractmethod
    def vault(self) -> Vault:
        """The runtime's."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """A copy of what the runtime counts."""

    # ---- threads --------------------------------------------------------------------------------------------------

    def serve(self, commands: Iterator[pb.Command]) -> Iterator[pb.Event]:
        """Run the session; yields the answers until it is over."""
        for name, target, arguments in (("worker", self._run, ()), ("reader", self._read, (commands,))):
            threading.Thread(target=target, args=arguments, name=f"{name} of {self.id}", daemon=True).start()
        try:
            while (event := self._outbox.get()) is not None:
                yield from split(event)
                with self._lock:
                    self._unanswered -= 1
        finally:
            self.end("the connection to the coordinator ended", "")

    def _run(self) -> None:
        try:
            self.open()
            with self._lock:
                self._ready = True
            self._answer(self._last_command, pb.Event(ready=pb.Ready()))
            while (work := self._next()) is not None:
                number, action = work
                self._answer(number, action())
        except BaseException as error:
            self.fail(error)
        finally:
            try:
                self.vault.clear()
            except AttributeError:
                pass  # the runtime was never made

    def _next(self) -> tuple[int, Callable[[], pb.Event]] | None:
        while True:
            try:
                return self._work.get(timeout=_LOOK_SECONDS)
            except Empty:
                for stream in self._streams:
                    if stream.closed:
                        stream.send()  # raises the cause

    def _read(self, commands: Iterator[pb.Command]) -> None:
        while True:
            try:
                command = next(commands, None)
            except ProtocolError as error:
                self.fail(error)
                return
            except Exception as error:
                # gRPC's iterator raises a bare Exception when the call is over.
                _log.debug("commands ended", session=self.id, error=type(error).__name__)
                command = None
            if command is None:
                self.end("the connection to the coordinator ended", "")
                return
            try:
                if not self._handle(command):
                    return
            except BaseException as error:
                self.fail(error)
                return

    def _answer(self, number: int, event: pb.Event) -> None:
        event.number = number
        self._outbox.put(event)

    # ---- commands -------------------------------------------------------------------------------------------------

    def _handle(self, command: pb.Command) -> bool:
        """Whether more commands may follow."""
        if command.number != self._last_command + 1:
            raise ProtocolError(f"command {command.number} came after command {self._last_command}")
        with self._lock:
            if self._unanswered >= self._limits.commands:
                raise ProtocolError(
                    f"{self._unanswered} commands wait for their answers: wait, or raise limits.commands"
                )
            if not self._ready:
                kind = command.WhichOneof("command")
                if kind != "close":
                    raise ProtocolError(f"the command {kind} came before the session was ready")
            self._unanswered += 1
        self._last_command = command.number
        match command.WhichOneof("command"):
            case "load_plan":
                prepared = self._load(command.load_plan.plan)
                self._answer(command.number, pb.Event(plan_loaded=pb.PlanLoaded(plan_hash=prepared.hash)))
            case "execute":
                execution = self._execution(command.execute)
                self.announce(execution)
                self._work.put((command.number, lambda: self._execute(execution)))
            case "put":
                put, type = command.put, type_from_bytes(command.put.type)
                self._reserve({put.handle: value_bytes(type)})
                self._work.put((command.number, lambda: self._put(put)))
            case "release":
                handles = list(command.release.handles)
                for handle in handles:
                    self._kept_bytes -= self._kept.pop(handle, 0)
                self._work.put((command.number, lambda: self._release(handles)))
            case "close":
                self.end(command.close.cause or "the session is finished", "close")
                return False
            case "open_session":
                raise ProtocolError("the session is open already")
            case kind:
                raise ProtocolError(f"unknown command {kind}: run the same version of Parley everywhere")
        return True

    def _load(self, data: bytes) -> Prepared:
        if len(data) > self._limits.plan_bytes:
            raise PlanError(f"a plan of {len(data)} bytes is over the limit of {self._limits.plan_bytes}")
        if self._plans_bytes + len(data) > self._limits.session_plans_bytes:
            raise PlanError(
                "the session's plans take too much memory (limits.session_plans_bytes): open another session"
            )
        plan = plan_from_bytes(data)
        if len(plan.nodes) > self._limits.plan_nodes:
            raise PlanError(f"a plan of {len(plan.nodes)} nodes is over the limit of {self._limits.plan_nodes}")
        if plan.parties != self.parties:
            raise PlanError(f"the plan is for {', '.join(plan.parties)}, the session of {', '.join(self.parties)}")
        prepared = Prepared.of(plan)
        self.check_plan(plan)
        memory = cost_of_schedule(prepared.schedule).peak_memory
        if memory > self._limits.memory_bytes:
            raise PlanError(f"the plan needs {memory} bytes of memory, the limit is {self._limits.memory_bytes}")
        if prepared.hash not in self._plans:
            self._plans[prepared.hash] = prepared
            self._plans_bytes += len(data)
        return prepared

    def _execution(self, message: pb.Execute) -> Execution:
        prepared = self._plans.get(message.plan_hash)
        if prepared is None:
            raise NotFound(f"no plan {message.plan_hash.hex()[:16]!r} was loaded in this session")
        if not 1 <= len(message.arguments) <= self._limits.repetitions:
            raise InputError(
                f"an execution has 1 to {self._limits.repetitions} repetitions, not {len(message.arguments)}"
            )
        if message.first_execution < self._next_execution:
            raise ProtocolError(
                f"execution {message.first_execution} comes after {self._next_execution - 1}; numbers only grow"
            )
        execution = Execution(
            prepared,
            message.first_execution,
            dict(message.load),
            dict(message.store),
            tuple(arguments_from_message(arguments) for arguments in message.arguments),
        )
        execution.check()
        stored = {node.text("slot"): node.type for _, node in prepared.plan.with_operation("store")}
        self._reserve({handle: value_bytes(stored[slot]) for slot, handle in execution.stores.items()})
        self._next_execution = execution.first + len(execution.arguments)
        return execution

    def _reserve(self, sizes: dict[str, int]) -> None:
        """Take account of values that will be kept; raises InputError where they are too much."""
        for handle in sizes:
            if not 1 <= len(handle) <= _HANDLE_CHARACTERS:
                raise InputError(f"a handle has 1 to {_HANDLE_CHARACTERS} characters")
        for handle, size in sizes.items():
            self._kept_bytes += size - self._kept.get(handle, 0)
            self._kept[handle] = size
        if len(self._kept) > _HANDLES or self._kept_bytes > self._limits.memory_bytes:
            raise InputError("the session keeps more values than this node allows (limits.memory_bytes): release some")

    def _execute(self, execution: Execution) -> pb.Event:
        before = self.statistics()
        reveals = self.execute(execution)
        after = self.statistics()
        executed = pb.Executed(
            seconds=after.seconds - before.seconds,
            rounds=after.rounds - before.rounds,
            bytes_sent=after.bytes_to_peers - before.bytes_to_peers,
            bytes_from_dealer=after.bytes_from_dealer - before.bytes_from_dealer,
            seconds_waiting_for_peers=after.seconds_waiting_for_peers - before.seconds_waiting_for_peers,
            seconds_waiting_for_dealer=after.seconds_waiting_for_dealer - before.seconds_waiting_for_dealer,
            repetitions=len(execution.arguments),
            reveals=reveals,
        )
        metrics = self._node.metrics
        metrics.executions.inc(executed.repetitions)
        metrics.wait_seconds.inc(executed.seconds_waiting_for_peers + executed.seconds_waiting_for_dealer)
        metrics.stream_bytes.labels("sent").inc(executed.bytes_sent)
        metrics.stream_bytes.labels("received").inc(executed.bytes_from_dealer)
        return pb.Event(executed=executed)

    def _put(self, put: pb.Put) -> pb.Event:
        type = type_from_bytes(put.type)
        self.vault.put(put.handle, type, self.share(put, type.shape))
        return pb.Event(done=pb.Done())

    def _release(self, handles: Sequence[str]) -> pb.Event:
        self.vault.release(handles)
        return pb.Event(done=pb.Done())

    # ---- the end --------------------------------------------------------------------------------------------------

    def keep(self, stream: FrameStream, connection: Connection | None = None) -> FrameStream:
        """Close the stream (and its connection) when the session ends; raises SessionClosed where it has ended."""
        with self._lock:
            over = self._over
            if over is None:
                self._streams.append(stream)
                if connection is not None:
                    self._connections.append(connection)
        if over is not None:
            stream.close(over)
            if connection is not None:
                _close_later([connection])
            raise SessionClosed(over)
        return stream

    def fail(self, error: BaseException) -> None:
        """End the session because of an error at this node, or one that another node has told."""
        failed = failure(error, self._node.caller)
        if self._over is None and failed.cause.startswith(f"{self._node.caller}: internal error"):
            _log.error("session failed", session=self.id, exc_info=error)
        self.end(failed.cause, failed.kind, failed.node)

    def end(self, cause: str, kind: str, node: str = "") -> None:
        """End the session. `kind`: of a failure; "close" where the coordinator wants it; empty where it is gone."""
        with self._lock:
            if self._over is not None:
                return
            self._over = cause
            streams, connections = list(self._streams), list(self._connections)
        self._node.gate.forget(self.id, cause)
        for stream in streams:
            stream.close(cause)
        if kind == "close":
            self._outbox.put(pb.Event(number=self._last_command, closed=pb.Closed()))
        elif kind:
            self._outbox.put(pb.Event(failed=pb.Failed(cause=cause, kind=kind, node=node)))
        self._outbox.put(None)
        self._work.put(None)
        self._node.forget(self)
        _log.info("session ended", session=self.id, job=self.job, cause=cause, kind=kind or "gone")
        _close_later(connections)


def _close_later(connections: Sequence[Connection]) -> None:
    """Close connections once their streams have told the peers why."""

    def close() -> None:
        for connection in connections:
            connection.close()

    timer = threading.Timer(GRACE_SECONDS, close)
    timer.daemon = True
    timer.start()


# ---- the process ----------------------------------------------------------------------------------------------------


def identity_of(settings: ServiceSettings) -> Identity | None:
    """The identity that the settings name; None where they say insecure."""
    return None if settings.insecure or settings.tls.directory is None else Identity.load(settings.tls.directory)


def run(node: Node, add: Callable[[Any, Any], None], raw: Sequence[str]) -> None:
    """Serve a node until the process is told to stop (SIGTERM or SIGINT), and stop gracefully."""
    prepare_process()
    settings = node.settings
    configure_logs(settings.log.level, settings.log.format, role=node.role, name=settings.name)
    torch.set_num_threads(settings.threads)
    limits = settings.limits
    server = Server(
        settings.listen,
        node.tls,
        metrics=node.metrics,
        streams=limits.sessions * (limits.parties + 1),
        keepalive=settings.keepalive,
    )
    server.add_service(add, node, raw)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    page: MetricsPage | None = node.metrics.serve(settings.metrics_listen) if settings.metrics_listen else None
    server.start()
    stop.wait()
    _log.info("stopping")
    server.drain()
    node.drain(settings.grace_seconds)
    server.stop(1.0)
    if page is not None:
        page.stop()
