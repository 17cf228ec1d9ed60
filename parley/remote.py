"""The client of a running cluster: plans go to its coordinator, values sealed to its parties, results back likewise.

This and what it imports of `services` need gRPC; nothing else in `parley` does. `parley.connect` is taken from here
when it is first asked for, so that `import parley` works without.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np

from parley.cluster import Cluster
from parley.errors import IdentityError, InputError, NotFound, ParleyError, ProtocolError, SessionClosed, Unreachable
from parley.plan.builder import Precision
from parley.plan.checker import SUBMITTER
from parley.plan.graph import Plan, Type
from parley.plan.wire import plan_to_bytes
from parley.pytorch.recorder import Dataset, Integers, Result
from parley.ring.prg import PrivateSource
from parley.runtime.session import Execution, Prepared, Statistics
from services.client import Connection
from services.failures import error_of
from services.identity import Caller, Identity, verify_bundle
from services.parts import join, split
from services.protocol import coordinator_pb2 as pb
from services.protocol import coordinator_pb2_grpc
from services.protocol import session_pb2 as session
from services.settings import is_loopback, split_address
from services.status import explain
from services.values import arguments_to_message, combine_parts, seal_share, type_to_bytes
from services.version import check, request

IDENTITY_VARIABLE = "PARLEY_IDENTITY"
MAXIMAL_OUTSTANDING = 32
"""Commands that are sent before their answers are here."""
MESSAGE_BYTES = 1 << 30
OPEN_SECONDS = 60.0
CLOSE_SECONDS = 10.0


def connect(
    address: str,
    identity: Path | str | Identity | None = None,
    *,
    parties: Sequence[str] = (),
    name: str = "coordinator",
    insecure: bool = False,
    precision: Precision | None = None,
) -> Cluster:
    """A session with the cluster of the coordinator at `address` (host:port); close it, or use it in a `with`.

    `identity`: the directory of a submitter's identity (default: the environment's PARLEY_IDENTITY). `parties`: those
    to compute with (default: all that the coordinator knows). `name`: the coordinator's. `insecure`: without TLS, on
    loopback only. Raises Unreachable, IdentityError, Denied, or what a node says against the session.
    """
    return Cluster(RemoteBackend(address, _identity(identity, insecure), parties, name), precision)


def _identity(given: Path | str | Identity | None, insecure: bool) -> Identity | None:
    if insecure:
        if given is not None:
            raise InputError("give an identity, or insecure=True, not both")
        return None
    chosen = given or os.environ.get(IDENTITY_VARIABLE)
    if not chosen:
        raise IdentityError(
            f"no identity: give the directory of a submitter's certificate, or set {IDENTITY_VARIABLE} "
            "(insecure=True goes without, on loopback)"
        )
    identity = chosen if isinstance(chosen, Identity) else Identity.load(Path(chosen))
    if identity.role != "submitter":
        raise IdentityError(
            f"sessions are for a submitter's identity, and this is that of {identity.role} {identity.name}"
        )
    return identity


class _Answer:
    """The answer to one command, to come."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.event: pb.ClientEvent | None = None


class RemoteBackend:
    """Runs plans at a cluster, for `Cluster`; see `parley.pytorch.recorder.Backend`.

    What need not be waited for is sent ahead; its error, if it has one, comes with the next call. All calls come from
    one thread.
    """

    def __init__(
        self, address: str, identity: Identity | None, parties: Sequence[str] = (), coordinator: str = "coordinator"
    ) -> None:
        host, _ = split_address(address)
        if identity is None and not is_loopback(host):
            raise InputError(f"insecure is for loopback only, and the coordinator is at {address}")
        self._keys = identity or Identity.ephemeral("submitter", SUBMITTER)
        self._authority = None if identity is None else identity.authority_pem
        self._source = PrivateSource()
        self._prepared: dict[bytes, tuple[Prepared, Mapping[str, Type]]] = {}
        self._changed = threading.Condition()
        self._outbox: SimpleQueue[pb.ClientCommand | None] = SimpleQueue()
        self._due: dict[int, _Answer] = {}
        self._number = 0
        self._failure: ParleyError | None = None
        self._told = False
        self._closing = False
        self._totals: dict[str, session.Executed] = {}
        claimed = None if identity is not None else Caller("submitter", self._keys.name)
        self._connection = Connection(address, "coordinator", coordinator, identity, claimed=claimed)
        try:
            self._open(parties)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, parties: Sequence[str]) -> None:
        stub = coordinator_pb2_grpc.CoordinatorStub(self._connection.channel)
        check(self._connection.call(stub.Describe, request()), self._connection.peer)
        self._call = stub.Session(self._commands(), metadata=self._connection.metadata)
        self._reader = threading.Thread(target=self._read, name="events of the coordinator", daemon=True)
        self._reader.start()
        opening = pb.OpenClientSession(parties=parties, identity_bundle=self._keys.bundle)
        ready = self._wait(self._send(pb.ClientCommand(open=opening)), OPEN_SECONDS).ready
        self._session = ready.session
        self._parties = tuple(party.name for party in ready.parties)
        if parties and self._parties != tuple(parties):
            raise ProtocolError(
                f"the coordinator opened a session of {', '.join(self._parties)}: others were asked for"
            )
        if len(set(self._parties)) != len(self._parties) or len(self._parties) < 2:
            raise ProtocolError("the coordinator opened a session that is none of several parties")
        self._party_keys = {
            party: verify_bundle(ready.party_identity_bundles[party], self._authority, "party", party)
            for party in self._parties
        }
        self._datasets = {dataset.name: dataset for dataset in ready.datasets}

    @property
    def session(self) -> str:
        """The session's name, as the nodes' logs have it."""
        return self._session

    # ---- Backend --------------------------------------------------------------------------------------------------

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of the parties."""
        return self._parties

    def describe(self, name: str) -> Dataset:
        """What is public of `party/tensor`, as it was when the session was opened. Raises NotFound."""
        found = self._datasets.get(name)
        if found is None:
            known = ", ".join(sorted(self._datasets)) or "none"
            raise NotFound(f"there is no dataset {name!r}; known are: {known}")
        party, _, rest = name.partition("/")
        return Dataset(
            party, rest, tuple(found.shape), found.kind == "integer", found.bound, one_hot=found.kind == "one_hot"
        )

    def execute(
        self,
        plan: Plan,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[Mapping[str, Integers]],
        wait: bool,
    ) -> dict[str, Result]:
        """Run a plan once for every entry of `arguments`; with `wait`, return what the last one reveals."""
        self._raise_failure()
        prepared, reveals = self._prepare(plan)
        Execution(prepared, 0, dict(loads), dict(stores), tuple(arguments)).check()
        execute = session.Execute(plan_hash=prepared.hash, load=loads, store=stores)
        execute.arguments.extend(arguments_to_message(entry) for entry in arguments)
        answer = self._send(pb.ClientCommand(execute=execute))
        return self._results(self._wait(answer).executed, reveals) if wait else {}

    def put(self, handle: str, type: Type, values: Integers) -> None:
        """Share ring elements among the parties; all shares together, and no fewer, say what the values are."""
        self._raise_failure()
        if values.dtype != np.int64 or values.shape != type.shape:
            raise InputError(f"{handle!r} is {values.dtype}{values.shape}, its type says int64{type.shape}")
        kind = type_to_bytes(type)
        message = pb.PutShares(handle=handle, type=kind)
        rest = np.array(values)
        for party in self._parties[1:]:
            share = self._source.ring(values.shape)
            with np.errstate(over="ignore"):
                rest = np.asarray(rest - share)
            message.sealed_shares[party] = self._seal(party, handle, kind, share)
        message.sealed_shares[self._parties[0]] = self._seal(self._parties[0], handle, kind, rest)
        self._send(pb.ClientCommand(put=message))

    def release(self, handles: Sequence[str]) -> None:
        """Have the parties forget values."""
        self._raise_failure()
        self._send(pb.ClientCommand(release=session.Release(handles=handles)))

    def flush(self) -> None:
        """Wait until everything that was sent is done; raises its error."""
        with self._changed:
            self._changed.wait_for(lambda: not self._due or self._failure is not None)
        self._raise_failure()

    def close(self) -> None:
        """Wait for what was sent ahead, then end the session; raises an error that no call has raised yet."""
        if self._closing:
            return
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._due or self._failure is not None)
                self._closing = True
                failure = None if self._told else self._failure
            if self._failure is None:
                self._send(pb.ClientCommand(close=session.CloseSession()))
        finally:
            self._closing = True
            self._outbox.put(None)
            self._reader.join(CLOSE_SECONDS)
            self._call.cancel()  # type: ignore[no-untyped-call]
            self._connection.close()
        if failure is not None:
            raise failure

    @property
    def statistics(self) -> list[Statistics]:
        """What each party did for the executions that are answered, in the parties' order."""
        totals = [self._totals.get(party, session.Executed()) for party in self._parties]
        return [
            Statistics(
                executions=total.repetitions,
                rounds=total.rounds,
                bytes_to_peers=total.bytes_sent,
                bytes_from_dealer=total.bytes_from_dealer,
                seconds=total.seconds,
                seconds_waiting_for_peers=total.seconds_waiting_for_peers,
                seconds_waiting_for_dealer=total.seconds_waiting_for_dealer,
            )
            for total in totals
        ]

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _prepare(self, plan: Plan) -> tuple[Prepared, Mapping[str, Type]]:
        data = plan_to_bytes(plan)
        key = hashlib.sha256(data).digest()
        known = self._prepared.get(key)
        if known is None:
            reveals = {node.text("name"): node.type for _, node in plan.with_operation("reveal")}
            known = (Prepared.of(plan), reveals)
            self._send(pb.ClientCommand(load_plan=session.LoadPlan(plan=data)))
            self._prepared[key] = known
        return known

    def _seal(self, party: str, handle: str, type: bytes, share: Integers) -> bytes:
        return seal_share(self._party_keys[party], self._session, handle, type, party, share)

    def _results(self, executed: pb.ClientExecuted, reveals: Mapping[str, Type]) -> dict[str, Result]:
        """The submitter's results of the last repetition."""
        parts: dict[str, dict[str, session.Reveal]] = {}
        mine = [part for part in executed.parts if part.reveal.receiver == SUBMITTER]
        last = max((part.reveal.execution for part in mine), default=0)
        for part in mine:
            if part.reveal.execution == last:
                parts.setdefault(part.reveal.name, {})[part.party] = part.reveal
        results = {}
        for name, by_party in parts.items():
            values, scale = combine_parts(self._keys.sealing_private_key, self._session, self._parties, by_party)
            type = reveals.get(name)
            if type is None or (type.shape, type.scale) != (values.shape, scale):
                raise ProtocolError(f"the parties reveal {name!r} of shape {values.shape}, which the plan does not say")
            results[name] = Result(values, scale)
        return results

    def _send(self, command: pb.ClientCommand) -> _Answer:
        with self._changed:
            self._changed.wait_for(lambda: len(self._due) < MAXIMAL_OUTSTANDING or self._failure is not None)
            if self._failure is not None:
                self._raise_failure()
            self._number += 1
            command.number = self._number
            answer = self._due[self._number] = _Answer(self._number)
            self._outbox.put(command)
        return answer

    def _wait(self, answer: _Answer, timeout: float | None = None) -> pb.ClientEvent:
        with self._changed:
            done = self._changed.wait_for(lambda: answer.event is not None or self._failure is not None, timeout)
        if answer.event is not None:
            return answer.event
        if not done:
            raise Unreachable(f"the coordinator did not answer within {timeout:g} s")
        self._raise_failure()
        raise AssertionError("there is neither an answer nor a failure")

    def _raise_failure(self) -> None:
        with self._changed:
            if self._failure is None:
                if self._closing:
                    raise SessionClosed("the session is closed")
                return
            self._told = True
            raise self._failure

    def _commands(self) -> Iterator[pb.ClientCommand]:
        while (command := self._outbox.get()) is not None:
            yield from split(command)

    def _read(self) -> None:
        failure: ParleyError = SessionClosed("the coordinator ended the session")
        try:
            for event in join(self._call, MESSAGE_BYTES):
                if event.WhichOneof("event") == "failed":
                    failure = error_of(event.failed)
                    break
                self._take(event)
        except grpc.RpcError as error:
            failure = explain(error, str(self._connection))
        except ParleyError as error:
            failure = error
        except Exception as error:
            failure = ParleyError(f"the coordinator's answer cannot be used: {error}")
        finally:
            self._outbox.put(None)
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _take(self, event: pb.ClientEvent) -> None:
        with self._changed:
            answer = self._due.pop(event.number, None)
            if answer is None:
                raise ProtocolError(f"the coordinator answered command {event.number}, which waits for no answer")
            answer.event = event
            for node, executed in event.executed.statistics.items():
                total = self._totals.setdefault(node, session.Executed())
                for field in _COUNTED:
                    setattr(total, field, getattr(total, field) + getattr(executed, field))
            self._changed.notify_all()


_COUNTED = tuple(field.name for field in session.Executed.DESCRIPTOR.fields if field.name != "reveals")
