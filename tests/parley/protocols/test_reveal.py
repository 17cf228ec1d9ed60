"""Putting in and taking out: who gets what, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import InputError, NotFound, PlanError
from parley.plan.builder import Builder, Value
from parley.plan.cost import ROUND_HEADER
from parley.protocols.base import Party
from parley.runtime.local import LocalSession
from parley.runtime.session import Execution, Prepared
from tests.parley.harness import opened, party_counts, party_names, publish, quick, ring_arrays, run, secret, shapes


def given_by(builder: Builder, party: int, shape: tuple[int, ...], scale: int = 0, bound: int = 62) -> Value:
    return builder.add("input", party=party, dataset="x", shape=shape, scale=scale, bound=bound)


@quick
@given(st.data(), party_counts, shapes)
def test_the_sum_of_everybodys_input(data: st.DataObject, parties: int, shape: tuple[int, ...]) -> None:
    names = party_names(parties)
    values = [data.draw(ring_arrays(shape, 59)) for _ in names]
    builder = Builder(names)
    total = given_by(builder, 0, shape, bound=59)
    for party in range(1, parties):
        total = builder.add("add", total, given_by(builder, party, shape, bound=59))
    publish(total)
    outcome = run(builder, data={name: lambda _, a=array: a for name, array in zip(names, values, strict=True)})
    assert np.array_equal(outcome.y, sum(values))
    assert outcome.cost.rounds == 2
    assert outcome.cost.bytes_to_each_peer == (8 * values[0].size + 2 * ROUND_HEADER,) * parties
    assert sum(outcome.cost.bytes_from_dealer) == 8 * values[0].size  # the zero-sharing's


def test_an_input_costs_its_owner_only() -> None:
    builder = Builder(party_names(3))
    publish(given_by(builder, 1, (10,)))
    outcome = run(builder, data={"p1": lambda _: np.arange(10)})
    assert outcome.cost.bytes_to_each_peer == (2 * ROUND_HEADER, 80 + 2 * ROUND_HEADER, 2 * ROUND_HEADER)


def test_reals_are_encoded_at_the_plans_scale() -> None:
    builder = Builder(party_names(2))
    publish(given_by(builder, 0, (3,), scale=8, bound=20))
    asked = []

    def dataset(name: str) -> np.ndarray:
        asked.append(name)
        return np.array([0.5, -1.25, 3.0], dtype=np.float32)

    assert run(builder, data={"p0": dataset}).y.tolist() == [128, -320, 768]
    assert asked == ["x"]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (lambda _: np.zeros(4), InputError, "record the job again"),
        (lambda _: np.array([1.0, np.nan, 2.0]), InputError, "nan"),
        (lambda _: np.array([1.0, 2.0**30, 2.0]), InputError, "range"),
        (lambda _: np.array(["a", "b", "c"]), InputError, "numbers"),
        (None, NotFound, "no dataset"),
    ],
)
def test_data_that_does_not_fit(data: object, error: type[Exception], words: str) -> None:
    builder = Builder(party_names(2))
    publish(given_by(builder, 1, (3,), scale=16, bound=30))
    with pytest.raises(error, match=words):
        run(builder, data={"p1": data} if data else {})  # type: ignore[dict-item]


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_receivers_get_complete_values_and_others_nothing(parties: int) -> None:
    names = party_names(parties)
    builder = Builder(names)
    x, y = secret(builder, "x", (3,)), secret(builder, "y", (2,))
    builder.add("reveal", x, name="first", receivers=(names[1],))
    builder.add("reveal", y, name="second", receivers=(names[0], names[1], "submitter"))
    values = {"x": np.array([5, -6, 7]), "y": np.array([1, 2])}
    outcome = run(builder, values)
    got = {(item.name, item.receiver) for item in outcome.revealed}
    assert got == {("first", "p1"), ("second", "p0"), ("second", "p1"), ("second", "submitter")}
    for item in outcome.revealed:
        assert np.array_equal(item.values, values["x" if item.name == "first" else "y"])


@pytest.mark.parametrize("parties", [2, 3])
def test_what_each_party_returns(parties: int) -> None:
    """A party that receives has the value; for the submitter each has a part, of which all are needed."""
    names = party_names(parties)
    builder = Builder(names)
    x = secret(builder, "x", (1000,))
    builder.add("reveal", x, name="a", receivers=("p0",))
    builder.add("reveal", x, name="b", receivers=("submitter",))
    prepared = Prepared.of(builder.finish())
    session = LocalSession(names)
    value = np.full(1000, 42)
    session.put("x", x.type, value)
    results: list[list] = [[] for _ in names]
    execution = Execution(prepared, 0, {"x": "x"}, {})

    def act(index: int) -> None:
        session._runtimes[index].announce(execution)
        results[index] = session._runtimes[index].execute(execution)

    session._together(
        [lambda: session._dealer.execute(execution), *(lambda i=i: act(i) for i in range(parties))]  # type: ignore[misc, union-attr]
    )
    session.close()
    whole = [item for result in results for item in result if item.name == "a"]
    assert [(item.complete, item.receiver) for item in whole] == [(True, "p0")]
    assert np.array_equal(whole[0].values, value)
    parts = [item for result in results for item in result if item.name == "b"]
    assert len(parts) == parties
    assert not any(item.complete for item in parts)
    with np.errstate(over="ignore"):
        assert np.array_equal(sum(item.values for item in parts), value)
        assert len(np.unique(sum(item.values for item in parts[1:]))) == 1000  # a share of each alone is random
    assert len(np.unique(parts[0].values)) == 1000


def test_kinds_that_are_not_revealed() -> None:
    builder = Builder(party_names(2))
    x = secret(builder, "x", (2,))
    for value in (opened(x), builder.constant([1, 2])):
        with pytest.raises(PlanError, match="needs shared"):
            builder.add("reveal", value, name="y", receivers=("p0",))
    with pytest.raises(PlanError, match="receiver"):
        builder.add("reveal", x, name="y", receivers=())


def test_the_first_party_adds_public_terms() -> None:
    party = Party(0, party_names(2), lambda _: np.zeros(1))
    assert (party.first, party.name) == (True, "p0")
    assert not Party(1, party_names(2), lambda _: np.zeros(1)).first
