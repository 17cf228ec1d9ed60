"""Bits: exclusive or, planes, arrangements, polynomials over masked bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan.builder import Builder, Value
from parley.protocols.bits import MAXIMAL_DEGREE
from tests.parley.harness import party_counts, party_names, publish, quick, run, secret, secret_bits, shapes


def random_bits(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """0 or −1: what `secret_bits` takes."""
    return np.asarray(np.random.default_rng(seed).integers(-1, 1, size=shape))


def many_planes(builder: Builder, shape: tuple[int, ...], count: int) -> Value:
    """`count` planes of secret bits: the first axis of one secret."""
    bits = secret_bits(builder, "x", (*shape, count))
    flat = builder.add("reshape", bits, shape=(int(np.prod(shape)), count))
    table = tuple(range(count))
    arranged = builder.add("arrange", flat, planes=count, indices=table, negate=(0,) * count)
    return builder.add("reshape", arranged, shape=shape)


monomials = st.lists(
    st.sets(st.integers(0, 4), min_size=1, max_size=5).map(lambda s: tuple(sorted(s))), min_size=1, max_size=4
)


@quick
@given(
    parties=party_counts,
    shape=shapes,
    groups=st.integers(1, 3),
    outputs=st.lists(monomials.map(tuple), min_size=1, max_size=3).map(tuple),
    seed=st.integers(0, 99),
)
def test_polynomials(
    parties: int, shape: tuple[int, ...], groups: int, outputs: tuple[tuple[tuple[int, ...], ...], ...], seed: int
) -> None:
    """Also with a term that stands twice (it cancels), of one factor, and over no elements."""
    builder = Builder(party_names(parties))
    values = random_bits((*shape, groups * 5), seed)
    masked = builder.add("open_bits", many_planes(builder, shape, groups * 5))
    publish(builder.add("bit_polynomial", masked, groups=groups, outputs=outputs))
    result = run(builder, {"x": values}).y
    bits = np.moveaxis(-values, -1, 0).reshape(groups, 5, *shape)
    expected = [
        sum(bits[group, list(term)].prod(axis=0) for term in terms) % 2 for group in range(groups) for terms in outputs
    ]
    assert np.array_equal(result.reshape(len(expected), *shape), np.array(expected).reshape(len(expected), *shape))


@quick
@given(party_counts, shapes, st.integers(0, 99), st.integers(0, 1), st.integers(0, 1))
def test_exclusive_or_and_negation(parties: int, shape: tuple[int, ...], seed: int, first: int, second: int) -> None:
    builder = Builder(party_names(parties))
    a, b = random_bits(shape, seed), random_bits(shape, seed + 1)
    both = builder.add("xor", secret_bits(builder, "a", shape), secret_bits(builder, "b", shape))
    publish(builder.add("planes", both, indices=(0, 0), negate=(first, second)))
    result = run(builder, {"a": a, "b": b}).y
    assert np.array_equal(result[0], (a ^ b) & 1 ^ first)
    assert np.array_equal(result[1], (a ^ b) & 1 ^ second)


@quick
@given(party_counts, st.data(), st.integers(0, 3), st.integers(1, 4), st.integers(0, 99))
def test_arrangements(parties: int, data: st.DataObject, rows: int, size: int, seed: int) -> None:
    planes = data.draw(st.integers(1, 3))
    columns = data.draw(st.integers(0, 4))
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=planes * columns, max_size=planes * columns))
    negate = data.draw(st.lists(st.integers(0, 1), min_size=planes * columns, max_size=planes * columns))
    builder = Builder(party_names(parties))
    values = random_bits((rows, size), seed)
    arranged = builder.add(
        "arrange", secret_bits(builder, "x", (rows, size)), planes=planes, indices=tuple(indices), negate=tuple(negate)
    )
    publish(arranged)
    result = run(builder, {"x": values}).y
    table, flips = (np.array(item, dtype=np.int64).reshape(planes, columns) for item in (indices, negate))
    expected = np.stack([-values[:, table[plane]] ^ flips[plane] for plane in range(planes)])
    assert np.array_equal(result.reshape(expected.shape), expected)


@pytest.mark.parametrize("parties", [2, 4])
@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5)])
def test_constant_bits_and_joined_planes(parties: int, bit: int, shape: tuple[int, ...]) -> None:
    builder = Builder(party_names(parties))
    values = random_bits(shape, 3)
    constant = builder.add("constant_bits", shape=shape, bit=bit)
    publish(builder.add("join_planes", constant, secret_bits(builder, "x", shape), constant))
    assert np.array_equal(run(builder, {"x": values}).y, np.stack([np.full(shape, bit), -values, np.full(shape, bit)]))


TOO_MANY = tuple(tuple(range(k, k + 8)) for k in range(64))
BAD_POLYNOMIALS: list[tuple[int, object]] = [
    (0, (((0, 1),),)),
    (-1, (((0, 1),),)),
    (3, (((0, 1),),)),  # 4 planes are not 3 equal groups
    (2, (((0, 2),),)),
    (1, (((1, 0),),)),
    (1, (((0, 0),),)),
    (1, (((-1, 0),),)),
    (1, ((),)),
    (1, ()),
    (1, (((),),)),
    (1, ((0, 1),)),
    (1, 7),
    (1, (((0, "a"),),)),
    (1, (((0, 2**70),),)),
    (1, ((tuple(range(MAXIMAL_DEGREE + 1)),),)),
    (1, ((((0, 1),) * 65),)),
    (1, (TOO_MANY,)),
]


@pytest.mark.parametrize(("groups", "outputs"), BAD_POLYNOMIALS)
def test_polynomials_that_are_none(groups: int, outputs: object) -> None:
    builder = Builder(party_names(2))
    masked = builder.add("open_bits", many_planes(builder, (2,), 4))
    with pytest.raises(PlanError):
        builder.add("bit_polynomial", masked, groups=groups, outputs=outputs)  # type: ignore[arg-type]


def test_a_polynomial_of_absurd_work_is_refused_before_it_is_compiled() -> None:
    builder = Builder(party_names(2))
    masked = builder.add("open_bits", many_planes(builder, (1,), 80))
    outputs = tuple(TOO_MANY for _ in range(64))
    with pytest.raises(PlanError, match="subsets"):
        builder.add("bit_polynomial", masked, groups=1, outputs=outputs)


def test_shared_bits_are_not_multiplied() -> None:
    builder = Builder(party_names(2))
    with pytest.raises(PlanError, match="masked_bits"):
        builder.add("bit_polynomial", many_planes(builder, (2,), 2), groups=1, outputs=(((0, 1),),))
    with pytest.raises(PlanError):
        builder.add("xor", secret_bits(builder, "a", (2,)), secret(builder, "b", (2,)))
