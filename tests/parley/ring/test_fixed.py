"""Encoding of reals: nearest integer, range checked, every refusal a sentence that says which value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import InputError
from parley.ring import fixed
from tests.parley.harness import quick


@quick
@given(st.floats(-(2.0**40), 2.0**40), st.integers(0, 20))
def test_the_nearest_integer(value: float, scale: int) -> None:
    encoded = fixed.encode(value, scale)
    assert encoded.dtype == np.int64
    assert encoded.shape == ()
    assert abs(float(encoded) - math.ldexp(value, scale)) <= 0.5
    assert abs(float(fixed.decode(encoded, scale)) - value) <= math.ldexp(0.5, -scale)


@quick
@given(st.integers(-(2**62) + 1, 2**62 - 1))
def test_integers_are_exact_to_the_edge(value: int) -> None:
    assert int(fixed.encode(np.array([value]), 0)[0]) == value


@pytest.mark.parametrize("bound", [1, 10, 32, 62])
@pytest.mark.parametrize("scale", [0, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_is_strict(bound: int, scale: int, sign: int) -> None:
    least = math.ldexp(sign, bound - scale)
    with pytest.raises(InputError, match="range"):
        fixed.encode(np.array([0.0, least]), scale, bound)
    inside = math.nextafter(least, 0) if bound > 52 else math.ldexp(sign * ((1 << bound) - 1), -scale)
    assert abs(int(fixed.encode(np.array([inside]), scale, bound)[0])) < 1 << bound


@pytest.mark.parametrize("value", [2**62, -(2**62), 2**63 - 1, -(2**63)])
def test_integers_beyond_the_bound(value: int) -> None:
    with pytest.raises(InputError, match="range"):
        fixed.encode(np.array([value]), 0)


def test_unsigned_integers_do_not_wrap() -> None:
    with pytest.raises(InputError):
        fixed.encode(np.array([2**63], dtype=np.uint64), 0, 63)
    assert fixed.encode(np.array([255], dtype=np.uint8), 0).tolist() == [255]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_its_place(bad: float) -> None:
    values = np.zeros((2, 3))
    values[1, 2] = bad
    with pytest.raises(InputError, match=r"\(1, 2\)"):
        fixed.encode(values, 16)


@pytest.mark.parametrize("bad", [["a"], [1j], [None], np.array(["2020-01-01"], dtype="datetime64[D]")])
def test_what_is_no_number(bad: object) -> None:
    with pytest.raises(InputError, match="numbers"):
        fixed.encode(bad, 16)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 2)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool"])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: str) -> None:
    encoded = fixed.encode(np.ones(shape, dtype=dtype), 3)
    assert encoded.shape == shape
    assert (encoded == 8).all()


def test_a_value_that_overflows_a_double_on_its_way_is_refused() -> None:
    with pytest.raises(InputError):
        fixed.encode(np.array([1e308]), 40)
