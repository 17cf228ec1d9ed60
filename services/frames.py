"""The bytes of one `Frame` of protos/session.proto, packed and read by hand.

The header has 24 bytes whatever the payload: protobuf allows tags and lengths to be written with more bytes than they
need, so both are padded, and a payload of 64-bit integers stays aligned. Any protobuf parser reads such a frame, and
`unpack` reads what any protobuf writer makes of the message.
"""

from __future__ import annotations

import struct

from google.protobuf.message import DecodeError

from parley.errors import ProtocolError
from services.protocol import session_pb2

MESSAGE = 0
"""Flags: the payload is a whole message."""
LENGTH = 1
"""Flags: the payload is the length (8 bytes) of a message that follows in parts."""
PART = 2
"""Flags: the payload is the next part of a message."""
CREDIT = 4
"""Flags: the receiver has taken so many bytes (8 bytes)."""
BUDGET = 8
"""Flags: the sender waits for credit when more than so many bytes (8 bytes) are not yet taken."""
CLOSE = 16
"""Flags: the session is over; the payload says why."""

HEADER_BYTES = 24
MAXIMUM_PAYLOAD = 7 << 20
"""Bytes; under the 8 MiB that a gRPC message may have."""

_HEADER = struct.Struct("<BQBI5sIB")
_SEQUENCE_TAG = 0x09
_FLAGS_TAG = 0x15
_PAYLOAD_TAG = b"\x9a\x80\x80\x80\x00"
_COUNT = struct.Struct("<Q")


def _spread(length: int) -> int:
    """The lower 28 bits of a length as the first four bytes of a varint that has five."""
    return 0x80808080 | (length & 0x7F) | (length & 0x3F80) << 1 | (length & 0x1FC000) << 2 | (length & 0xFE00000) << 3


def header(sequence: int, flags: int, length: int) -> bytes:
    """The 24 bytes before a payload of `length` bytes."""
    return _HEADER.pack(_SEQUENCE_TAG, sequence, _FLAGS_TAG, flags, _PAYLOAD_TAG, _spread(length), length >> 28)


def unpack(frame: bytes) -> tuple[int, int, memoryview]:
    """Sequence number, flags and payload of a frame; raises ProtocolError for bytes that are none."""
    length = len(frame) - HEADER_BYTES
    if length >= 0:
        tag, sequence, flags_tag, flags, payload_tag, low, high = _HEADER.unpack_from(frame)
        if (
            tag == _SEQUENCE_TAG
            and flags_tag == _FLAGS_TAG
            and payload_tag == _PAYLOAD_TAG
            and low == _spread(length)
            and high == length >> 28
        ):
            return sequence, flags, memoryview(frame)[HEADER_BYTES:]
    try:
        message = session_pb2.Frame.FromString(frame)
    except DecodeError as error:
        raise ProtocolError(f"received {len(frame)} bytes that are no frame") from error
    return message.sequence, message.flags, memoryview(message.payload)


def count(value: int) -> bytes:
    """The payload of LENGTH, CREDIT and BUDGET."""
    return _COUNT.pack(value)


def read_count(payload: memoryview) -> int:
    """The number in the payload of LENGTH, CREDIT and BUDGET; raises ProtocolError where there is none."""
    if len(payload) != _COUNT.size:
        raise ProtocolError(f"received a count of {len(payload)} bytes, not {_COUNT.size}")
    value: int = _COUNT.unpack(payload)[0]
    return value
