"""Ring arithmetic against Python's integers, and packing at every width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.ring import kernels
from tests.parley.harness import quick, shapes

FULL = st.integers(-(2**63), 2**63 - 1)


def signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def full_range(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, size=shape, endpoint=True, dtype=np.int64)


@pytest.mark.parametrize("width", range(1, 65))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (8,), (3, 5)])
def test_packing_at_every_width(width: int, shape: tuple[int, ...]) -> None:
    values = full_range(shape, width)
    packed = bytes(kernels.pack_ring(values, width))
    assert len(packed) == kernels.ring_bytes(values.size, width)
    restored = kernels.unpack_ring(packed, shape, width)
    assert restored.shape == shape
    assert restored.dtype == np.int64
    assert np.array_equal(restored, kernels.reduce(values, width))


@pytest.mark.parametrize("width", [8, 12, 64])
def test_packing_of_arrays_that_are_not_contiguous(width: int) -> None:
    values = full_range((6, 4), 1)
    for view in (values.T, values[::-1, ::2], np.broadcast_to(values[0], (3, 4))):
        packed = bytes(kernels.pack_ring(view, width))
        assert np.array_equal(kernels.unpack_ring(packed, view.shape, width), kernels.reduce(view, width))


@pytest.mark.parametrize("width", range(1, 65))
def test_packing_carries_nothing_above_the_width(width: int) -> None:
    values = full_range((9,), width)
    low = values & np.int64(-1 if width == 64 else (1 << width) - 1)
    assert bytes(kernels.pack_ring(values, width)) == bytes(kernels.pack_ring(low, width))


def test_whole_bytes_where_the_width_has_them() -> None:
    assert [kernels.ring_bytes(100, width) for width in (8, 16, 64)] == [100, 200, 800]
    assert kernels.ring_bytes(100, 50) == 600 + 2 * 13
    assert kernels.ring_bytes(0, 17) == 0


@quick
@given(
    rows=st.integers(0, 3), inner=st.integers(0, 4), columns=st.integers(0, 3), batch=shapes, seed=st.integers(0, 99)
)
def test_matrix_product_against_integers(
    rows: int, inner: int, columns: int, batch: tuple[int, ...], seed: int
) -> None:
    left, right = full_range((*batch, rows, inner), seed), full_range((inner, columns), seed + 1)
    result = kernels.matmul(left, right)
    assert result.shape == (*batch, rows, columns)
    for place in np.ndindex(*result.shape):
        *lead, i, j = place
        exact = sum(int(left[(*lead, i, k)]) * int(right[k, j]) for k in range(inner))
        assert int(result[place]) == signed(exact)


def test_matrix_product_of_views_that_may_not_be_written() -> None:
    left, right = full_range((4, 6), 1), full_range((6, 5), 2)
    expected = kernels.matmul(left, right)
    frozen = np.frombuffer(left.tobytes(), dtype=np.int64).reshape(left.shape)
    assert np.array_equal(kernels.matmul(frozen, right), expected)
    assert np.array_equal(kernels.matmul(left[::-1], right), expected[::-1])
    assert np.array_equal(kernels.matmul(left.T.copy().T, np.asfortranarray(right)), expected)
    wide = np.broadcast_to(np.int64(3), (4, 6))
    assert np.array_equal(kernels.matmul(wide, right), np.full((4, 6), 3) @ right)


@quick
@given(st.lists(FULL, max_size=9), st.integers(0, 63))
def test_the_shift_is_logical(values: list[int], bits: int) -> None:
    shifted = kernels.shift_right(np.array(values, dtype=np.int64), bits)
    assert [int(value) % 2**64 for value in shifted] == [(value % 2**64) >> bits for value in values]


@quick
@given(st.lists(FULL, min_size=1, max_size=9), st.integers(1, 64))
def test_reduction_and_top_bit(values: list[int], width: int) -> None:
    array = np.array(values, dtype=np.int64)
    assert [int(value) % 2**width for value in kernels.reduce(array, width)] == [value % 2**width for value in values]
    assert kernels.top_bit(array, width).tolist() == [(value >> (width - 1)) & 1 for value in values]
    if width < 64:
        assert (kernels.reduce(array, width) >= 0).all()


@quick
@given(shapes, st.integers(1, 5), st.integers(0, 99))
def test_bits_pack_by_plane(shape: tuple[int, ...], planes: int, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, size=(planes, *shape), dtype=np.uint8)
    packed = kernels.pack_bits(bits)
    assert packed.shape == (planes, kernels.packed_bytes(int(np.prod(shape))))
    assert np.array_equal(kernels.unpack_bits(packed, shape), bits)
