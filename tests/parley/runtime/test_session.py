"""Sessions: what the roles must agree on, what ends a session, and that it ends for everybody with the cause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parley.errors import InputError, NotFound, ParleyError, PlanError, ProtocolError, SessionClosed
from parley.functions import order
from parley.plan.builder import Builder
from parley.plan.graph import Kind, Type
from parley.plan.wire import plan_from_bytes, plan_to_bytes
from parley.runtime import party
from parley.runtime.local import LocalSession, QueueChannel, combine
from parley.runtime.session import DIGEST, FINGERPRINT, Execution, Prepared, Revealed, fresh_entropy, session_key
from tests.parley.harness import check_statistics, opened, party_names, publish, secret

SECONDS = 10
"""Within which everybody must have noticed that a session is over; far more than it takes."""


def square_plan(parties: int = 3, factor: int = 1) -> Prepared:
    """y = factor · x², revealed to everybody; two arguments of which one multiplies and one adds."""
    b = Builder(party_names(parties))
    x = opened(secret(b, "x", (4,), 20))
    times = b.add("argument", name="times", shape=(), scale=0, bound=10)
    plus = b.add("argument", name="plus", shape=(4,), scale=0, bound=10)
    y = b.add("multiply_public", b.add("multiply", x, x), b.constant(factor))
    publish(b.add("add", b.add("multiply_public", y, times), plus), receivers=(*b.parties, "submitter"))
    return Prepared.of(b.finish())


def arguments(times: int = 2, plus: int = 3) -> dict[str, np.ndarray]:
    return {"times": np.array(times), "plus": np.full(4, plus)}


def execution(prepared: Prepared, first: int = 0, **changes: Any) -> Execution:
    made = Execution(prepared, first, {"x": "x"}, {}, (arguments(),))
    return replace(made, **changes)


def started(parties: int = 3) -> LocalSession:
    session = LocalSession(party_names(parties))
    session.put("x", Type(Kind.SHARED, (4,), 0, 20), np.arange(4))
    return session


class Outcome:
    """What every role's part in an execution ended with: results, or the error."""

    def __init__(self, roles: int) -> None:
        self.results: list[Any] = [None] * roles
        self.errors: list[BaseException | None] = [None] * roles


def drive(session: LocalSession, told: Sequence[Execution], dealer: Execution) -> Outcome:
    """Run what each party, and the dealer, was told; a role that fails closes its channels with the cause."""
    outcome = Outcome(len(told) + 1)

    def act(role: int, action: Callable[[], Any]) -> None:
        try:
            outcome.results[role] = action()
        except ParleyError as error:
            outcome.errors[role] = error
            session.close(f"role {role}: {error}")

    def run_party(index: int) -> list[Revealed]:
        session._runtimes[index].announce(told[index])
        return session._runtimes[index].execute(told[index])

    def run_dealer() -> None:
        assert session._dealer is not None
        session._dealer.execute(dealer)

    actions = [*((lambda index=index: run_party(index)) for index in range(len(told))), run_dealer]
    threads = [threading.Thread(target=act, args=pair, daemon=True) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a role hangs"
    return outcome


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(receiver, size) of every message from here on."""
    log: list[tuple[str, int]] = []
    send = QueueChannel.send

    def recording(self: QueueChannel, *parts: Any) -> None:
        log.append((self.peer, sum(memoryview(part).nbytes for part in parts)))
        send(self, *parts)

    monkeypatch.setattr(QueueChannel, "send", recording)
    return log


def test_all_agree() -> None:
    session, prepared = started(), square_plan()
    told = execution(prepared)
    outcome = drive(session, [told] * 3, told)
    assert outcome.errors == [None] * 4
    for index in range(3):
        whole = [item for item in outcome.results[index] if item.receiver == f"p{index}"]
        assert [item.values.tolist() for item in whole] == [[3, 5, 11, 21]]
    session.close()


OTHER = [
    {"arguments": (arguments(times=3),)},
    {"arguments": (arguments(plus=4),)},
    {"arguments": (arguments(), arguments())},
    {"first": 1},
    {"loads": {"x": "other"}},
    {"prepared": square_plan(factor=2)},
]


@pytest.mark.parametrize("change", OTHER)
@pytest.mark.parametrize("parties", [2, 3, 5])
def test_parties_that_were_told_different_things(
    change: dict[str, Any], parties: int, sent: list[tuple[str, int]]
) -> None:
    """Nobody opens anything, and nobody gets a result: all that was said are fingerprints."""
    if "prepared" in change:
        change = {"prepared": square_plan(parties, factor=2)}
    session = started(parties)
    session.put("other", Type(Kind.SHARED, (4,), 0, 20), np.arange(4))
    told = execution(square_plan(parties))
    sent.clear()
    outcome = drive(session, [told] * (parties - 1) + [replace(told, **change)], told)
    assert all(isinstance(error, (ProtocolError, SessionClosed)) for error in outcome.errors)
    assert any("fingerprint" in str(error) and isinstance(error, ProtocolError) for error in outcome.errors)
    assert outcome.results == [None] * (parties + 1)
    assert {size for _, size in sent} == {FINGERPRINT}


@pytest.mark.parametrize("change", OTHER)
def test_a_dealer_that_was_told_something_else(change: dict[str, Any], sent: list[tuple[str, int]]) -> None:
    session = started()
    session.put("other", Type(Kind.SHARED, (4,), 0, 20), np.arange(4))
    told = execution(square_plan())
    sent.clear()
    outcome = drive(session, [told] * 3, replace(told, **change))
    assert all(isinstance(error, (ProtocolError, SessionClosed)) for error in outcome.errors)
    assert isinstance(outcome.errors[3], ProtocolError)
    assert {size for _, size in sent} == {FINGERPRINT}


def test_everything_is_in_the_fingerprint() -> None:
    told = execution(square_plan())
    marks = {told.fingerprint(b"session")}
    marks |= {replace(told, **change).fingerprint(b"session") for change in OTHER}
    marks.add(told.fingerprint(b"sessioN"))
    assert len(marks) == len(OTHER) + 2
    b = Builder(party_names(2))
    for name in ("a", "b"):
        b.add("store", secret(b, name, (2,), 4), slot=name)
    two = Execution(Prepared.of(b.finish()), 0, {"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    variants = [
        two,
        replace(two, loads={"a": "2", "b": "1"}),
        replace(two, stores={"a": "4", "b": "3"}),
        replace(two, loads={"a": "3", "b": "4"}, stores={"a": "1", "b": "2"}),
        replace(two, loads={"a": "12", "b": ""}),
    ]
    assert len({variant.fingerprint(b"") for variant in variants}) == len(variants)
    turned = replace(two, loads=dict(reversed(two.loads.items())))
    assert turned.fingerprint(b"") == two.fingerprint(b"")


def test_the_same_plan_from_its_bytes_has_the_same_fingerprint() -> None:
    prepared = square_plan()
    again = Prepared.of(plan_from_bytes(plan_to_bytes(prepared.plan)))
    assert execution(prepared).fingerprint(b"s") == execution(again).fingerprint(b"s")


# Numbers only grow: a mask is never drawn a second time.


@pytest.mark.parametrize("first", [0, 4, 5, 6])
def test_a_replayed_number_is_refused_by_party_and_dealer(first: int, sent: list[tuple[str, int]]) -> None:
    session, prepared = started(), square_plan()
    told = execution(prepared, 5, arguments=(arguments(), arguments()))  # numbers 5 and 6
    assert drive(session, [told] * 3, told).errors == [None] * 4
    sent.clear()
    replay = execution(prepared, first)
    outcome = drive(session, [replay] * 3, replay)
    assert all(isinstance(error, (ProtocolError, SessionClosed)) for error in outcome.errors)
    assert {size for _, size in sent} <= {FINGERPRINT}
    assert any("numbers only grow" in str(error) for error in outcome.errors)


def test_each_role_alone_refuses_a_replayed_number() -> None:
    session, prepared = started(2), square_plan(2)
    told = execution(prepared, 5)
    assert drive(session, [told] * 2, told).errors == [None] * 3
    for runtime in session._runtimes:
        with pytest.raises(ProtocolError, match="numbers only grow"):
            runtime.execute(told)
    assert session._dealer is not None
    with pytest.raises(ProtocolError, match="numbers only grow"):
        session._dealer.execute(told)
    session.close()


def test_numbers_may_be_left_out() -> None:
    session, prepared = started(), square_plan()
    for first in (0, 7, 1000, 2**60):
        assert session.execute(execution(prepared, first))[0].execution == first
    session.close()


@pytest.mark.parametrize("first", [-1, 2**63, 2**63 - 1, 2**70])
def test_numbers_that_have_no_keystream(first: int) -> None:
    session = started()
    with pytest.raises(PlanError, match="number"):
        session.execute(execution(square_plan(), first))
    session.close()


# Transcripts.


def two_rounds(parties: int, reveal: bool = True) -> Prepared:
    b = Builder(party_names(parties))
    x = opened(secret(b, "x", (4,), 20))
    y = opened(b.add("multiply", x, x))
    z = b.add("multiply", y, x)
    if reveal:
        publish(z, receivers=b.parties)
    else:
        b.add("store", z, slot="z")
    return Prepared.of(b.finish())


@pytest.mark.parametrize("when", [0, 1])
def test_openings_that_differ_between_peers_are_noticed_before_a_reveal(
    when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p2 tells p0 and p1 different things; these two see it in each other's next message, whatever p2 says."""
    session, prepared = started(), two_rounds(3)
    liar = session._runtimes[2]
    rounds = []

    def lie(parts: Sequence[bytes | memoryview]) -> None:
        rounds.append(len(rounds))
        for index, peer in liar._peers:
            message = bytearray(b"".join(parts))
            if index == 1 and len(rounds) == when + 1:
                message[-1] ^= 1
            peer.send(bytes(message))

    monkeypatch.setattr(liar, "_send", lie)
    told = Execution(prepared, 0, {"x": "x"}, {})
    outcome = drive(session, [told] * 3, told)
    assert outcome.results[:3] == [None] * 3
    honest = [error for error in outcome.errors[:2] if isinstance(error, ProtocolError)]
    assert honest
    assert all("opened so far differs" in str(error) for error in honest)
    for runtime in session._runtimes[:2]:
        assert runtime.statistics.bytes_to_peers <= 2 * (2 * (DIGEST + 32) + DIGEST), "something was revealed"


def test_a_wrong_digest_names_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    session, prepared = started(2), two_rounds(2)
    monkeypatch.setattr(session._runtimes[1], "_digest", lambda: bytes(DIGEST))
    told = Execution(prepared, 0, {"x": "x"}, {})
    errors = drive(session, [told] * 2, told).errors
    assert any("between p1 and p0" in str(error) or "between p0 and p1" in str(error) for error in errors)


def test_the_transcript_spans_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lie in the last round of an execution without reveals is noticed at the first round of the next."""
    session, prepared = started(), two_rounds(3, reveal=False)
    liar = session._runtimes[2]
    send = liar._send
    rounds = []

    def lie(parts: Sequence[bytes | memoryview]) -> None:
        rounds.append(len(rounds))
        if len(rounds) != 2:
            send(parts)
            return
        for index, peer in liar._peers:
            message = bytearray(b"".join(parts))
            message[-1] ^= index
            peer.send(bytes(message))

    monkeypatch.setattr(liar, "_send", lie)
    told = Execution(prepared, 0, {"x": "x"}, {"z": "z"})
    assert drive(session, [told] * 3, told).errors == [None] * 4
    again = replace(told, first=1)
    errors = drive(session, [again] * 3, again).errors
    assert any("opened so far differs" in str(error) for error in errors)


# What ends a session.


@pytest.mark.parametrize("extra", [-1, 1, 8])
def test_a_message_of_another_size(extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session, prepared = started(), square_plan()
    wrong = session._runtimes[1]

    def send(parts: Sequence[bytes | memoryview]) -> None:
        message = b"".join(parts)
        for _, peer in wrong._peers:
            peer.send(message[:extra] if extra < 0 else message + bytes(extra))

    monkeypatch.setattr(wrong, "_send", send)
    told = execution(prepared)
    errors = drive(session, [told] * 3, told).errors
    assert any(isinstance(error, ProtocolError) and "p1 sent" in str(error) for error in errors)


def test_a_correction_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    session, prepared = started(), square_plan()
    flush = session._dealer._flush  # type: ignore[union-attr]

    def short(outgoing: list[list[bytes]]) -> None:
        flush([[part[:-1] for part in parts] for parts in outgoing])

    monkeypatch.setattr(session._dealer, "_flush", short)
    told = execution(prepared)
    errors = drive(session, [told] * 3, told).errors
    assert any(isinstance(error, ProtocolError) and "dealer sent" in str(error) for error in errors)


class Death(ParleyError):
    pass


@pytest.mark.parametrize("where", ["_exchange", "_reveal", "_corrections", "_run"])
@pytest.mark.parametrize("parties", [2, 4])
def test_a_party_that_dies(where: str, parties: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started(parties)

    def die(*_: Any) -> None:
        raise Death("the power failed")

    monkeypatch.setattr(session._runtimes[1], where, die)
    told = execution(
        square_plan(parties), arguments=(arguments(),) * 200
    )  # so many that the dealer cannot have finished
    begin = time.monotonic()
    outcome = drive(session, [told] * parties, told)
    assert time.monotonic() - begin < SECONDS
    assert isinstance(outcome.errors[1], Death)
    for role, error in enumerate(outcome.errors):
        if role != 1:
            assert isinstance(error, SessionClosed), (role, error)
            assert "the power failed" in str(error)
    with pytest.raises(SessionClosed):
        session.execute(execution(square_plan(parties), 10**6))


@pytest.mark.parametrize("where", ["_run", "_flush"])
def test_a_dealer_that_dies(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started()

    def die(*_: Any) -> None:
        raise Death("the power failed")

    monkeypatch.setattr(session._dealer, where, die)
    told = execution(square_plan())
    errors = drive(session, [told] * 3, told).errors
    assert isinstance(errors[3], Death)
    for error in errors[:3]:
        assert isinstance(error, SessionClosed)
        assert "the power failed" in str(error)


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyError("x"), NotFound("no such file")])
def test_the_first_error_comes_out_of_a_local_session(error: Exception) -> None:
    b = Builder(party_names(3))
    publish(b.add("input", party=1, dataset="rows", shape=(2,), scale=0, bound=4))

    def dataset(_: str) -> np.ndarray:
        raise error

    session = LocalSession(b.parties, {"p1": dataset})
    prepared = Prepared.of(b.finish())
    with pytest.raises(type(error)):
        session.execute(Execution(prepared, 0, {}, {}))
    with pytest.raises(SessionClosed, match="the session ended"):
        session.execute(Execution(prepared, 1, {}, {}))


def test_a_closed_session() -> None:
    session = started()
    session.close("enough")
    session.close("twice")
    with pytest.raises(SessionClosed, match="enough"):
        session.execute(execution(square_plan()))


# Arguments and bindings.


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"times": np.array(1)},
        {**arguments(), "more": np.array(1)},
        {**arguments(), "times": np.array(1.0)},
        {**arguments(), "times": np.array(1, dtype=np.int32)},
        {**arguments(), "times": np.array([1])},
        {**arguments(), "times": 1},
        {**arguments(), "times": [1]},
        {**arguments(), "times": np.array(1024)},
        {**arguments(), "times": np.array(-1024)},
        {**arguments(), "times": np.array(-(2**63))},
        {**arguments(), "plus": np.zeros(5, dtype=np.int64)},
        {**arguments(), "plus": np.zeros(4, dtype=">i8")},
        {**arguments(), "plus": np.zeros(4, dtype=object)},
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(given: dict[str, Any]) -> None:
    session, prepared = started(), square_plan()
    with pytest.raises(PlanError, match="argument"):
        session.execute(execution(prepared, arguments=(arguments(), given)))
    assert [item.executions for item in session.statistics] == [0, 0, 0]
    assert session.execute(execution(prepared))  # the session goes on
    session.close()


@pytest.mark.parametrize(
    ("loads", "stores"), [({}, {}), ({"x": "x", "y": "x"}, {}), ({"y": "x"}, {}), ({"x": "x"}, {"z": "z"})]
)
def test_bindings_that_do_not_fit(loads: dict[str, str], stores: dict[str, str]) -> None:
    session = started()
    with pytest.raises(PlanError, match="binds"):
        session.execute(execution(square_plan(), loads=loads, stores=stores))
    session.close()


def test_two_slots_under_one_handle() -> None:
    b = Builder(party_names(2))
    x = secret(b, "x", (4,), 20)
    b.add("store", x, slot="a")
    b.add("store", b.add("negate", x), slot="b")
    session = started(2)
    with pytest.raises(PlanError, match="one handle"):
        session.execute(Execution(Prepared.of(b.finish()), 0, {"x": "x"}, {"a": "y", "b": "y"}))
    session.close()


@pytest.mark.parametrize(
    ("type", "values"),
    [
        (Type(Kind.SHARED, (4,), 0, 20), np.zeros(3, dtype=np.int64)),
        (Type(Kind.SHARED, (4,), 0, 20), np.zeros(4)),
        (Type(Kind.MASKED, (4,), 0, 20), np.zeros(4, dtype=np.int64)),
        (Type(Kind.BITS, (4,), 0, 1), np.zeros(4, dtype=np.int64)),
        (Type(Kind.SHARED, (4,), 0, 20, 30), np.zeros(4, dtype=np.int64)),
    ],
)
def test_what_is_not_put_into_a_session(type: Type, values: np.ndarray) -> None:
    session = started(2)
    with pytest.raises(InputError, match="'y'"):
        session.put("y", type, values)
    session.close()


# State.


def counter(parties: int, kind: Kind) -> Prepared:
    """w ← w + step, kept in the kind it was loaded in, and revealed."""
    b = Builder(party_names(parties))
    w = secret(b, "w", (3,), 30, kind=kind)
    step = b.add("argument", name="step", shape=(3,), scale=0, bound=10)
    after = b.add("add", w, step, bound=30)
    b.add("store", after, slot="w")
    publish(after)
    return Prepared.of(b.finish())


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize("kind", [Kind.SHARED, Kind.MASKED])
def test_state_under_the_handle_it_was_loaded_from(parties: int, kind: Kind) -> None:
    """Each repetition works on what the one before it left, also over several executions."""
    session, prepared = LocalSession(party_names(parties)), counter(parties, kind)
    start = np.array([5, -7, 2**29])
    session.put("w", Type(Kind.SHARED, (3,), 0, 30), start)
    if kind == Kind.MASKED:
        b = Builder(party_names(parties))
        b.add("store", opened(secret(b, "w", (3,), 30)), slot="w")
        session.execute(Execution(Prepared.of(b.finish()), 0, {"w": "w"}, {"w": "w"}))
    steps = [np.array([k, 2 * k, -k]) for k in range(1, 7)]
    seen = []
    for first, chunk in ((1, steps[:4]), (5, steps[4:])):
        bound = Execution(prepared, first, {"w": "w"}, {"w": "w"}, tuple({"step": step} for step in chunk))
        seen += [(item.execution, item.values.tolist()) for item in session.execute(bound)]
    expected = [(number + 1, (start + sum(steps[: number + 1])).tolist()) for number in range(6)]
    assert sorted(seen) == expected
    opening = (len(session.parties) - 1) * (3 * 8 + DIGEST) * (kind == Kind.MASKED)  # what made the value a masked one
    check_statistics(
        prepared.schedule,
        [
            replace(
                item,
                executions=item.executions - (kind == Kind.MASKED),
                rounds=item.rounds - (kind == Kind.MASKED),
                bytes_to_peers=item.bytes_to_peers - opening,
            )
            for item in session.statistics
        ],
        6,
    )
    session.close()


def test_bits_are_kept_as_well() -> None:
    b = Builder(party_names(3))
    bits = order.negative(secret(b, "x", (9,), 20))
    b.add("store", bits, slot="bits")
    b.add("store", b.add("open_bits", bits), slot="masked")
    session = LocalSession(b.parties)
    values = np.arange(-4, 5)
    session.put("x", Type(Kind.SHARED, (9,), 0, 20), values)
    session.execute(Execution(Prepared.of(b.finish()), 0, {"x": "x"}, {"bits": "bits", "masked": "masked"}))
    b = Builder(party_names(3))
    for number, kind in enumerate((Kind.BITS, Kind.MASKED_BITS)):
        kept = b.add("load", slot=f"s{number}", kind=int(kind), shape=(9,), scale=0, bound=1)
        publish(kept, f"y{number}")
    read = Execution(Prepared.of(b.finish()), 1, {"s0": "bits", "s1": "masked"}, {})
    for item in session.execute(read):
        assert np.array_equal(item.values[0], values < 0)
    session.close()


def test_a_store_counts_only_when_the_execution_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    session, prepared = LocalSession(party_names(2)), counter(2, Kind.SHARED)
    type = Type(Kind.SHARED, (3,), 0, 30)
    session.put("w", type, np.zeros(3, dtype=np.int64))
    before = [runtime.vault.get("w", type) for runtime in session._runtimes]

    def die(*_: Any) -> None:
        raise Death("the power failed")

    for runtime in session._runtimes:
        monkeypatch.setattr(runtime, "_reveal", die)
    with pytest.raises(ParleyError):
        session.execute(Execution(prepared, 0, {"w": "w"}, {"w": "w"}, ({"step": np.ones(3, np.int64)},)))
    for runtime, kept in zip(session._runtimes, before, strict=True):
        assert runtime.vault.get("w", type) is kept


def test_a_swap_of_two_handles() -> None:
    b = Builder(party_names(2))
    for slot in "ab":
        b.add("store", secret(b, slot, (2,), 10), slot=slot)
    session = LocalSession(b.parties)
    type = Type(Kind.SHARED, (2,), 0, 10)
    session.put("one", type, np.array([1, 1]))
    session.put("two", type, np.array([2, 2]))
    swap = Prepared.of(b.finish())
    session.execute(Execution(swap, 0, {"a": "one", "b": "two"}, {"a": "two", "b": "one"}))
    with np.errstate(over="ignore"):
        one = sum(runtime.vault.get("one", type) for runtime in session._runtimes)
    assert one.tolist() == [2, 2]
    session.close()


def test_a_value_that_was_released() -> None:
    session = started()
    session.release(["x", "unknown"])
    session.release(["x"])
    with pytest.raises(NotFound, match="'x'"):
        session.execute(execution(square_plan()))


def test_a_kept_value_of_another_type() -> None:
    session = LocalSession(party_names(3))
    session.put("x", Type(Kind.SHARED, (4,), 1, 20), np.arange(4))
    with pytest.raises(PlanError, match="handle 'x'"):
        session.execute(execution(square_plan()))


# Working ahead.


def test_executions_may_be_announced_ahead() -> None:
    session, prepared = started(), square_plan()
    told = [execution(prepared, number, arguments=(arguments(times=number),)) for number in range(5)]
    finished: list[int] = []
    results: list[list[Revealed]] = [[] for _ in range(3)]

    def run_party(index: int) -> None:
        runtime = session._runtimes[index]
        for item in told:
            runtime.announce(item)
        for item in told:
            results[index] += runtime.execute(item, finished.append)

    def run_dealer() -> None:
        assert session._dealer is not None
        for item in told:
            session._dealer.execute(item)

    session._together([run_dealer, *((lambda index=index: run_party(index)) for index in range(3))])  # type: ignore[misc]
    session.close()
    mine = [item for item in results[1] if item.receiver == "p1"]
    assert [item.values.tolist() for item in mine] == [[3, 3 + n, 3 + 4 * n, 3 + 9 * n] for n in range(5)]
    assert sorted(finished) == sorted([*range(5)] * 3)


def test_an_execution_of_no_repetitions() -> None:
    session = started()
    assert session.execute(execution(square_plan(), arguments=())) == []
    session.close()


def test_values_without_elements_send_no_corrections() -> None:
    """The dealer sends nothing for them, so that the next execution gets its own."""
    b = Builder(party_names(3))
    x = opened(secret(b, "x", (0, 3), 20))
    publish(b.add("multiply", x, x))
    empty = Prepared.of(b.finish())
    session = started()
    session.put("empty", Type(Kind.SHARED, (0, 3), 0, 20), np.zeros((0, 3), dtype=np.int64))
    for first in (0, 2):
        assert session.execute(Execution(empty, first, {"x": "empty"}, {}))[0].values.shape == (0, 3)
        assert session.execute(execution(square_plan(), first + 1))[0].values.tolist() == [3, 5, 11, 21]
    session.close()


def test_seconds_are_counted() -> None:
    session = started()
    session.execute(execution(square_plan()))
    for item in session.statistics:
        assert 0 < item.seconds < SECONDS
        assert 0 <= item.seconds_waiting_for_dealer + item.seconds_waiting_for_peers <= item.seconds
    session.close()


# Pieces.


def test_results_are_put_together() -> None:
    def part(values: list[int], receiver: str = "submitter", complete: bool = False) -> Revealed:
        return Revealed("y", 3, receiver, np.array(values), 16, complete)

    merged = combine([[part([1, 2])], [part([2**62, -5])], [part([2**62, 3]), part([9, 9], "p2", True)]])
    assert [(item.receiver, item.values.tolist(), item.complete, item.scale) for item in merged] == [
        ("submitter", [1 - 2**63, 0], True, 16),
        ("p2", [9, 9], True, 16),
    ]
    assert combine([[], []]) == []


def test_keys_depend_on_all_that_goes_into_them() -> None:
    one, other = fresh_entropy(), fresh_entropy()
    assert one != other
    assert len({one, other, fresh_entropy()}) == 3
    keys = {
        session_key(session, index, first, second)
        for session in (b"a", b"b")
        for index in (0, 1)
        for first, second in ((one, other), (other, one), (one, one))
    }
    assert len(keys) == 12


def test_what_a_stored_value_holds_alive() -> None:
    """A small slice of a large buffer is copied, a broadcast zero is not made large."""
    large = np.arange(10**6)
    assert party._owned(large[:3]).base is None
    assert party._owned(large) is large
    assert party._owned(np.broadcast_to(np.int64(0), (10**6,))).strides == (0,)
