"""Messages of any size over streams whose messages gRPC limits: large ones travel as several, each with a part.

For Command, Event, ClientCommand, ClientEvent, SubmitJobRequest and Result, which have a field `part` for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError

from parley.errors import ProtocolError
from services.protocol import coordinator_pb2, session_pb2

Message = TypeVar(
    "Message",
    session_pb2.Command,
    session_pb2.Event,
    coordinator_pb2.ClientCommand,
    coordinator_pb2.ClientEvent,
    coordinator_pb2.SubmitJobRequest,
    coordinator_pb2.Result,
)

PART_BYTES = 2 << 20


def split(message: Message) -> Iterator[Message]:
    """`message` as one message, or as several that `join` puts together again."""
    size = message.ByteSize()
    if size <= PART_BYTES:
        yield message
        return
    data = message.SerializeToString()
    for start in range(0, size, PART_BYTES):
        end = start + PART_BYTES
        yield type(message)(part=session_pb2.Part(data=data[start:end], last=end >= size))


def join(messages: Iterable[Message], limit: int) -> Iterator[Message]:
    """The messages that `split` has split; raises ProtocolError where one is damaged or larger than `limit` bytes."""
    pieces: list[bytes] = []
    size = 0
    for message in messages:
        if not message.HasField("part"):
            if pieces:
                raise ProtocolError("a message came between the parts of another one")
            yield message
            continue
        part = message.part
        size += len(part.data)
        if size > limit:
            raise ProtocolError(f"a message is larger than the limit of {limit} bytes: send less at once")
        pieces.append(part.data)
        if not part.last:
            continue
        whole = type(message)()
        try:
            whole.ParseFromString(b"".join(pieces))
        except DecodeError as error:
            raise ProtocolError("a message that came in parts is damaged") from error
        pieces, size = [], 0
        if whole.HasField("part"):
            raise ProtocolError("a message that came in parts holds parts again")
        yield whole
