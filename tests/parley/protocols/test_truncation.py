"""Truncation: never off by more than one unit in the last place, and right on average."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan.builder import Builder
from parley.protocols.truncation import truncated_type
from tests.parley.harness import opened, party_counts, party_names, publish, quick, ring_arrays, run, secret, shapes

WIDTHS = st.integers(4, 64)


def rounded(y: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    """Whether y is x / 2^bits rounded down or up, element by element (exact where the division is)."""
    return (y == x >> bits) | (y == -(-x >> bits))


@quick
@given(st.data(), party_counts, WIDTHS, shapes)
def test_one_unit_at_most_at_every_width(data: st.DataObject, parties: int, width: int, shape: tuple[int, ...]) -> None:
    bits = data.draw(st.integers(1, width - 3))
    values = data.draw(ring_arrays(shape, width - 2))
    builder = Builder(party_names(parties))
    publish(builder.add("truncate", opened(secret(builder, "x", shape, width - 2), width), bits=bits))
    for narrow in (False, True):
        outcome = run(builder, {"x": values}, narrow=narrow)
        assert rounded(outcome.y, values, bits).all()
        assert outcome.cost.rounds == 2


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
@pytest.mark.parametrize("width", [20, 50, 64])
def test_no_wrap_ever_fails(parties: int, width: int) -> None:
    """Many elements at the edges, where a truncation without the wrap's share fails often."""
    edge = (1 << (width - 2)) - 1
    values = np.tile(np.array([edge, -edge, 0, -1, 1, edge - 12345 % edge]), 500)
    builder = Builder(party_names(parties))
    publish(builder.add("truncate", opened(secret(builder, "x", values.shape, width - 2), width), bits=16))
    outcome = run(builder, {"x": values})
    assert rounded(outcome.y, values, 16).all()
    assert np.abs(outcome.y).max() < 2 ** truncated_type(outcome.plan.nodes[1].type, 16).bound


@pytest.mark.statistical
@pytest.mark.parametrize("width", [24, 64])
@pytest.mark.parametrize("fraction", [0, 1, 1 << 14, 1 << 15, (1 << 16) - 1])
def test_rounding_is_unbiased(fraction: int, width: int) -> None:
    size = 20000
    values = np.full(size, (-7 << 10) + fraction if width == 24 else (-123456 << 16) + fraction)
    bits = 10 if width == 24 else 16
    fraction = int(values[0]) % (1 << bits)
    builder = Builder(party_names(3))
    publish(builder.add("truncate", opened(secret(builder, "x", (size,), width - 2), width), bits=bits))
    up = run(builder, {"x": values}).y - (values >> bits)
    share = fraction / 2**bits
    assert abs(up.mean() - share) <= 6 * np.sqrt(share * (1 - share) / size)


@pytest.mark.parametrize("linear", ["add", "negate", "sum", "multiply_public"])
def test_what_was_combined_after_its_opening(linear: str) -> None:
    """The dealer's mask is then a combination that left the narrow ring, and must come back to it before it is cut."""
    builder = Builder(party_names(3))
    x = opened(secret(builder, "x", (100,), 20), 30)
    y = opened(secret(builder, "y", (100,), 20), 30)
    rng = np.random.default_rng(3)
    a, b = rng.integers(-(2**20) + 1, 2**20, size=(2, 100))
    match linear:
        case "add":
            value, expected = builder.add("add", x, y), a + b
        case "negate":
            value, expected = builder.add("negate", x), -a
        case "sum":
            value, expected = (
                builder.add("sum", builder.add("reshape", x, shape=(50, 2)), axes=(1,)),
                a.reshape(50, 2).sum(1),
            )
        case _:
            value, expected = builder.add("multiply_public", x, builder.constant(-100)), -100 * a
    publish(builder.add("truncate", value, bits=5))
    assert rounded(run(builder, {"x": a, "y": b}, narrow=False).y, expected, 5).all()


@pytest.mark.parametrize(("bits", "width", "bound"), [(0, 64, 10), (-1, 64, 10), (62, 64, 10), (5, 10, 9), (16, 12, 3)])
def test_what_cannot_be_cut(bits: int, width: int, bound: int) -> None:
    builder = Builder(party_names(2))
    value = opened(secret(builder, "x", (2,), bound), width)
    with pytest.raises(PlanError):
        builder.add("truncate", value, bits=bits)


@quick
@given(st.integers(0, 62), st.integers(1, 61), st.integers(0, 99))
def test_the_passes_leave_enough_bits_to_cut(bound: int, bits: int, seed: int) -> None:
    """Also where more bits are cut off than the value has."""
    builder = Builder(party_names(2))
    edge = (1 << bound) - 1
    values = np.random.default_rng(seed).integers(-edge, edge, size=5, endpoint=True)
    publish(builder.add("truncate", opened(secret(builder, "x", (5,), bound)), bits=bits))
    assert rounded(run(builder, {"x": values}).y, values, bits).all()
