"""Sessions over real processes with mutual TLS: results, failures of every role, and commands that a node refuses."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import parley
from parley.cluster import Cluster
from parley.errors import (
    Denied,
    IdentityError,
    InputError,
    NotFound,
    ParleyError,
    SessionClosed,
    Unreachable,
)
from parley.plan.builder import Builder
from parley.plan.graph import Kind, Plan, Type
from parley.plan.wire import plan_hash, plan_to_bytes
from parley.remote import RemoteBackend
from services import parts
from services.client import Connection
from services.identity import Identity
from services.protocol import dealer_pb2_grpc, party_pb2_grpc
from services.protocol import session_pb2 as pb
from tests.processes import Processes

pytestmark = pytest.mark.processes

SECRETS = {"alice": 3517.25, "bob": -1291.5, "carol": 10427.75, "dave": 125.375}
END_SECONDS = 15.0
MESSAGE_BYTES = 24 << 20
GENERATOR = np.random.default_rng(5)
DATA: dict[str, Any] = {f"{party}/secret": np.array([value]) for party, value in SECRETS.items()}
DATA.update({f"{party}/x": GENERATOR.normal(size=(20, 6)).astype(np.float32) for party in SECRETS})
DATA.update({f"{party}/y": GENERATOR.integers(0, 3, 20) for party in SECRETS})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    limits = {"limits": {"message_bytes": MESSAGE_BYTES, "commands": 16}}
    directory = tmp_path_factory.mktemp("cluster")
    with Processes(directory, 5, DATA, dict.fromkeys(("alice", "bob", "carol"), limits)) as processes:
        yield processes
    assert all(process.poll() is not None for process in processes.processes.values())


def session_of(cluster: Cluster) -> str:
    backend = cluster.recorder.backend
    assert isinstance(backend, RemoteBackend)
    return backend.session


def cause_at(processes: Processes, node: str, session: str, timeout: float = END_SECONDS) -> str:
    """The cause with which a node has ended a session, from its log."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for line in processes.log(node).splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "session ended" and entry.get("session") == session:
                return str(entry["cause"])
        time.sleep(0.05)
    raise AssertionError(f"{node} did not end session {session} within {timeout:g} s")


# ---- what is computed -----------------------------------------------------------------------------------------------


def train(cluster: Cluster) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """A plain PyTorch training loop."""
    torch.manual_seed(3)
    x = torch.cat([cluster.dataset(f"{party}/x") for party in cluster.parties])
    y = torch.cat([cluster.dataset(f"{party}/y") for party in cluster.parties])
    model = cluster.private(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for xb, yb in parley.batches(x, y, size=20, epochs=2, seed=1):
        loss = F.cross_entropy(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [loss.reveal() for loss in losses[-2:]], parley.reveal(dict(model.state_dict()))


@pytest.mark.parametrize("count", [2, 3])
def test_a_training_loop_gives_the_same_result_as_in_one_process(cluster: Processes, count: int) -> None:
    parties = cluster.parties[:count]
    with cluster.connect(parties=parties) as remote:
        losses, state = train(remote)
        measured = remote.recorder.backend.statistics
    own = {name: values for name, values in DATA.items() if name.partition("/")[0] in parties}
    with parley.local(parties, own) as local:
        expected_losses, expected = train(local)
        counted = local.recorder.backend.statistics
    # Truncations round at random, by masks that are fresh in every session: that far two runs differ, and no further.
    assert torch.allclose(torch.stack(losses), torch.stack(expected_losses), atol=2e-4)
    assert state.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(state[name], expected[name], atol=5e-4)
    for ours, theirs in zip(measured, counted, strict=True):
        assert (ours.executions, ours.rounds) == (theirs.executions, theirs.rounds)
        assert (ours.bytes_to_peers, ours.bytes_from_dealer) == (theirs.bytes_to_peers, theirs.bytes_from_dealer)


def integers(cluster: Cluster) -> list[torch.Tensor]:
    """A plan in which nothing is rounded: integers, comparison, maximum."""
    y = torch.cat([cluster.dataset(f"{party}/y") for party in cluster.parties])
    table = cluster.secret(torch.arange(-12, 12).reshape(4, 6))
    results = [y.sum(), y * 3 - 1, table > 2, table @ table.T, table.argmax(1)]
    return [result.reveal() for result in results]


def test_what_is_not_rounded_is_the_same_bit_for_bit(cluster: Processes) -> None:
    parties = cluster.parties[:3]
    with cluster.connect(parties=parties) as remote:
        found = integers(remote)
    own = {name: values for name, values in DATA.items() if name.partition("/")[0] in parties}
    with parley.local(parties, own) as local:
        expected = integers(local)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    y = np.concatenate([DATA[f"{party}/y"] for party in parties])
    assert found[0] == y.sum()
    assert found[1].tolist() == (y * 3 - 1).tolist()


def test_four_parties_learn_only_the_sum(cluster: Processes) -> None:
    with cluster.connect(parties=tuple(SECRETS)) as remote:
        session = session_of(remote)
        total = torch.stack([remote.dataset(f"{party}/secret") for party in remote.parties]).sum()
        assert parley.reveal({"total": total}, to=tuple(SECRETS)) is None
    for party in SECRETS:
        folder = cluster.folder(party) / "results" / f"session-{session}"
        assert [path.name for path in folder.iterdir()] == ["values.json"]
        assert json.loads((folder / "values.json").read_text()) == {"total": sum(SECRETS.values())}
        for other, value in SECRETS.items():
            assert str(value) not in cluster.log(party), f"{party} logs what {other} holds"
    assert not (cluster.folder("erin") / "results").exists()


def test_five_parties_compute_on_what_the_caller_holds(cluster: Processes) -> None:
    with cluster.connect() as remote:
        assert len(remote.parties) == 5
        tensor = torch.tensor([[1.5, -2.0, 0.25], [4.0, 0.0, -8.0]])
        secret = remote.secret(tensor)
        assert torch.equal(secret.reveal(), tensor)
        product = (secret @ secret.T).reveal()
        assert torch.allclose(product, tensor @ tensor.T, atol=1e-3)


def test_many_repetitions_travel_in_several_commands(cluster: Processes) -> None:
    builder = Builder(("alice", "bob"))
    given = builder.add("argument", name="given", shape=(2,), scale=0, bound=20)
    kept = builder.add("load", slot="total", kind=int(Kind.SHARED), shape=(2,), scale=0, bound=40)
    total = builder.add("add", kept, given, bound=40)
    builder.add("store", total, slot="total")
    builder.add("reveal", total, name="total", receivers=("submitter",))
    plan = builder.finish()
    with cluster.connect(parties=("alice", "bob")) as remote:
        backend = remote.recorder.backend
        backend.put("sum", Type(Kind.SHARED, (2,), 0, 40), np.zeros(2, np.int64))
        rows = [{"given": np.array([k, -k])} for k in range(100)]
        slots = {"total": "sum"}
        assert backend.execute(plan, slots, slots, rows, wait=False) == {}
        found = backend.execute(plan, slots, slots, rows[:70], wait=True)
        assert [entry.executions for entry in backend.statistics] == [170, 170]
    assert found["total"].values.tolist() == [4950 + 2415, -4950 - 2415]


def test_large_values_travel_in_parts(cluster: Processes) -> None:
    values = torch.arange(1_200_000, dtype=torch.float32) / 1024  # 9.6 MB a share, above gRPC's limit of a message
    with cluster.connect(parties=("alice", "bob")) as remote:
        assert torch.equal(remote.secret(values).reveal(), values)


def test_names_that_nobody_knows_are_refused(cluster: Processes) -> None:
    with cluster.connect(parties=("alice", "bob")) as remote:
        with pytest.raises(NotFound, match=r"known are: alice/secret, alice/x"):
            remote.dataset("alice/nothing")
        assert remote.secret(torch.tensor([1.0])).reveal().item() == 1.0, "the session stands"
    with pytest.raises(NotFound, match="knows no party 'zoe'"):
        cluster.connect(parties=("alice", "zoe"))
    with pytest.raises(InputError, match="2 or more different parties"):
        cluster.connect(parties=("alice",))


def test_only_a_submitter_opens_a_session(cluster: Processes) -> None:
    with pytest.raises(IdentityError, match="submitter"):
        parley.connect(cluster.address, cluster.directory / "identities" / "alice")
    with pytest.raises(ParleyError):
        parley.connect(cluster.address, insecure=True)
    with pytest.raises(IdentityError, match="PARLEY_IDENTITY"):
        parley.connect(cluster.address)
    with pytest.raises((Unreachable, IdentityError)):
        parley.connect(cluster.addresses["dealer"], cluster.submitter)


def test_an_error_at_a_party_ends_the_session_with_its_own_words(cluster: Processes) -> None:
    changed = cluster.folder("bob") / "secret.npy"
    kept = changed.read_bytes()
    with pytest.raises(InputError, match="party bob: dataset secret is not as it was registered"):  # noqa: PT012
        with cluster.connect(parties=("alice", "bob", "carol")) as remote:
            session = session_of(remote)
            changed.write_bytes(kept[:-1] + b"?")
            (remote.dataset("alice/secret") + remote.dataset("bob/secret")).reveal()
    changed.write_bytes(kept)
    for node in ("alice", "bob", "carol", "dealer"):
        assert cause_at(cluster, node, session).startswith("party bob: dataset secret")
        assert ("secret.npy" in cluster.log(node)) == (node == "bob"), "where bob keeps its files is bob's affair"


# ---- commands that a node refuses -----------------------------------------------------------------------------------


class Node:
    """One node's end of a session, seen by a coordinator that does what it likes."""

    def __init__(self, cluster: Processes, name: str) -> None:
        identity = Identity.load(cluster.directory / "identities" / "coordinator")
        role = cluster.roles[name]
        self.connection = Connection(cluster.addresses[name], role, name, identity)
        stub: Any = party_pb2_grpc.PartyStub if role == "party" else dealer_pb2_grpc.DealerStub
        self.outbox: SimpleQueue[pb.Command | None] = SimpleQueue()
        self.number = 0
        self.call = stub(self.connection.channel).Session(iter(self.outbox.get, None), timeout=60)
        self.events = parts.join(self.call, 1 << 26)

    def send(self, number: int | None = None, **command: Any) -> None:
        self.number = self.number + 1 if number is None else number
        for part in parts.split(pb.Command(number=self.number, **command)):
            self.outbox.put(part)

    def next(self) -> pb.Event:
        with self.connection.explained():
            return next(self.events)

    def failure(self) -> pb.Failed:
        """Why it ended the session."""
        while True:
            event = self.next()
            if event.WhichOneof("event") == "failed":
                return event.failed

    def close(self) -> None:
        self.outbox.put(None)
        self.call.cancel()
        self.connection.close()


class Rogue:
    """A session of alice and bob, and its commands one by one."""

    def __init__(self, cluster: Processes) -> None:
        self.cluster = cluster
        self.id = f"rogue-{time.time_ns()}"
        self.nodes = {name: Node(cluster, name) for name in ("alice", "bob", "dealer")}

    def opening(self, name: str, **changes: Any) -> pb.OpenSession:
        addresses = self.cluster.addresses
        opening = pb.OpenSession(
            session=self.id,
            attempt=1,
            job=self.id,
            parties=[pb.Node(name=party, address=addresses[party]) for party in ("alice", "bob")],
            index=("alice", "bob", "dealer").index(name) if name != "dealer" else -1,
            dealer=pb.Node(name="dealer", address=addresses["dealer"]),
            submitter="ann",
            submitter_identity_bundle=Identity.load(self.cluster.submitter).bundle,
        )
        for field, value in changes.items():
            setattr(opening, field, value)
        return opening

    def open(self) -> Rogue:
        for name, node in self.nodes.items():
            node.send(open_session=self.opening(name))
        for node in self.nodes.values():
            assert node.next().WhichOneof("event") == "ready"
        return self

    def everywhere(self, **command: Any) -> None:
        for node in self.nodes.values():
            node.send(**command)

    def load(self, plan: Plan) -> bytes:
        self.everywhere(load_plan=pb.LoadPlan(plan=plan_to_bytes(plan)))
        hashes = {node.next().plan_loaded.plan_hash for node in self.nodes.values()}
        assert hashes == {plan_hash(plan)}
        return hashes.pop()

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()


@pytest.fixture
def rogue(cluster: Processes) -> Iterator[Rogue]:
    session = Rogue(cluster)
    yield session
    session.close()


def doubling(parties: tuple[str, ...] = ("alice", "bob"), shape: int = 1, bound: int = 32) -> Plan:
    """Reveals twice what alice holds to alice."""
    builder = Builder(parties)
    value = builder.add("input", party=0, dataset="secret", shape=(shape,), scale=16, bound=bound)
    shared = builder.add("share", value)
    builder.add("reveal", builder.add("add", shared, shared), name="double", receivers=("alice",))
    return builder.finish()


def execute(plan: bytes, first: int, **changes: Any) -> pb.Execute:
    return pb.Execute(plan_hash=plan, first_execution=first, arguments=[pb.Arguments()], **changes)


def test_a_coordinator_that_keeps_to_the_rules_is_served(rogue: Rogue) -> None:
    plan = rogue.open().load(doubling())
    for first in (0, 1, 7):
        rogue.everywhere(execute=execute(plan, first))
    for name, node in rogue.nodes.items():
        for _ in range(3):
            executed = node.next().executed
            assert executed.repetitions == 1
            assert not executed.reveals, "what alice learns goes nowhere else"
            assert (executed.rounds > 0) == (name != "dealer")
    rogue.everywhere(close=pb.CloseSession())
    for node in rogue.nodes.values():
        assert node.next().WhichOneof("event") == "closed"


REFUSALS: dict[str, tuple[Callable[[Rogue, bytes], None], str, str]] = {
    "an execution number again": (
        lambda rogue, plan: [rogue.everywhere(execute=execute(plan, 3)) for _ in range(2)] and None,
        "ProtocolError",
        "numbers only grow",
    ),
    "a plan that was never loaded": (
        lambda rogue, plan: rogue.everywhere(execute=execute(bytes(32), 0)),
        "NotFound",
        "no plan '0000",
    ),
    "a command number again": (
        lambda rogue, plan: rogue.everywhere(number=1, release=pb.Release(handles=["t0"])),
        "ProtocolError",
        "command 1 came after command 2",
    ),
    "a session within the session": (
        lambda rogue, plan: rogue.everywhere(open_session=rogue.opening("alice")),
        "ProtocolError",
        "open already",
    ),
    "an unknown command": (lambda rogue, plan: rogue.everywhere(), "ProtocolError", "unknown command"),
    "a plan for other parties": (
        lambda rogue, plan: rogue.everywhere(load_plan=pb.LoadPlan(plan=plan_to_bytes(doubling(("alice", "carol"))))),
        "PlanError",
        "the plan is for alice, carol",
    ),
    "a plan that would try how large the data are": (
        lambda rogue, plan: rogue.everywhere(load_plan=pb.LoadPlan(plan=plan_to_bytes(doubling(bound=27)))),
        "PlanError",
        "is declared up to 3517.25, the plan allows less",
    ),
    "a plan for rows that are not there": (
        lambda rogue, plan: rogue.everywhere(load_plan=pb.LoadPlan(plan=plan_to_bytes(doubling(shape=2)))),
        "PlanError",
        "dataset secret has shape (1,)",
    ),
    "bytes that are no plan": (
        lambda rogue, plan: rogue.everywhere(load_plan=pb.LoadPlan(plan=b"\xff" * 9)),
        "PlanError",
        "not a plan",
    ),
    "bindings that the plan does not have": (
        lambda rogue, plan: rogue.everywhere(execute=execute(plan, 0, load={"weights": "t0"})),
        "PlanError",
        "the execution binds",
    ),
    "no repetition": (
        lambda rogue, plan: rogue.everywhere(execute=pb.Execute(plan_hash=plan)),
        "InputError",
        "repetitions, not 0",
    ),
    "a share that nobody sealed": (
        lambda rogue, plan: rogue.everywhere(
            put=pb.Put(
                handle="t0", type=b"\x08\x02\x12\x01\x01\x18\x20\x20\x20\x28\x40\x30\x01", sealed_share=bytes(57)
            )
        ),
        "ProtocolError",
        "damaged or of another version",
    ),
    "other executions at each party": (
        lambda rogue, plan: (
            [node.send(execute=execute(plan, first)) for first, node in enumerate(rogue.nodes.values())] and None
        ),
        "ProtocolError",
        "the fingerprint of an execution differs",
    ),
    "more than a node takes in": (
        lambda rogue, plan: rogue.nodes["alice"].send(load_plan=pb.LoadPlan(plan=bytes(MESSAGE_BYTES + 1))),
        "ProtocolError",
        "larger than the limit",
    ),
    "more commands than it is to keep": (
        lambda rogue, plan: [rogue.nodes["alice"].send(execute=execute(plan, first)) for first in range(17)] and None,
        "ProtocolError",
        "commands wait for their answers",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_node_refuses(rogue: Rogue, what: str) -> None:
    misbehave, kind, cause = REFUSALS[what]
    plan = rogue.open().load(doubling())
    misbehave(rogue, plan)
    failed = rogue.nodes["alice"].failure()
    if failed.kind == "SessionClosed":  # another node was first to refuse it
        assert cause in failed.cause
    else:
        assert (failed.kind, failed.node) == (kind, "party alice")
        assert cause in failed.cause
    for name in ("alice", "bob", "dealer"):
        assert cause_at(rogue.cluster, name, rogue.id), "the session is over everywhere"
    assert not (rogue.cluster.folder("alice") / "results" / rogue.id).exists() or what == "an execution number again"


def test_a_session_begins_with_its_opening(rogue: Rogue) -> None:
    alice, bob = rogue.nodes["alice"], rogue.nodes["bob"]
    alice.send(release=pb.Release(handles=["t0"]))
    with pytest.raises(ParleyError, match="the first command of a session opens it"):
        alice.next()
    bob.send(open_session=rogue.opening("bob"))
    bob.send(load_plan=pb.LoadPlan(plan=plan_to_bytes(doubling())))
    assert "came before the session was ready" in bob.failure().cause


@pytest.mark.parametrize(
    ("changes", "kind", "cause"),
    [
        ({"index": 1}, ParleyError, "not that of party alice"),
        ({"session": "../../x"}, InputError, "a session's name"),
        ({"job": "../../x"}, InputError, "a job's name"),
        ({"submitter": "eve"}, IdentityError, "is that of submitter ann"),
        ({"submitter_identity_bundle": b"nothing"}, IdentityError, "damaged"),
        ({"attempt": 0}, Denied, "not newer than attempt 0"),
    ],
)
def test_an_opening_is_refused(rogue: Rogue, changes: dict[str, Any], kind: type[ParleyError], cause: str) -> None:
    alice = rogue.nodes["alice"]
    alice.send(open_session=rogue.opening("alice", **changes))
    with pytest.raises(kind, match=cause):
        alice.next()


def test_an_older_attempt_at_the_same_job_is_refused(rogue: Rogue, cluster: Processes) -> None:
    rogue.open()
    again = Rogue(cluster)
    again.nodes["alice"].send(open_session=again.opening("alice", job=rogue.id))
    with pytest.raises(Denied, match=r"attempt 1 at job .* is not newer"):
        again.nodes["alice"].next()
    again.close()


def test_a_party_cannot_command_another_one(cluster: Processes) -> None:
    identity = Identity.load(cluster.directory / "identities" / "bob")
    with Connection(cluster.addresses["alice"], "party", "alice", identity) as connection:
        stub = party_pb2_grpc.PartyStub(connection.channel)
        with pytest.raises(Denied), connection.explained():
            next(stub.Session(iter([pb.Command(number=1)]), timeout=10))


# ---- nodes that go away (the last tests: what they end is started again) --------------------------------------------


def busy(remote: Cluster, started: threading.Event) -> None:
    """Keep a session busy until it fails."""
    value = remote.secret(torch.ones(64, 64))
    while True:
        value = (value @ value) * (1 / 64)
        assert torch.isfinite(value.reveal()).all()
        started.set()


@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
@pytest.mark.parametrize("victim", ["bob", "dealer", "coordinator"])
def test_a_node_that_is_killed_ends_the_session_everywhere(cluster: Processes, victim: str, idle: bool) -> None:
    remote = cluster.connect(parties=("alice", "bob", "carol"))
    session = session_of(remote)
    outcome: list[BaseException] = []
    started = threading.Event()

    def client() -> None:
        try:
            busy(remote, started)
        except BaseException as error:
            outcome.append(error)

    if idle:
        assert remote.secret(torch.ones(2)).reveal().tolist() == [1.0, 1.0]
    else:
        thread = threading.Thread(target=client)
        thread.start()
        assert started.wait(20)
    began = time.monotonic()
    cluster.kill(victim)
    others = [name for name in ("alice", "bob", "carol", "dealer", "coordinator") if name != victim]
    for node in others:
        cause = cause_at(cluster, node, session, END_SECONDS - (time.monotonic() - began))
        assert victim in cause, f"{node} says {cause!r}"
    if idle:
        with pytest.raises((Unreachable, SessionClosed), match=victim):
            busy(remote, started)
    else:
        thread.join(END_SECONDS)
        assert not thread.is_alive()
        assert isinstance(outcome[0], Unreachable | SessionClosed), outcome
        assert victim in str(outcome[0])
    remote.close()
    cluster.processes[victim].wait(5)
    cluster.start(victim)
    cluster.wait(victim)


def test_a_node_that_is_asked_to_stop_tells_its_sessions(cluster: Processes) -> None:
    remote = cluster.connect(parties=("alice", "bob", "carol"))
    session = session_of(remote)
    cluster.kill("carol", signal.SIGTERM)
    for node in ("alice", "bob", "dealer", "coordinator"):
        assert cause_at(cluster, node, session) == "party carol: the node is being stopped"
    with pytest.raises(Denied, match="party carol"):
        remote.secret(torch.ones(2)).reveal()
    remote.close()
    assert cluster.processes["carol"].wait(END_SECONDS) == 0
    with pytest.raises(Unreachable, match="party carol"):
        cluster.connect(parties=("alice", "bob", "carol"))
    with cluster.connect(parties=("alice", "bob")) as other:
        assert other.secret(torch.ones(1)).reveal().item() == 1.0


def test_every_session_that_was_opened_has_ended(cluster: Processes) -> None:
    """At alice, who was there all the time."""

    def sessions(event: str) -> set[str]:
        entries = [json.loads(line) for line in cluster.log("alice").splitlines() if line.startswith("{")]
        return {entry["session"] for entry in entries if entry["event"] == event}

    deadline = time.monotonic() + END_SECONDS
    while sessions("session opened") != sessions("session ended"):
        assert time.monotonic() < deadline, sessions("session opened") - sessions("session ended")
        time.sleep(0.1)
    assert len(sessions("session opened")) > 20


def test_without_tls_a_cluster_runs_on_loopback(tmp_path: Path) -> None:
    with Processes(tmp_path, 2, insecure=True) as processes, processes.connect() as remote:
        assert (remote.secret(torch.tensor([2.0])) * 3).reveal().item() == 6.0
