"""An authority with its identities, and a party service whose Exchange method is a gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services import streams
from services.client import Connection
from services.identity import Authority, Caller, Identity, Role, issue
from services.protocol import party_pb2_grpc, session_pb2
from services.server import Server
from services.status import caller
from services.streams import FrameStream, SessionGate, open_stream

EXCHANGE = "/parley.Party/Exchange"


@dataclass
class Office:
    """An authority and the identities that it has issued, made once."""

    directory: Path
    authority: Authority

    def identity(self, role: Role, name: str) -> Identity:
        directory = self.directory / role / name
        return Identity.load(directory) if directory.exists() else issue(self.authority, directory, role, name)


class PartyService(party_pb2_grpc.PartyServicer):
    """What the tests call of a party."""

    def __init__(self, gate: SessionGate) -> None:
        self.gate = gate

    def Describe(self, request: Any, context: Any) -> session_pb2.Description:
        who = caller(context)
        return session_pb2.Description(role=who.role, name=who.name)

    def Exchange(self, request_iterator: Any, context: Any) -> Any:
        return self.gate.serve(request_iterator, context)


@dataclass
class Bob:
    """A running party service, and how alice gets to it."""

    server: Server
    gate: SessionGate
    service: PartyService
    connection: Connection

    def streams(self, session: str, **options: Any) -> tuple[FrameStream, FrameStream]:
        """Both ends of one stream between alice (client) and bob (server)."""
        alice = Caller("party", "alice")
        budget = options.pop("server_budget", None)
        chunk = options.get("chunk_bytes", streams.CHUNK_BYTES)
        expected = self.gate.open(session, [alice], budget=budget, chunk_bytes=chunk)[alice]
        mine = open_stream(
            self.connection.channel,
            EXCHANGE,
            session,
            self.connection.peer,
            metadata=self.connection.metadata,
            **options,
        )
        return mine, expected.wait(5)


def start_bob(identity_of: Callable[[Role, str], Identity | None], streams: int = 64) -> Iterator[Bob]:
    gate = SessionGate(patience=0.3)
    server = Server("127.0.0.1:0", identity_of("party", "bob"), streams=streams)
    service = PartyService(gate)
    server.add_service(party_pb2_grpc.add_PartyServicer_to_server, service, raw=["Exchange"])
    server.start()
    connection = Connection(
        f"127.0.0.1:{server.port}",
        "party",
        "bob",
        identity_of("party", "alice"),
        claimed=Caller("party", "alice"),
    )
    yield Bob(server, gate, service, connection)
    connection.close()
    server.stop(0.2)
