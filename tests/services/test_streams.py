"""FrameStream: order, sizes, large messages both ways at once, credit, ends of every kind."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest

from parley.errors import Denied, InputError, NotFound, ProtocolError, SessionClosed, Unreachable
from services import frames, streams
from services.client import Connection
from services.identity import Caller
from services.protocol import session_pb2
from services.streams import FrameStream, open_stream
from tests.services.harness import EXCHANGE, Bob, Office, start_bob

pytestmark = pytest.mark.usefixtures("each_way")


def inject(stream: FrameStream, frame: bytes) -> None:
    """Send a frame as it is, in its turn."""
    with stream._lock:
        if stream._sending:
            stream._pending.append(frame)
            return
        stream._sending = True
    assert stream._call is not None
    stream._call.send(frame)


def test_messages_arrive_in_order_with_their_parts_joined(bob: Bob) -> None:
    here, there = bob.streams("s")
    for number in range(50):
        here.send(b"head", numpy.arange(number), memoryview(b"tail"))
        there.send(bytes([number]) * number)
    for number in range(50):
        expected = b"head" + numpy.arange(number).tobytes() + b"tail"
        assert there.receive(len(expected)) == expected
        assert here.receive(number) == bytes([number]) * number
    assert here.messages_sent == there.messages_received == 50
    assert here.bytes_sent == there.bytes_received == 50 * 8 + 8 * sum(range(50))
    assert here.wait_seconds > 0
    here.close()


def test_payloads_of_integers_are_aligned(bob: Bob) -> None:
    here, there = bob.streams("s")
    here.send(numpy.arange(100))
    received = numpy.frombuffer(there.receive(800), dtype=numpy.int64)
    assert received.flags.aligned
    assert (received == numpy.arange(100)).all()


@pytest.mark.parametrize("size", [4096, 4097, 8192, 100_001])
def test_long_messages_travel_in_parts(bob: Bob, size: int) -> None:
    here, there = bob.streams("s", chunk_bytes=4096)
    data = numpy.random.default_rng(size).integers(0, 256, size, dtype=numpy.uint8)
    here.send(data[: size // 3], data[size // 3 :])
    here.send(b"next")
    assert bytes(there.receive(size)) == data.tobytes()
    assert bytes(there.receive(4)) == b"next"


def test_both_sides_may_send_far_more_than_fits_before_they_receive(bob: Bob) -> None:
    here, there = bob.streams("s")
    size = 48 << 20
    data = numpy.random.default_rng(0).integers(0, 256, size, dtype=numpy.uint8)

    def talk(stream: FrameStream) -> bool:
        stream.send(data)
        return stream.receive(size) == memoryview(data)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(talk, (here, there), timeout=60))


def test_a_sender_with_a_budget_waits_until_the_receiver_takes(bob: Bob) -> None:
    here, there = bob.streams("s", server_budget=10_000)
    sent: list[int] = []

    def deal() -> None:
        for number in range(20):
            there.send(bytes(3000))
            sent.append(number)

    dealer = threading.Thread(target=deal)
    dealer.start()
    here.send(b"entropy")  # what comes the other way is received while the sender waits
    assert there.receive(7) == b"entropy"
    time.sleep(0.3)
    assert len(sent) == 3
    for _ in range(20):
        here.receive(3000)
    dealer.join(5)
    assert len(sent) == 20
    assert there.credit_wait_seconds > 0.2


def test_a_message_larger_than_the_budget_passes_in_parts(bob: Bob) -> None:
    here, there = bob.streams("s", server_budget=5000, chunk_bytes=4096)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(there.send, bytes(50_000))
        assert here.receive(50_000) == bytes(50_000)
        done.result(5)


def test_a_sender_that_waits_for_credit_wakes_when_the_peer_closes(bob: Bob) -> None:
    here, there = bob.streams("s", server_budget=1000)
    there.send(bytes(1000))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(there.send, bytes(1000))
        time.sleep(0.1)
        here.close("cancelled by the submitter")
        with pytest.raises(SessionClosed, match="party alice closed the session: cancelled by the submitter"):
            waiting.result(5)


@pytest.mark.parametrize("long", [False, True])
def test_a_message_of_another_size_ends_the_session_on_both_sides(bob: Bob, long: bool) -> None:
    here, there = bob.streams("s", chunk_bytes=4096)
    size = 9000 if long else 100
    here.send(bytes(size))
    with pytest.raises(ProtocolError, match=f"party alice sent a message of {size} bytes where the plan has 99"):
        there.receive(99)
    with pytest.raises(SessionClosed, match=r"party bob closed the session: .* where the plan has 99"):
        here.receive(1)


def test_close_wakes_both_sides_with_the_cause(bob: Bob) -> None:
    here, there = bob.streams("s")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(stream.receive, 8) for stream in (here, there)]
        time.sleep(0.1)
        start = time.monotonic()
        here.close("digests differ")
        here.close("again")
        with pytest.raises(SessionClosed, match="closed here: digests differ"):
            waiting[0].result(5)
        with pytest.raises(SessionClosed, match="party alice closed the session: digests differ"):
            waiting[1].result(5)
        assert time.monotonic() - start < 1
    for stream in (here, there):
        with pytest.raises(SessionClosed):
            stream.send(b"x")
        with pytest.raises(SessionClosed):
            stream.receive(1)


def test_what_was_sent_before_closing_is_delivered(bob: Bob) -> None:
    for number in range(10):
        here, there = bob.streams(f"s{number}")
        sender, receiver = (here, there) if number % 2 else (there, here)
        for _ in range(20):
            sender.send(bytes(200_000))
        sender.close()
        for _ in range(20):
            receiver.receive(200_000)
        with pytest.raises(SessionClosed, match="it is finished"):
            receiver.receive(1)


def test_streams_leave_nothing_behind(bob: Bob) -> None:
    for number in range(5):
        here, there = bob.streams(f"s{number}")
        here.send(b"x")
        there.receive(1)
        (here if number % 2 else there).close()
    deadline = time.monotonic() + 5
    names: list[str] = []
    while time.monotonic() < deadline:
        names = [thread.name for thread in threading.enumerate()]
        if not any("Timer" in name or "frames of" in name for name in names):
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"threads are left: {names}")
    start = time.monotonic()
    bob.connection.close()
    bob.server.stop(5)
    assert time.monotonic() - start < 3


def test_streams_that_are_over_take_no_room(office: Office) -> None:
    gc.disable()  # gRPC counts a call until its object is freed, which must not wait for the collector
    try:
        for bob in start_bob(office.identity, streams=2):
            for number in range(80):
                here, there = bob.streams(f"s{number}")
                here.send(b"x")
                there.receive(1)
                if number % 3:
                    (here, there)[number % 2].close()
                else:
                    assert here._call is not None
                    here._call.cancel()
    finally:
        gc.enable()


def test_a_connection_that_breaks_ends_the_session_at_both_ends(bob: Bob) -> None:
    here, there = bob.streams("s")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(there.receive, 8)
        bob.connection.close()
        with pytest.raises(SessionClosed, match="party alice"):
            waiting.result(5)
        with pytest.raises(SessionClosed, match="party bob"):
            here.receive(1)


def test_a_server_that_stops_ends_the_session(bob: Bob) -> None:
    here, there = bob.streams("s")
    bob.server.stop(0)
    for stream in (here, there):
        with pytest.raises(SessionClosed):
            stream.receive(1)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\xff" * 40, "no frame"),
        (b"", None),  # an empty message is a legal Frame: number 0, no flags, no payload
        (frames.header(0, 0, 5) + b"1234", "no frame"),
        (frames.header(1, 0, 4) + b"1234", "frame 1 instead of 0"),
        (frames.header(0, 64, 4) + b"1234", "unknown flags"),
        (frames.header(0, frames.CREDIT, 8) + frames.count(1), "credit for 1 bytes"),
        (frames.header(0, frames.CREDIT, 3) + b"123", "count of 3 bytes"),
        (frames.header(0, frames.PART, 4) + b"1234", "part of a message that it had not begun"),
        (frames.header(0, frames.LENGTH, 8) + frames.count(1 << 60), "a message of 1152921504606846976 bytes"),
    ],
)
def test_damaged_frames_are_refused(bob: Bob, frame: bytes, message: str | None) -> None:
    here, there = bob.streams("s")
    inject(here, frame)
    if message is None:
        assert there.receive(0) == b""
    else:
        with pytest.raises(ProtocolError, match=message):
            there.receive(1 << 20)
        with pytest.raises(SessionClosed, match="party bob closed the session"):
            here.receive(1)


def test_a_frame_above_the_limit_ends_the_stream(bob: Bob) -> None:
    here, there = bob.streams("s")
    inject(here, frames.header(0, 0, 9 << 20) + bytes(9 << 20))
    with pytest.raises(SessionClosed):
        there.receive(9 << 20)


def test_a_second_connection_is_refused(bob: Bob) -> None:
    here, there = bob.streams("s")
    with pytest.raises(Denied, match="has a stream of party alice already"):
        open_stream(bob.connection.channel, EXCHANGE, "s", bob.connection.peer)
    here.send(b"x")
    assert there.receive(1) == b"x"


def test_an_unknown_session_is_refused_after_a_while(bob: Bob) -> None:
    with pytest.raises(NotFound, match="no session 'other' is open here"):
        open_stream(bob.connection.channel, EXCHANGE, "other", bob.connection.peer)


def test_a_session_may_open_after_its_peer_has_connected(bob: Bob) -> None:
    alice = Caller("party", "alice")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_stream, bob.connection.channel, EXCHANGE, "late", bob.connection.peer)
        time.sleep(0.15)
        there = bob.gate.open("late", [alice])[alice].wait(5)
        there.send(b"hello")
        assert opening.result(5).receive(5) == b"hello"


def test_a_caller_that_is_not_of_the_session_is_refused(bob: Bob, office: Office) -> None:
    expected = bob.gate.open("s", [Caller("party", "carol")])
    with pytest.raises(Denied, match="does not wait for party alice"):
        open_stream(bob.connection.channel, EXCHANGE, "s", bob.connection.peer)
    with pytest.raises(Unreachable, match="party carol did not connect"):
        expected[Caller("party", "carol")].wait(0.05)
    # Nor does it help to be called carol in another role.
    with Connection(bob.connection.address, "party", "bob", office.identity("dealer", "carol")) as connection:
        with pytest.raises(Denied, match="a dealer may not call"):
            open_stream(connection.channel, EXCHANGE, "s", connection.peer)


def test_a_forgotten_session_closes_its_streams_and_stays_closed(bob: Bob) -> None:
    here, _ = bob.streams("s")
    bob.gate.forget("s", "a newer attempt runs")
    with pytest.raises(SessionClosed, match="a newer attempt runs"):
        here.receive(1)
    with pytest.raises(NotFound, match="has ended"):
        open_stream(bob.connection.channel, EXCHANGE, "s", bob.connection.peer)
    with pytest.raises(Denied, match="has ended"):
        bob.gate.open("s", [])


def test_a_stream_to_nobody_is_unreachable(office: Office) -> None:
    with Connection("127.0.0.1:1", "party", "bob", office.identity("party", "alice")) as connection:
        with pytest.raises(Unreachable, match="party bob cannot be reached"):
            open_stream(connection.channel, EXCHANGE, "s", connection.peer)


def test_senseless_options_are_refused() -> None:
    for options in ({"budget": 0}, {"chunk_bytes": 0}, {"chunk_bytes": 8 << 20}):
        with pytest.raises(InputError):
            FrameStream("bob", **options)  # type: ignore[arg-type]


def test_this_grpcio_has_the_fast_way(each_way: str) -> None:
    # Where this fails after an update of grpcio, streams still work, at twice the processor time a message.
    assert streams.DIRECT is (each_way == "direct")


def test_generated_frames_are_understood_on_the_wire(bob: Bob) -> None:
    here, there = bob.streams("s")
    frame: Any = session_pb2.Frame(payload=b"by protobuf")
    inject(here, frame.SerializeToString())
    assert bytes(there.receive(11)) == b"by protobuf"
