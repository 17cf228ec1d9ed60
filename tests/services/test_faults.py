"""A peer that is killed or hangs: real processes, real signals, the server's and the client's view."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest

from parley.errors import SessionClosed
from services.client import Connection
from services.identity import Caller, Identity
from services.protocol import party_pb2_grpc
from services.server import Server
from services.settings import KeepaliveSettings
from services.streams import SessionGate, open_stream
from tests.services.harness import EXCHANGE, Office, PartyService

pytestmark = pytest.mark.processes

KEEPALIVE = KeepaliveSettings(interval_seconds=1, timeout_seconds=1)
NOTICE = {signal.SIGKILL: 1.0, signal.SIGSTOP: 6.0}


def _serve(directory: Path, pipe: Pipe) -> None:
    gate = SessionGate()
    server = Server("127.0.0.1:0", Identity.load(directory), keepalive=KEEPALIVE)
    server.add_service(party_pb2_grpc.add_PartyServicer_to_server, PartyService(gate), raw=["Exchange"])
    server.start()
    alice = Caller("party", "alice")
    expected = gate.open("s", [alice])[alice]
    pipe.send(server.port)
    expected.wait(10).send(b"ready")
    time.sleep(60)


def _dial(directory: Path, port: int) -> None:
    with Connection(f"127.0.0.1:{port}", "party", "bob", Identity.load(directory), keepalive=KEEPALIVE) as connection:
        open_stream(connection.channel, EXCHANGE, "s", connection.peer).send(b"ready")
        time.sleep(60)


@pytest.mark.parametrize("fault", NOTICE)
@pytest.mark.parametrize("served", [True, False])
def test_a_peer_that_dies_or_hangs_ends_the_session(office: Office, fault: signal.Signals, served: bool) -> None:
    context = multiprocessing.get_context("spawn")
    alice, bob = office.identity("party", "alice"), office.identity("party", "bob")
    if served:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(office.directory / "party" / "bob", there), daemon=True)
        process.start()
        assert here.poll(30)
        connection = Connection(f"127.0.0.1:{here.recv()}", "party", "bob", alice, keepalive=KEEPALIVE)
        stream = open_stream(connection.channel, EXCHANGE, "s", connection.peer)
        close = connection.close
        peer = "party bob"
    else:
        gate = SessionGate()
        server = Server("127.0.0.1:0", bob, keepalive=KEEPALIVE)
        server.add_service(party_pb2_grpc.add_PartyServicer_to_server, PartyService(gate), raw=["Exchange"])
        server.start()
        caller = Caller("party", "alice")
        expected = gate.open("s", [caller])[caller]
        directory = office.directory / "party" / "alice"
        process = context.Process(target=_dial, args=(directory, server.port), daemon=True)
        process.start()
        stream = expected.wait(30)
        close = lambda: server.stop(0)  # noqa: E731
        peer = "party alice"
    try:
        assert bytes(stream.receive(5)) == b"ready"
        assert process.pid is not None
        start = time.monotonic()
        os.kill(process.pid, fault)
        with pytest.raises(SessionClosed, match=f"the connection to {peer} ended"):
            stream.receive(1)
        assert time.monotonic() - start < NOTICE[fault]
        with pytest.raises(SessionClosed):
            stream.send(b"x")
    finally:
        process.kill()
        process.join()
        close()


def test_a_peer_that_hangs_for_a_moment_goes_on(office: Office) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    alice, _ = office.identity("party", "alice"), office.identity("party", "bob")
    process = context.Process(target=_serve, args=(office.directory / "party" / "bob", there), daemon=True)
    process.start()
    try:
        assert here.poll(30)
        assert process.pid is not None
        with Connection(f"127.0.0.1:{here.recv()}", "party", "bob", alice) as connection:
            connection.wait_until_ready(5)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGCONT)
            stream = open_stream(connection.channel, EXCHANGE, "s", connection.peer)
            assert bytes(stream.receive(5)) == b"ready"
    finally:
        process.kill()
        process.join()
