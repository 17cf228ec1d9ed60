"""Bits to the ring, and selection with and without truncation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan.builder import Builder, Value
from tests.parley.harness import (
    opened,
    party_counts,
    party_names,
    publish,
    quick,
    ring_arrays,
    run,
    secret,
    secret_bits,
    shapes,
)


def masked_bits(builder: Builder, shape: tuple[int, ...]) -> Value:
    return builder.add("open_bits", secret_bits(builder, "bit", shape))


@quick
@given(party_counts, shapes, st.integers(0, 99))
def test_bits_in_the_ring(parties: int, shape: tuple[int, ...], seed: int) -> None:
    builder = Builder(party_names(parties))
    bits = np.asarray(np.random.default_rng(seed).integers(-1, 1, size=shape))
    ring = builder.add("bit_to_ring", masked_bits(builder, shape))
    builder.add("reveal", ring, name="y", receivers=("submitter",))
    assert np.array_equal(run(builder, {"bit": bits}).y, -bits)


@quick
@given(st.data(), party_counts, shapes, st.sampled_from([(0, 0), (1, 0), (0, 1)]), st.integers(4, 64))
def test_selection(
    data: st.DataObject, parties: int, shape: tuple[int, ...], drops: tuple[int, int], width: int
) -> None:
    """With broadcasting on either side, cutting 0 or more bits, at every width."""
    builder = Builder(party_names(parties))
    bits = np.asarray(np.random.default_rng(len(shape)).integers(-1, 1, size=shape[drops[0] :]))
    values = data.draw(ring_arrays(shape[drops[1] :], width - 2))
    cut = data.draw(st.integers(1, width - 3))
    value = opened(secret(builder, "x", values.shape, width - 2), width)
    bit = masked_bits(builder, bits.shape)
    publish(builder.add("select", bit, value, bits=cut))
    if width == 64:
        publish(builder.add("select", bit, value, bits=0), "whole")
    for narrow in (False, True):
        outcome = run(builder, {"bit": bits, "x": values}, narrow=narrow)
        expected = -bits * values
        assert ((outcome.y == expected >> cut) | (outcome.y == -(-expected >> cut))).all()
        assert outcome.y.shape == expected.shape
        if width == 64:
            assert np.array_equal(outcome.values["whole"], expected)


@pytest.mark.parametrize("cut", [0, 4])
def test_selection_of_what_was_added_after_its_opening(cut: int) -> None:
    builder = Builder(party_names(3))
    rng = np.random.default_rng(1)
    a, b = rng.integers(-(2**20) + 1, 2**20, size=(2, 200))
    bits = rng.integers(-1, 1, size=200)
    x, y = (opened(secret(builder, slot, (200,), 20), 30) for slot in "xy")
    chosen = builder.add("select", masked_bits(builder, (200,)), builder.add("subtract", x, y), bits=cut)
    if not cut:
        chosen = builder.add("truncate", opened(chosen, 30), bits=4)
    publish(chosen)
    expected = -bits * (a - b)
    result = run(builder, {"x": a, "y": b, "bit": bits}, narrow=False).y
    assert ((result == expected >> 4) | (result == -(-expected >> 4))).all()


@pytest.mark.parametrize("bits", [-1, 62, 64, 2**40])
def test_what_cannot_be_cut(bits: int) -> None:
    builder = Builder(party_names(2))
    with pytest.raises(PlanError):
        builder.add("select", masked_bits(builder, (2,)), opened(secret(builder, "x", (2,), 20)), bits=bits)


def test_one_plane_only() -> None:
    builder = Builder(party_names(2))
    bits = secret_bits(builder, "bit", (2,))
    two = builder.add("open_bits", builder.add("join_planes", bits, bits))
    with pytest.raises(PlanError, match="one plane"):
        builder.add("bit_to_ring", two)
    with pytest.raises(PlanError, match="one plane"):
        builder.add("select", two, opened(secret(builder, "x", (2,), 20)), bits=0)
