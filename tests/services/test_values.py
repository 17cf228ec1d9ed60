"""Values in messages: sealed to one receiver and for one purpose, whole, and of the size that is said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import InputError, ParleyError, PlanError, ProtocolError, SessionClosed, Unreachable
from parley.plan.graph import Kind, Type
from services import parts
from services.failures import error_of, failure
from services.identity import Caller
from services.protocol import session_pb2 as pb
from services.values import (
    arguments_from_message,
    arguments_to_message,
    combine_parts,
    open_share,
    seal_part,
    seal_share,
    type_from_bytes,
    type_to_bytes,
)

KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
TYPE = Type(Kind.SHARED, (2, 3), 16, 32)


def test_a_share_opens_for_its_purpose_only() -> None:
    share = np.arange(6).reshape(2, 3)
    kind = type_to_bytes(TYPE)
    sealed = seal_share(PUBLIC, "session1", "t0", kind, "alice", share)
    opened = open_share(KEY, "session1", "t0", kind, "alice", (2, 3), sealed)
    assert (opened == share).all()
    other_kind = type_to_bytes(Type(Kind.SHARED, (2, 3), 15, 32))
    for wrong in (("session2", "t0", kind, "alice"), ("session1", "t1", kind, "alice")):
        with pytest.raises(ProtocolError, match="cannot be opened"):
            open_share(KEY, *wrong, (2, 3), sealed)
    for wrong in (("session1", "t0", other_kind, "alice"), ("session1", "t0", kind, "bob")):
        with pytest.raises(ProtocolError, match="cannot be opened"):
            open_share(KEY, *wrong, (2, 3), sealed)
    with pytest.raises(ProtocolError, match="bytes long instead of"):
        open_share(KEY, "session1", "t0", kind, "alice", (2, 4), sealed)


def parts_of(values: np.ndarray, parties: tuple[str, ...]) -> dict[str, pb.Reveal]:
    found = {}
    for party, part in zip(parties, values, strict=True):
        reveal = pb.Reveal(name="loss", execution=7, receiver="submitter", scale=16)
        seal_part(PUBLIC, "session1", party, reveal, part)
        found[party] = reveal
    return found


def test_a_result_is_the_sum_of_all_parts() -> None:
    values = np.array([[1, 2], [(1 << 63) - 1, 5], [3, -9]])
    sealed = parts_of(values, ("alice", "bob", "carol"))
    combined, scale = combine_parts(KEY, "session1", ("alice", "bob", "carol"), sealed)
    with np.errstate(over="ignore"):
        assert (combined == values.sum(0)).all()
    assert scale == 16


def test_a_result_is_refused_where_a_part_is_missing_changed_or_of_another_result() -> None:
    parties = ("alice", "bob")
    sealed = parts_of(np.array([[1, 2], [3, 4]]), parties)
    with pytest.raises(ProtocolError, match="missing: bob"):
        combine_parts(KEY, "session1", parties, {"alice": sealed["alice"]})
    with pytest.raises(ProtocolError, match="cannot be opened"):
        combine_parts(KEY, "session2", parties, sealed)
    with pytest.raises(ProtocolError, match="cannot be opened"):
        combine_parts(KEY, "session1", parties, {"alice": sealed["bob"], "bob": sealed["alice"]})
    with pytest.raises(ProtocolError, match="cannot be opened"):
        combine_parts(X25519PrivateKey.generate(), "session1", parties, sealed)
    for field, value in (("execution", 8), ("scale", 15), ("name", "other")):
        changed = {party: pb.Reveal() for party in parties}
        for party in parties:
            changed[party].CopyFrom(sealed[party])
        setattr(changed["bob"], field, value)
        with pytest.raises(ProtocolError, match="of two results"):
            combine_parts(KEY, "session1", parties, changed)
        setattr(changed["alice"], field, value)  # alike, but not as they were sealed
        with pytest.raises(ProtocolError, match="cannot be opened"):
            combine_parts(KEY, "session1", parties, changed)


def test_arguments_come_back_as_they_were_and_are_refused_where_they_do_not_fit() -> None:
    arguments = {"rows": np.arange(5), "empty": np.zeros((0, 3), np.int64), "one": np.array(-4)}
    back = arguments_from_message(arguments_to_message(arguments))
    assert all((back[name] == values).all() and back[name].shape == values.shape for name, values in arguments.items())
    for shape in ([6], [1 << 40, 1 << 40], [1] * 17):
        message = arguments_to_message({"rows": np.arange(5)})
        message.values["rows"].shape[:] = shape
        with pytest.raises(InputError, match="rows"):
            arguments_from_message(message)


def test_only_the_type_of_a_shared_value_can_be_put_in() -> None:
    assert type_from_bytes(type_to_bytes(TYPE)) == TYPE
    for wrong in (
        Type(Kind.MASKED, (2,), 16, 32),
        Type(Kind.SHARED, (2,), 16, 32, width=32),
        Type(Kind.SHARED, (1 << 40,), 16, 32),
        Type(Kind.SHARED, (2,), 16, 63),
    ):
        with pytest.raises(PlanError):
            type_from_bytes(type_to_bytes(wrong))
    with pytest.raises(PlanError):
        type_from_bytes(b"\xff\xff")


@given(st.integers(0, 5_000_000))
def test_a_message_of_any_size_travels_in_parts(size: int) -> None:
    command = pb.Command(number=3, load_plan=pb.LoadPlan(plan=bytes(size)))
    pieces = list(parts.split(command))
    assert all(piece.ByteSize() <= parts.PART_BYTES + 64 for piece in pieces)
    assert list(parts.join(iter([*pieces, *pieces]), 1 << 23)) == [command, command]


def test_parts_that_are_too_large_damaged_or_mixed_are_refused() -> None:
    command = pb.Command(number=3, load_plan=pb.LoadPlan(plan=bytes(5 << 20)))
    pieces = list(parts.split(command))
    assert len(pieces) == 3
    seen = 0

    def counted() -> Iterator[pb.Command]:
        nonlocal seen
        for piece in pieces:
            seen += 1
            yield piece

    with pytest.raises(ProtocolError, match="larger than the limit"):
        list(parts.join(counted(), 3 << 20))
    assert seen == 2, "what comes after the limit is not taken"
    with pytest.raises(ProtocolError, match="between the parts"):
        list(parts.join(iter([pieces[0], pb.Command(number=1)]), 1 << 23))
    with pytest.raises(ProtocolError, match="damaged"):
        list(parts.join(iter([pb.Command(part=pb.Part(data=b"\xff\xff\xff", last=True))]), 1 << 23))
    nested = pb.Command(part=pb.Part(data=pb.Command(part=pb.Part(last=True)).SerializeToString(), last=True))
    with pytest.raises(ProtocolError, match="holds parts again"):
        list(parts.join(iter([nested]), 1 << 23))


def test_a_failure_keeps_its_class_and_names_the_node_that_it_began_at() -> None:
    bob = Caller("party", "bob")
    for error in (InputError("no rows"), Unreachable("nobody there"), PlanError("too long", 3)):
        back = error_of(failure(error, bob))
        assert type(back) is type(error)
        assert str(back) == f"party bob: {error}"
    passed_on = SessionClosed("party carol closed the session: party bob: no rows")
    assert failure(passed_on, Caller("party", "alice")).cause == "party bob: no rows"
    hidden = failure(ValueError("weights are 3.25"), bob)
    assert "3.25" not in hidden.cause
    assert "party bob" in hidden.cause
    assert type(error_of(pb.Failed(kind="Unheard", cause="new"))) is ParleyError
