"""Latency and throughput of the streams between nodes, over TLS between processes: `python -m benchmarks.streams`.

A *round* is what MPC does: every node sends a message to each of its peers, then receives one from each. The
processor time is that of one node for one round, all threads of its process together. `--public` measures the way
over gRPC's public API for comparison (services/streams.py says why there are two).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services import streams
from services.client import Connection
from services.identity import Caller, Identity, create_authority, issue
from services.process import prepare_process
from services.protocol import party_pb2_grpc
from services.server import Server
from services.streams import FrameStream, SessionGate, open_stream

SIZES = (64, 8192, 65536)
BULK = 16 << 20
SESSION = "benchmark"


@dataclass
class Figure:
    """One measured figure."""

    what: str
    nodes: int
    message_bytes: int
    round_microseconds: float
    processor_microseconds: float
    switches: float
    """Voluntary context switches of one node in one round."""
    gigabytes_per_second: float
    """Sent by one node."""


class _Party(party_pb2_grpc.PartyServicer):
    def __init__(self, gate: SessionGate) -> None:
        self.gate = gate

    def Exchange(self, request_iterator: Any, context: Any) -> Any:
        return self.gate.serve(request_iterator, context)


def _node(
    directory: Path, index: int, nodes: int, public: bool, rounds: int, ports: Any, barrier: Any, out: Any
) -> None:
    if public:
        streams.DIRECT = False
    prepare_process()
    identity = Identity.load(directory / f"p{index}")
    gate = SessionGate()
    server = Server("127.0.0.1:0", identity)
    server.add_service(party_pb2_grpc.add_PartyServicer_to_server, _Party(gate), raw=["Exchange"])
    server.start()
    ports[index] = server.port
    callers = [Caller("party", f"p{number}") for number in range(nodes)]
    expected = gate.open(SESSION, callers[index + 1 :])
    barrier.wait()
    peers: list[FrameStream] = []
    connections = []
    for number in range(index):
        connection = Connection(f"127.0.0.1:{ports[number]}", "party", f"p{number}", identity)
        connections.append(connection)
        peers.append(open_stream(connection.channel, "/parley.Party/Exchange", SESSION, connection.peer))
    peers += [entry.wait(15) for entry in expected.values()]

    def measure(what: str, size: int, count: int, one_way: bool = False) -> None:
        message = bytes(size)
        sends, receives = (index == 0, index != 0) if one_way else (True, True)
        for repetition in range(2):  # the first to warm up
            barrier.wait()
            before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            for _ in range(count if repetition else max(1, count // 5)):
                if sends:
                    for peer in peers:
                        peer.send(message)
                if receives:
                    for peer in peers if not one_way else peers[:1]:
                        peer.receive(size)
            if one_way:
                for peer in peers:  # the sender is done when all has arrived
                    peer.receive(1) if sends else peer.send(b"!")
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            barrier.wait()
        if index == 0:
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            switches = (after.ru_nvcsw - before.ru_nvcsw) / count
            rate = size * count * len(peers) / seconds / 1e9
            out.put(Figure(what, nodes, size, seconds / count * 1e6, used / count * 1e6, switches, rate))

    for size in SIZES:
        measure("rounds", size, rounds)
    measure("bulk both ways", BULK, 16)
    if nodes == 2:
        measure("bulk one way", BULK, 16, one_way=True)
    if index == 0:
        out.put(None)
    barrier.wait()
    for peer in peers:
        peer.close()
    for connection in connections:
        connection.close()
    server.stop(0.5)


def run(nodes: int, public: bool, rounds: int) -> list[Figure]:
    """The figures for a mesh of `nodes` processes on this machine."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = create_authority(directory / "authority")
        for index in range(nodes):
            issue(authority, directory / f"p{index}", "party", f"p{index}")
        ports, barrier, out = context.Array("i", nodes), context.Barrier(nodes), context.Queue()
        processes = [
            context.Process(
                target=_node, args=(directory, index, nodes, public, rounds, ports, barrier, out), daemon=True
            )
            for index in range(nodes)
        ]
        for process in processes:
            process.start()
        figures = []
        while (figure := out.get(timeout=300)) is not None:
            figures.append(figure)
        for process in processes:
            process.join(30)
    return figures


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--public", action="store_true", help="over gRPC's public API")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--nodes", type=int, nargs="*", default=[2, 3])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for nodes in arguments.nodes:
        for figure in run(nodes, arguments.public, arguments.rounds):
            if arguments.json:
                print(json.dumps(asdict(figure)))
            else:
                print(
                    f"{figure.nodes} nodes, {figure.what}, {figure.message_bytes:,} bytes: "
                    f"{figure.round_microseconds:,.0f} µs a round, {figure.processor_microseconds:,.0f} µs of CPU "
                    f"and {figure.switches:.1f} switches a node, {figure.gigabytes_per_second:.2f} GB/s sent"
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
