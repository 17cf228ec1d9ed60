"""The coordinator's methods for the interactive Python interface: sessions that live as long as their stream.

The commands of a client are passed on to a `ClusterSession`, and its answers back. Values are sealed between client and
parties; the coordinator sees plans, handles and sizes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import grpc

from coordinator.session import ClusterSession, Outcome, SessionManager
from parley.errors import InputError, ParleyError, ProtocolError
from services.failures import failure
from services.identity import Caller
from services.logs import get_logger
from services.parts import join, split
from services.protocol import coordinator_pb2 as pb
from services.protocol import session_pb2
from services.status import caller
from services.version import describe

_log = get_logger(__name__)

WAITING_COMMANDS = 4
"""Commands of one client that wait for room in the window; more are not read from its stream."""
UNANSWERED_COMMANDS = 64
"""Commands of one client whose answers it has not yet taken; more are not read either."""


class SessionServicer:
    """Describe, ListNodes, ListDatasets and Session of coordinator.proto; to be mixed into the service."""

    def __init__(self, sessions: SessionManager) -> None:
        self.sessions = sessions

    def Describe(self, request: session_pb2.DescribeRequest, context: grpc.ServicerContext) -> session_pb2.Description:
        """Version, build and identity."""
        return describe(self.sessions.own_identity)

    def ListNodes(self, request: pb.ListNodesRequest, context: grpc.ServicerContext) -> pb.ListNodesResponse:
        """All nodes, and whether they can be reached."""
        return pb.ListNodesResponse(nodes=self.sessions.statuses())

    def ListDatasets(
        self, request: session_pb2.ListDatasetsRequest, context: grpc.ServicerContext
    ) -> session_pb2.ListDatasetsResponse:
        """What the parties that can be reached offer."""
        return session_pb2.ListDatasetsResponse(datasets=self.sessions.datasets())

    def Session(
        self, request_iterator: Iterator[pb.ClientCommand], context: grpc.ServicerContext
    ) -> Iterator[pb.ClientEvent]:
        """One interactive session."""
        who = caller(context)
        commands = join(request_iterator, self.sessions.settings.limits.message_bytes)
        first = next(commands, None)
        if first is None:
            return
        if first.WhichOneof("command") != "open":
            raise ProtocolError("the first command of a session opens it")
        parties = list(first.open.parties) or list(self.sessions.parties)
        session = self.sessions.open(parties, who.name, first.open.identity_bundle)
        yield from _Client(who, session, first.number).serve(commands)


class _Client:
    """One client and its session."""

    def __init__(self, who: Caller, session: ClusterSession, number: int) -> None:
        self._who = who
        self._session = session
        self._last = number
        self._outbox: SimpleQueue[pb.ClientEvent | None] = SimpleQueue()
        self._unanswered = threading.Semaphore(UNANSWERED_COMMANDS)

    def serve(self, commands: Iterator[pb.ClientCommand]) -> Iterator[pb.ClientEvent]:
        session = self._session
        try:
            ready = pb.ClientReady(
                session=session.id,
                parties=session.nodes,
                dealer=session.dealer_node,
                party_identity_bundles=session.party_identity_bundles,
                datasets=session.datasets(),
            )
            yield from split(pb.ClientEvent(number=self._last, ready=ready))
            session.on_end(self._ended)
            reader = threading.Thread(
                target=self._read, args=(commands,), name=f"commands of {self._who.name}", daemon=True
            )
            reader.start()
            while (event := self._outbox.get()) is not None:
                yield from split(event)
                self._unanswered.release()
        finally:
            session.close(f"the connection to {self._who} ended")

    def _ended(self, error: ParleyError) -> None:
        failed = self._session.failure
        if failed is None or self._session.finished:
            self._outbox.put(pb.ClientEvent(number=self._last, closed=session_pb2.Closed()))
        else:
            self._outbox.put(pb.ClientEvent(failed=failed))
        self._outbox.put(None)

    def _read(self, commands: Iterator[pb.ClientCommand]) -> None:
        try:
            while True:
                self._session.wait_for_room(WAITING_COMMANDS)
                while not self._unanswered.acquire(timeout=1.0):
                    if self._session.closed is not None:
                        return
                try:
                    command = next(commands, None)
                except ParleyError:
                    raise
                except Exception as error:  # gRPC's iterator raises a bare Exception when the call is over
                    _log.debug("commands ended", session=self._session.id, error=type(error).__name__)
                    command = None
                if command is None:
                    self._session.close(f"the connection to {self._who} ended")
                    return
                if not self._handle(command):
                    return
        except BaseException as error:
            if not isinstance(error, ParleyError):
                _log.error("a client's command failed", session=self._session.id, exc_info=error)
            failed = failure(error, Caller("coordinator", "coordinator"))
            self._outbox.put(pb.ClientEvent(failed=failed))
            self._outbox.put(None)
            self._session.close(failed.cause)

    def _handle(self, command: pb.ClientCommand) -> bool:
        """Whether more commands may follow."""
        if command.number != self._last + 1:
            raise ProtocolError(f"command {command.number} came after command {self._last}")
        self._last = number = command.number
        session = self._session
        match command.WhichOneof("command"):
            case "load_plan":
                self._when(
                    session.load_plan_later(command.load_plan.plan),
                    lambda hash: pb.ClientEvent(number=number, plan_loaded=session_pb2.PlanLoaded(plan_hash=hash)),
                )
            case "execute":
                execute = command.execute
                if execute.first_execution:
                    raise InputError("the coordinator numbers the executions of a session: leave first_execution 0")
                future = session.execute(execute.plan_hash, execute.load, execute.store, execute.arguments)
                self._when(future, lambda outcome: self._executed(number, outcome))
            case "put":
                put = command.put
                future_put = session.put(put.handle, put.type, put.sealed_shares)
                self._when(future_put, lambda _: pb.ClientEvent(number=number, done=session_pb2.Done()))
            case "release":
                future_release = session.release(command.release.handles)
                self._when(future_release, lambda _: pb.ClientEvent(number=number, done=session_pb2.Done()))
            case "close":
                session.drain()
                session.close()
                return False
            case kind:
                raise ProtocolError(f"the command {kind} is not possible here")
        return True

    @staticmethod
    def _executed(number: int, outcome: Outcome) -> pb.ClientEvent:
        executed = pb.ClientExecuted(statistics=outcome.statistics, parts=outcome.parts)
        return pb.ClientEvent(number=number, executed=executed)

    def _when(self, future: Future[Any], event: Callable[[Any], pb.ClientEvent]) -> None:
        def done(finished: Future[Any]) -> None:
            if finished.exception() is None:  # else `_ended` says why
                self._outbox.put(event(finished.result()))

        future.add_done_callback(done)
