"""The dealer's service: correlated randomness for the sessions of others. It sees masks, and nothing of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import grpc

from parley.protocols.base import Value
from parley.runtime.dealer import DealerRuntime
from parley.runtime.session import Execution, Statistics
from parley.runtime.vault import Vault
from services.identity import Caller, Identity
from services.node import Node, NodeSession, identity_of, run
from services.protocol import dealer_pb2_grpc
from services.protocol import session_pb2 as pb
from services.settings import DealerSettings


class DealerService(Node, dealer_pb2_grpc.DealerServicer):
    """The methods of dealer.proto."""

    role = "dealer"

    def __init__(self, settings: DealerSettings, identity: Identity | None) -> None:
        super().__init__(settings, identity)
        self.budget = settings.budget_bytes

    def Deal(self, request_iterator: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:  # type: ignore[override]
        """The stream to one party of a session."""
        return self.gate.serve(request_iterator, context)

    def make_session(self, opening: pb.OpenSession, number: int) -> NodeSession:
        """See Node."""
        return DealerSession(self, opening, number)


class DealerSession(NodeSession):
    """The dealer in one session."""

    def __init__(self, node: DealerService, opening: pb.OpenSession, number: int) -> None:
        super().__init__(node, opening, number)
        self._dealer = node
        self._runtime: DealerRuntime

    def open(self) -> None:
        """Wait for every party's stream."""
        settings = self._dealer.settings
        callers = [Caller("party", name) for name in self.parties]
        expected = self._dealer.gate.open(
            self.id, callers, budget=self._dealer.budget, chunk_bytes=settings.chunk_bytes
        )
        streams = [self.keep(expected[peer].wait(settings.connect_seconds)) for peer in callers]
        self._runtime = DealerRuntime(self.id.encode(), streams)

    def announce(self, execution: Execution) -> None:
        """The dealer announces nothing: it is told."""

    def execute(self, execution: Execution) -> list[pb.Reveal]:
        """Deal for the execution, as far ahead of the parties as the budget lets it."""
        self._runtime.execute(execution)
        return []

    def share(self, put: pb.Put, shape: tuple[int, ...]) -> Value:
        """A shared value is nothing to the dealer."""
        return None

    @property
    def vault(self) -> Vault:
        """Masks."""
        return self._runtime.vault

    def statistics(self) -> Statistics:
        """Bytes are those to all parties, seconds of waiting those for their credit."""
        return replace(
            self._runtime.statistics,
            bytes_to_peers=sum(stream.bytes_sent for stream in self._streams),
            seconds_waiting_for_peers=sum(stream.credit_wait_seconds for stream in self._streams),
        )


def serve(settings: DealerSettings) -> None:
    """Serve until the process is told to stop."""
    run(
        DealerService(settings, identity_of(settings)),
        dealer_pb2_grpc.add_DealerServicer_to_server,
        raw=["Deal"],
    )
