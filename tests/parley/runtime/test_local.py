"""Channels in memory keep the promises of `Channel`: order, sizes, back-pressure, and an end that wakes everybody."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from parley.errors import ProtocolError, SessionClosed
from parley.runtime.local import DEPTH, LocalSession, channel_pair
from tests.parley.harness import party_names


def test_messages_arrive_in_order_and_whole() -> None:
    a, b = channel_pair("a", "b")
    assert (a.peer, b.peer) == ("b", "a")
    for number in range(10):
        a.send(bytes([number]), memoryview(b"xy"), np.arange(2, dtype=np.uint8).data)
        b.send(b"back")
    for number in range(10):
        assert bytes(b.receive(5)) == bytes([number]) + b"xy\0\1"
        assert bytes(a.receive(4)) == b"back"
    a.send()
    assert bytes(b.receive(0)) == b""


def test_what_was_sent_does_not_change_afterwards() -> None:
    a, b = channel_pair("a", "b")
    values = np.arange(4)
    a.send(values.data.cast("B"))
    values += 1
    assert np.frombuffer(b.receive(32), dtype=np.int64).tolist() == [0, 1, 2, 3]


def test_another_size() -> None:
    a, b = channel_pair("alice", "bob")
    a.send(b"123")
    with pytest.raises(ProtocolError, match="alice sent 3 bytes, the plan says 4"):
        b.receive(4)


def test_a_sender_waits_for_room() -> None:
    a, b = channel_pair("a", "b")
    sent = []

    def work() -> None:
        for number in range(DEPTH + 5):
            a.send(bytes([number]))
            sent.append(number)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.3)
    assert len(sent) == DEPTH
    assert [b.receive(1)[0] for _ in range(DEPTH + 5)] == list(range(DEPTH + 5))
    thread.join(5)
    assert len(sent) == DEPTH + 5


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("side", [0, 1])
def test_the_end_wakes_whoever_waits(full: bool, side: int) -> None:
    ends = channel_pair("a", "b")
    errors: list[str] = []

    def wait() -> None:
        try:
            while True:
                ends[0].send(b"x") if full else ends[0].receive(1)
        except SessionClosed as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.2)
    ends[side].close("the cause")
    ends[1 - side].close("another")
    thread.join(5)
    assert errors == ["the cause"]
    for end in ends:
        with pytest.raises(SessionClosed, match="the cause"):
            end.send(b"x")


def test_what_was_sent_before_the_end_still_arrives() -> None:
    a, b = channel_pair("a", "b")
    a.send(b"last words")
    a.close("done")
    assert bytes(b.receive(10)) == b"last words"
    with pytest.raises(SessionClosed, match="done"):
        b.receive(1)


def test_a_cause_even_where_none_was_given() -> None:
    a, b = channel_pair("a", "b")
    b.close()
    with pytest.raises(SessionClosed, match="b"):
        a.receive(1)


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_sessions_do_not_share_anything(parties: int) -> None:
    sessions = [LocalSession(party_names(parties)) for _ in range(2)]
    assert sessions[0]._identity != sessions[1]._identity
    sessions[0].close()
    assert [item.executions for item in sessions[1].statistics] == [0] * parties
    sessions[1].close()


def test_threads_end_with_the_execution() -> None:
    before = threading.active_count()
    session = LocalSession(party_names(4))
    session.close()
    assert threading.active_count() == before
