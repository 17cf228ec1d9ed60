"""The party node's service: its datasets, its shares, and its side of every session that it takes part in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import grpc

from parley.errors import InputError, PlanError, ProtocolError, Unreachable
from parley.plan.checker import SUBMITTER
from parley.plan.graph import Plan
from parley.protocols.base import Array, Party, Value
from parley.runtime.channel import Channel
from parley.runtime.party import PartyRuntime
from parley.runtime.session import Execution, Revealed, Statistics
from parley.runtime.vault import Vault
from party_node.datasets import DatasetStore
from party_node.results import ResultStore
from services.client import Connection
from services.identity import Caller, Identity
from services.logs import get_logger
from services.node import Node, NodeSession, identity_of, run
from services.protocol import party_pb2_grpc
from services.protocol import session_pb2 as pb
from services.settings import PartySettings
from services.streams import FrameStream, open_stream
from services.values import open_share, seal_part

_log = get_logger(__name__)

DATASETS = "datasets"
"""Where, in a node's data directory, its registered datasets are."""
RESULTS = "results"
_EXCHANGE = "/parley.Party/Exchange"
_DEAL = "/parley.Dealer/Deal"


class PartyService(Node, party_pb2_grpc.PartyServicer):
    """The methods of party.proto."""

    role = "party"

    def __init__(self, settings: PartySettings, identity: Identity | None) -> None:
        super().__init__(settings, identity)
        self.datasets = DatasetStore(settings.data_directory / DATASETS)
        self.results = ResultStore(settings.data_directory / RESULTS)

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: grpc.ServicerContext) -> pb.ListDatasetsResponse:
        """Outlines of all tensors that this party offers."""
        response = pb.ListDatasetsResponse()
        for tensor in self.datasets.list():
            response.datasets.add(
                name=f"{self.settings.name}/{tensor.name}",
                shape=tensor.shape,
                columns=tensor.columns or (),
                dataset=tensor.dataset,
                kind=tensor.kind,
                dtype=tensor.dtype,
                classes=tensor.classes or 0,
                bound=tensor.bound,
                content_hash=tensor.content_hash,
            )
        return response

    def Exchange(self, request_iterator: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:  # type: ignore[override]
        """The stream of another party of a session."""
        return self.gate.serve(request_iterator, context)

    def make_session(self, opening: pb.OpenSession, number: int) -> NodeSession:
        """See Node."""
        return PartySession(self, opening, number)


class PartySession(NodeSession):
    """One party in one session."""

    def __init__(self, node: PartyService, opening: pb.OpenSession, number: int) -> None:
        super().__init__(node, opening, number)
        self._party_node = node
        self._index = opening.index
        name = node.settings.name
        if not 0 <= self._index < len(self.parties) or self.parties[self._index] != name:
            raise ProtocolError(f"the session's place {self._index} is not that of {node.caller}")
        self._submitter_key = node.verify(opening.submitter_identity_bundle, "submitter", self.submitter)
        self._runtime: PartyRuntime

    def open(self) -> None:
        """Open the streams: this party calls those after it and waits for those before it."""
        node, opening, index = self._party_node, self._opening, self._index
        settings = node.settings
        callers = [Caller("party", name) for name in self.parties]
        expected = node.gate.open(self.id, callers[:index], chunk_bytes=settings.chunk_bytes)
        dealer = self._call(Caller("dealer", opening.dealer.name), opening.dealer.address, _DEAL)
        later = {
            peer: self._call(callers[peer], opening.parties[peer].address, _EXCHANGE)
            for peer in range(index + 1, len(callers))
        }
        peers: list[Channel | None] = [
            *(self.keep(expected[peer].wait(settings.connect_seconds)) for peer in callers[:index]),
            None,
            *(later[peer] for peer in range(index + 1, len(callers))),
        ]
        self._runtime = PartyRuntime(self.id.encode(), Party(index, self.parties, self._data), peers, dealer)

    def _call(self, peer: Caller, address: str, method: str) -> FrameStream:
        if not address:
            raise Unreachable(f"{peer} advertises no address")
        settings = self._party_node.settings
        connection: Connection = self._party_node.connect(peer, address)
        try:
            stream = open_stream(
                connection.channel,
                method,
                self.id,
                peer,
                chunk_bytes=settings.chunk_bytes,
                timeout=settings.connect_seconds,
                metadata=connection.metadata,
            )
        except BaseException:
            connection.close()
            raise
        return self.keep(stream, connection)

    def check_plan(self, plan: Plan) -> None:
        """Raise PlanError unless the plan takes this party's data as they were declared when they were registered.

        A plan that declared less would have values refused as it runs, and the refusal would tell of the data.
        """
        for index, node in plan.with_operation("input"):
            if node.integer("party") != self._index:
                continue
            tensor = self._party_node.datasets.describe(node.text("dataset"))
            if tensor.shape != node.type.shape:
                said = f"dataset {tensor.name} has shape {tensor.shape}, the plan says {node.type.shape}"
                raise PlanError(f"{said}: record the job again", index, node.line)
            if round(math.ldexp(tensor.bound, node.type.scale)) >= 1 << node.type.bound:
                said = f"dataset {tensor.name} is declared up to {tensor.bound:g}, the plan allows less"
                raise PlanError(f"{said}: record the job again", index, node.line)

    def _data(self, name: str) -> Array:
        """One of this party's tensors; what is wrong with its file is for the operator alone to read."""
        try:
            return self._party_node.datasets.load(name)
        except InputError as error:
            _log.error("dataset refused", session=self.id, dataset=name, cause=str(error))
            raise InputError(f"dataset {name} is not as it was registered; the log of this node says more") from None

    def announce(self, execution: Execution) -> None:
        """Let the dealer work ahead."""
        self._runtime.announce(execution)

    def execute(self, execution: Execution) -> list[pb.Reveal]:
        """Run it; this party's own results are written to its disk, parts for the submitter sealed to it."""
        revealed = self._runtime.execute(execution)
        own = [item for item in revealed if item.complete]
        if own:
            self._party_node.results.write(self.job, own)
        return self._seal([item for item in revealed if not item.complete])

    def _seal(self, parts: Sequence[Revealed]) -> list[pb.Reveal]:
        reveals = []
        for part in parts:
            if part.receiver != SUBMITTER:
                raise ProtocolError(f"{part.name!r} is revealed to {part.receiver!r}, whom nobody knows")
            reveal = pb.Reveal(name=part.name, execution=part.execution, receiver=part.receiver, scale=part.scale)
            seal_part(self._submitter_key, self.id, self._party_node.settings.name, reveal, part.values)
            reveals.append(reveal)
        return reveals

    def share(self, put: pb.Put, shape: tuple[int, ...]) -> Value:
        """The share that a client has sealed to this party."""
        key, name = self._party_node.identity.sealing_private_key, self._party_node.settings.name
        return open_share(key, self.id, put.handle, put.type, name, shape, put.sealed_share)

    @property
    def vault(self) -> Vault:
        """Shares."""
        return self._runtime.vault

    def statistics(self) -> Statistics:
        """A copy of the runtime's."""
        return replace(self._runtime.statistics)


def serve(settings: PartySettings) -> None:
    """Serve until the process is told to stop."""
    run(
        PartyService(settings, identity_of(settings)),
        party_pb2_grpc.add_PartyServicer_to_server,
        raw=["Exchange"],
    )
