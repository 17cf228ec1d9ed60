"""Comparison: exact everywhere in the range, three rounds, and the bytes of protocols.md, section 9."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.functions import order
from parley.plan.builder import Builder
from parley.plan.cost import ROUND_HEADER, cost
from parley.protocols.comparison import chunks
from parley.ring import kernels
from tests.parley.harness import opened, party_counts, party_names, publish, quick, ring_arrays, run, secret, shapes


@quick
@given(st.data(), party_counts, st.integers(0, 62), shapes)
def test_signs(data: st.DataObject, parties: int, bound: int, shape: tuple[int, ...]) -> None:
    values = data.draw(ring_arrays(shape, bound))
    builder = Builder(party_names(parties))
    publish(order.negative(secret(builder, "x", shape, bound)))
    assert np.array_equal(run(builder, {"x": values}).y[0], values < 0)


@quick
@given(st.data(), party_counts, st.integers(1, 61))
def test_thresholds(data: st.DataObject, parties: int, bound: int) -> None:
    """Several from one opening, some of them next to the values."""
    values = data.draw(ring_arrays((6,), bound))
    limit = 1 << bound
    beside = st.tuples(st.sampled_from(list(values)), st.integers(-1, 1)).map(lambda pair: int(pair[0]) + pair[1])
    near = beside.map(lambda threshold: max(-limit, min(limit, threshold)))
    thresholds = data.draw(st.lists(near | st.sampled_from((-limit, 0, limit)), min_size=1, max_size=4))
    builder = Builder(party_names(parties))
    publish(order.below(secret(builder, "x", (6,), bound), thresholds))
    outcome = run(builder, {"x": values})
    assert np.array_equal(outcome.y[0], values[np.newaxis] < np.array(thresholds)[:, np.newaxis])


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
def test_cost_of_a_sign(parties: int) -> None:
    """Three rounds and 8 + 4.25 bytes an element: the opening, 28 bits to fold 16 chunks to 4, 6 to fold these."""
    size = 1000
    builder = Builder(party_names(parties))
    builder.add("store", order.negative(secret(builder, "x", (size,), 62)), slot="bits")
    counted = cost(builder.finish())
    assert counted.rounds == 3
    openings = [size_ - 3 * ROUND_HEADER for size_ in counted.bytes_to_each_peer]
    assert openings == [8 * size + 28 * size // 8 + 6 * size // 8] * parties
    assert max(openings) <= 12.25 * size
    words, groups = 16 * 2 * size, 4 * 22 * size // 8 + 15 * size // 8
    assert sum(counted.bytes_from_dealer) == words + size // 8 + groups


def test_cost_of_a_sign_known_to_be_small() -> None:
    size = 800
    builder = Builder(party_names(3))
    builder.add("store", order.negative(secret(builder, "x", (size,), 14)), slot="bits")
    counted = cost(builder.finish())
    assert counted.rounds == 2  # 16 bits: four chunks, folded at once
    assert counted.bytes_to_each_peer[0] == 2 * size + 6 * size // 8 + 2 * ROUND_HEADER


@pytest.mark.parametrize("parties", [2, 3])
def test_a_comparison_and_a_truncation_share_the_opening(parties: int) -> None:
    builder = Builder(party_names(parties))
    x = secret(builder, "x", (40,), 40, scale=32)
    values = np.random.default_rng(2).integers(-(2**40) + 1, 2**40, size=40)
    result, _ = order.relu(x)
    publish(result)
    outcome = run(builder, {"x": values})
    expected = np.maximum(values, 0)
    assert ((outcome.y == expected >> 16) | (outcome.y == -(-expected >> 16))).all()
    assert outcome.cost.rounds == 4 + 1
    assert len(outcome.plan.with_operation("open")) == 1


@quick
@given(st.data(), st.integers(2, 64), st.integers(1, 3))
def test_words_alone(data: st.DataObject, width: int, parties: int) -> None:
    """The planes themselves, folded in the clear: [x < τ] = sign ⊕ Σ_j lt_j Π_{k>j} eq_k."""
    values = data.draw(ring_arrays((5,), width - 2))
    limit = 1 << (width - 2)
    threshold = data.draw(st.integers(-limit, limit))
    builder = Builder(party_names(parties + 1))
    publish(builder.add("words", opened(secret(builder, "x", (5,), width - 2), width), thresholds=(threshold,)))
    count = chunks(width)
    planes = run(builder, {"x": values}).y.reshape(2 * count + 1, 5)
    less = np.zeros(5, dtype=np.int64)
    for chunk in range(count):
        less = planes[count + chunk] | (planes[chunk] & less)
    assert np.array_equal(planes[2 * count] ^ less, values < threshold)
    assert not (planes[:count] & planes[count : 2 * count]).any()


@pytest.mark.parametrize("thresholds", [(), (2**62 + 1,), (-(2**62) - 1,), (2**80,), ("a",), (1.5,)])
def test_thresholds_out_of_range(thresholds: tuple[object, ...]) -> None:
    builder = Builder(party_names(2))
    value = opened(secret(builder, "x", (2,), 62))
    with pytest.raises(PlanError):
        builder.add("words", value, thresholds=thresholds)  # type: ignore[arg-type]


def test_the_opening_must_hold_the_bound() -> None:
    builder = Builder(party_names(2))
    value = opened(secret(builder, "x", (2,), 20), 21)
    with pytest.raises(PlanError, match="needs an opening of 22 bits"):
        builder.add("words", value, thresholds=(0,))


@pytest.mark.parametrize("width", [12, 14, 30, 64])
@pytest.mark.parametrize("other", ["multiply", "truncate"])
def test_the_passes_keep_the_width_that_a_comparison_was_made_for(width: int, other: str) -> None:
    """Another reader of the same opening asks for more or fewer bits; the planes chosen before stay the right ones."""
    values = np.array([-5, 5, -1, 0])
    builder = Builder(party_names(2))
    x = opened(secret(builder, "x", (4,), 10), width)
    words = builder.add("words", x, thresholds=(0,))
    count = chunks(width)
    folded = order._fold(order.planes(words, range(count)), order.planes(words, range(count, 2 * count)))
    publish(order.logical_xor(folded, order.planes(words, (2 * count,))))
    if other == "truncate":
        publish(builder.add("truncate", x, bits=2), "z")
    elif width >= 30:
        square = builder.add("share", builder.add("narrow", x, width=width))
        publish(builder.add("truncate", opened(builder.add("add", square, square), width), bits=1), "z")
    assert np.array_equal(run(builder, {"x": values}).y[0, 0], values < 0)


@quick
@given(party_counts, st.integers(0, 99), st.integers(1, 9))
def test_where_the_largest_is(parties: int, seed: int, size: int) -> None:
    values = np.random.default_rng(seed).integers(-3, 4, size=(3, size)) << 16
    builder = Builder(party_names(parties))
    publish(order.argmax_bits(secret(builder, "x", (3, size), 20, scale=16)))
    bits = run(builder, {"x": values}).y[0]
    assert np.array_equal(bits.argmax(axis=1), values.argmax(axis=1))
    assert (bits.sum(axis=1) == 1).all()


def test_bytes_on_the_wire_are_packed() -> None:
    assert kernels.packed_bytes(1) == 1
    assert kernels.packed_bytes(9) == 2
