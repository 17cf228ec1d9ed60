"""The hand-packed frame is the protobuf message, in both directions."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import ProtocolError
from services import build_protocol, frames
from services.protocol import session_pb2

numbers = st.integers(0, 2**64 - 1)
flags = st.integers(0, 2**32 - 1)


@given(number=numbers, flag=flags, payload=st.binary(max_size=300))
def test_protobuf_reads_what_is_packed_by_hand(number: int, flag: int, payload: bytes) -> None:
    packed = frames.header(number, flag, len(payload)) + payload
    assert len(packed) == frames.HEADER_BYTES + len(payload)
    message = session_pb2.Frame.FromString(packed)
    assert (message.sequence, message.flags, message.payload) == (number, flag, payload)
    assert frames.unpack(packed) == (number, flag, payload)


@given(number=numbers, flag=flags, payload=st.binary(max_size=300))
def test_what_protobuf_writes_is_read(number: int, flag: int, payload: bytes) -> None:
    written = session_pb2.Frame(sequence=number, flags=flag, payload=payload).SerializeToString()
    assert frames.unpack(written) == (number, flag, payload)


@pytest.mark.parametrize("length", [0, 127, 128, 16383, 16384, 2097151, 2097152, frames.MAXIMUM_PAYLOAD])
def test_every_length_of_varint(length: int) -> None:
    packed = frames.header(7, 2, length) + bytes(length)
    assert len(session_pb2.Frame.FromString(packed).payload) == length
    assert len(frames.unpack(packed)[2]) == length


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_a_typed_error(junk: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        frames.unpack(junk)


@given(payload=st.binary(max_size=50), cut=st.integers(1, 70))
def test_a_truncated_frame_is_refused_or_is_short(payload: bytes, cut: int) -> None:
    packed = (frames.header(5, 0, len(payload)) + payload)[:-cut]
    try:
        _, _, read = frames.unpack(packed)
    except ProtocolError:
        return
    assert len(read) == 0  # whole fields were cut off; what is left is a legal message without payload


def test_counts() -> None:
    assert frames.read_count(memoryview(frames.count(2**64 - 1))) == 2**64 - 1
    with pytest.raises(ProtocolError):
        frames.read_count(memoryview(b"1234567"))


def test_the_committed_stubs_are_those_of_the_protocol() -> None:
    pytest.importorskip("grpc_tools")
    committed = Path(build_protocol.ROOT / "services" / "protocol")
    with tempfile.TemporaryDirectory() as directory:
        for built in build_protocol.build(Path(directory)):
            assert (committed / built.name).read_text() == built.read_text(), "run python -m services.build_protocol"
