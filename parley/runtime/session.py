"""What the runtimes of a session have in common: plans made ready, executions and their fingerprints, keys, results."""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from parley.errors import PlanError, ProtocolError
from parley.plan.checker import check
from parley.plan.graph import Plan
from parley.plan.schedule import Schedule, make_schedule
from parley.plan.wire import plan_hash
from parley.ring.prg import derive_key
from parley.runtime.channel import Channel

ENTROPY = 32
FINGERPRINT = 32
DIGEST = 16

Arguments = Mapping[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Prepared:
    """A plan that this node has checked itself, with its hash and schedule."""

    hash: bytes
    schedule: Schedule

    @property
    def plan(self) -> Plan:
        return self.schedule.plan

    @staticmethod
    def of(plan: Plan) -> Prepared:
        """Check `plan` (raises PlanError) and make it ready."""
        check(plan)
        return Prepared(plan_hash(plan), make_schedule(plan))


@dataclass(frozen=True)
class Execution:
    """A plan to be run `len(arguments)` times, with numbers first, first+1, …

    `loads` and `stores` bind the plan's slots to handles; where a slot is loaded and stored under one handle, each
    repetition works on what the one before it left.
    """

    prepared: Prepared
    first: int
    loads: Mapping[str, str]
    stores: Mapping[str, str]
    arguments: tuple[Arguments, ...] = field(default_factory=lambda: ({},))

    def check(self) -> None:
        """Raise PlanError unless bindings and arguments are exactly those that the plan asks for."""
        plan = self.prepared.plan
        if self.first < 0 or self.first + len(self.arguments) >= 1 << 63:
            raise PlanError(f"execution number {self.first} is not in 0 … 2^63")
        loads = {node.text("slot") for _, node in plan.with_operation("load")}
        stores = {node.text("slot") for _, node in plan.with_operation("store")}
        if loads != set(self.loads) or stores != set(self.stores):
            raise PlanError(
                f"the plan loads {sorted(loads)} and stores {sorted(stores)}, "
                f"the execution binds {sorted(self.loads)} and {sorted(self.stores)}"
            )
        if len(set(self.stores.values())) != len(self.stores):
            raise PlanError("two slots are stored under one handle")
        expected = {node.text("name"): node.type for _, node in plan.with_operation("argument")}
        for arguments in self.arguments:
            if set(arguments) != set(expected):
                raise PlanError(
                    f"the plan takes the arguments {sorted(expected)}, the execution gives {sorted(arguments)}"
                )
            for name, type in expected.items():
                value = arguments[name]
                if not isinstance(value, np.ndarray):
                    raise PlanError(f"argument {name} is a {value.__class__.__name__}, not an array of int64")
                if value.dtype != np.int64 or value.shape != type.shape:
                    raise PlanError(f"argument {name} is {value.dtype}{value.shape}, the plan says int64{type.shape}")
                if value.size and max(abs(int(value.min())), abs(int(value.max()))) >= 1 << type.bound:
                    raise PlanError(f"argument {name} is not below 2^{type.bound}")

    def fingerprint(self, session: bytes) -> bytes:
        """What parties and dealer must agree on before any of them sends anything that depends on this execution."""
        digest = hashlib.sha256()

        def add(*texts: bytes) -> None:
            for text in texts:
                digest.update(struct.pack("<Q", len(text)) + text)

        add(b"parley execution 1", session, self.prepared.hash, struct.pack("<QQ", self.first, len(self.arguments)))
        for bindings in (self.loads, self.stores):
            add(struct.pack("<Q", len(bindings)))
            for slot in sorted(bindings):
                add(slot.encode(), bindings[slot].encode())
        for arguments in self.arguments:
            for name in sorted(arguments):
                add(name.encode(), np.ascontiguousarray(arguments[name], dtype="<i8").tobytes())
        return digest.digest()


@dataclass(frozen=True)
class Revealed:
    """One result for one receiver. At a party that is the receiver, `values` are the result; else they are this party's
    part, which says nothing without all others' (the sum of all parts, modulo 2^64, is the result)."""

    name: str
    execution: int
    receiver: str
    values: npt.NDArray[np.int64]
    scale: int
    complete: bool


@dataclass
class Statistics:
    """What this node did in the session so far. Seconds are of wall time."""

    executions: int = 0
    rounds: int = 0
    bytes_to_peers: int = 0
    """Bytes sent to all peers together."""
    bytes_from_dealer: int = 0
    seconds: float = 0.0
    seconds_waiting_for_peers: float = 0.0
    seconds_waiting_for_dealer: float = 0.0


def session_key(session: bytes, index: int, from_party: bytes, from_dealer: bytes) -> bytes:
    """The key that party `index` and the dealer share for one session; both contributed fresh entropy."""
    return derive_key(from_party + from_dealer, b"parley session key 1" + struct.pack("<Q", index) + session)


def fresh_entropy() -> bytes:
    return secrets.token_bytes(ENTROPY)


def expect_same(own: bytes, channel: Channel, what: str) -> None:
    """Receive as many bytes as `own` from the channel. Raises ProtocolError, naming the peer, where they differ."""
    other = bytes(channel.receive(len(own)))
    if other != own:
        raise ProtocolError(f"{what} differs: {other.hex()[:16]}… at {channel.peer}, {own.hex()[:16]}… here")
