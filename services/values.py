"""Ring elements in messages: public arguments, and shares and parts of results that are sealed to one receiver.

What a sealed value is (session, name, who made it, for whom, its type) is the context under which it was sealed:
whoever passes it on can neither read it nor let it pass for another one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError
from typing_extensions import Buffer

from parley.errors import InputError, PlanError, ProtocolError
from parley.plan import plan_pb2
from parley.plan.checker import check_type
from parley.plan.graph import Kind, Type
from parley.plan.wire import type_from_message, type_to_message
from services.protocol import session_pb2 as pb
from services.sealing import OVERHEAD, seal, unseal

Integers = npt.NDArray[np.int64]

MAXIMAL_ELEMENTS = 1 << 31


# ---- public values ------------------------------------------------------------------------------------------------


def arguments_to_message(arguments: Mapping[str, Integers]) -> pb.Arguments:
    """The arguments of one repetition."""
    message = pb.Arguments()
    for name, values in arguments.items():
        entry = message.values[name]
        entry.shape.extend(values.shape)
        entry.values = np.ascontiguousarray(values, dtype="<i8").tobytes()
    return message


def arguments_from_message(message: pb.Arguments) -> dict[str, Integers]:
    """The other way round; raises InputError where an array is not as large as its shape says."""
    return {
        name: _array(entry.values, tuple(entry.shape), f"argument {name}") for name, entry in message.values.items()
    }


def type_to_bytes(type: Type) -> bytes:
    """A type as a message of plan.proto."""
    return type_to_message(type).SerializeToString(deterministic=True)


def type_from_bytes(data: bytes) -> Type:
    """The type of a value that a client puts in; raises PlanError where it is none, or not that of a shared value."""
    message = plan_pb2.Type()
    try:
        message.ParseFromString(data)
        type = type_from_message(message)
    except (DecodeError, ValueError) as error:
        raise PlanError(f"the type of a value is damaged ({error})") from None
    if type.kind != Kind.SHARED or type.width != 64 or type.planes != 1:
        raise PlanError(f"a value is put in as a shared one of 64 bits, not as {type}")
    check_type(type)
    return type


# ---- sealed values ------------------------------------------------------------------------------------------------


def seal_share(receiver: bytes, session: str, handle: str, type: bytes, party: str, share: Integers) -> bytes:
    """A client's share of a value for `party`, whose sealing key is `receiver`."""
    return seal(receiver, _share_context(session, handle, type, party), _bytes(share))


def open_share(
    key: X25519PrivateKey, session: str, handle: str, type: bytes, party: str, shape: tuple[int, ...], sealed: Buffer
) -> Integers:
    """The share, at the party; raises ProtocolError where it was made for another purpose, or has another size."""
    _check_size(sealed, shape, f"the share of {handle!r}")
    return _array(unseal(key, _share_context(session, handle, type, party), sealed), shape, f"the share of {handle!r}")


def seal_part(receiver: bytes, session: str, party: str, reveal: pb.Reveal, values: Integers) -> None:
    """Fill in `reveal.sealed` (and its shape) with the part that `party` has of a result."""
    reveal.shape[:] = values.shape
    reveal.sealed = seal(receiver, _part_context(session, party, reveal), _bytes(values))


def open_part(key: X25519PrivateKey, session: str, party: str, reveal: pb.Reveal) -> Integers:
    """The part that `party` has of a result, at its receiver; raises ProtocolError."""
    shape = tuple(reveal.shape)
    what = f"the part that party {party} has of {reveal.name!r}"
    _check_size(reveal.sealed, shape, what)
    return _array(unseal(key, _part_context(session, party, reveal), reveal.sealed), shape, what)


def combine_parts(
    key: X25519PrivateKey, session: str, parties: Sequence[str], parts: Mapping[str, pb.Reveal]
) -> tuple[Integers, int]:
    """A result (ring elements, scale) from the parts of all `parties`, at its receiver.

    Raises ProtocolError where a part is missing, or one does not belong to the others.
    """
    if set(parts) != set(parties):
        missing = ", ".join(sorted(set(parties) - set(parts))) or "none"
        raise ProtocolError(f"a result needs a part of each of {', '.join(parties)}; missing: {missing}")
    first = parts[parties[0]]
    total: Integers | None = None
    for party in parties:
        part = parts[party]
        alike = all(
            getattr(part, field) == getattr(first, field)
            for field in ("execution", "name", "receiver", "scale", "shape")
        )
        if not alike:
            raise ProtocolError(f"the parts that {party} and {parties[0]} have of {first.name!r} are of two results")
        values = open_part(key, session, party, part)
        with np.errstate(over="ignore"):
            total = values if total is None else total + values
    assert total is not None
    return np.asarray(total), first.scale


def _share_context(session: str, handle: str, type: bytes, party: str) -> bytes:
    return _context(b"parley share 1", session.encode(), handle.encode(), type, party.encode())


def _part_context(session: str, party: str, reveal: pb.Reveal) -> bytes:
    numbers = struct.pack(f"<Qq{len(reveal.shape)}Q", reveal.execution, reveal.scale, *reveal.shape)
    names = (session, party, reveal.receiver, reveal.name)
    return _context(b"parley result 1", *(name.encode() for name in names), numbers)


def _context(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def _bytes(values: Integers) -> bytes:
    return np.ascontiguousarray(values, dtype="<i8").tobytes()


def _elements(shape: tuple[int, ...], what: str) -> int:
    elements = 1
    for size in shape:
        elements *= size
        if elements > MAXIMAL_ELEMENTS:
            raise InputError(f"{what} has more than {MAXIMAL_ELEMENTS} elements")
    return elements


def _check_size(sealed: Buffer, shape: tuple[int, ...], what: str) -> None:
    expected = 8 * _elements(shape, what) + OVERHEAD
    if memoryview(sealed).nbytes != expected:
        raise ProtocolError(f"{what} is {memoryview(sealed).nbytes} bytes long instead of {expected}")


def _array(data: bytes, shape: tuple[int, ...], what: str) -> Integers:
    if len(shape) > 16 or len(data) != 8 * _elements(shape, what):
        raise InputError(f"{what} has {len(data)} bytes, which is not shape {shape}")
    return np.frombuffer(data, dtype="<i8").astype(np.int64, copy=False).reshape(shape)
