"""Products of masked values: exact modulo 2^64 for every shape, no round beyond the operands' openings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan.builder import Builder
from parley.plan.cost import ROUND_HEADER
from tests.parley.harness import opened, party_counts, party_names, publish, quick, run, secret, shapes, uniform


@quick
@given(party_counts, shapes, st.integers(0, 3), st.integers(0, 31), st.integers(0, 99))
def test_elementwise(parties: int, shape: tuple[int, ...], drop: int, bound: int, seed: int) -> None:
    builder = Builder(party_names(parties))
    x, y = uniform(shape, bound, seed), uniform(shape[drop:], 62 - bound, seed + 1)
    left, right = secret(builder, "x", x.shape, bound), secret(builder, "y", y.shape, 62 - bound)
    publish(builder.add("multiply", opened(left), opened(right), bound=62))
    outcome = run(builder, {"x": x, "y": y})
    with np.errstate(over="ignore"):
        assert np.array_equal(outcome.y, x * y)
    assert outcome.cost.rounds == 2
    assert outcome.cost.bytes_to_each_peer[0] == 8 * (x.size + y.size) + 2 * ROUND_HEADER
    assert sum(outcome.cost.bytes_from_dealer) == 2 * 8 * (x * y).size  # the product's, and the zero-sharing's


@quick
@given(
    party_counts,
    st.integers(0, 3),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((0,), ())]),
    st.integers(0, 99),
)
def test_matrix_product(
    parties: int, rows: int, inner: int, columns: int, batches: tuple[tuple[int, ...], tuple[int, ...]], seed: int
) -> None:
    builder = Builder(party_names(parties))
    x, y = uniform((*batches[0], rows, inner), 28, seed), uniform((*batches[1], inner, columns), 28, seed + 1)
    left, right = secret(builder, "x", x.shape, 28), secret(builder, "y", y.shape, 28)
    publish(builder.add("matmul", opened(left), opened(right)))
    assert np.array_equal(run(builder, {"x": x, "y": y}).y, x @ y)


@pytest.mark.parametrize("parties", [2, 4])
def test_one_opening_serves_all_products_of_a_value(parties: int) -> None:
    builder = Builder(party_names(parties))
    x = uniform((6,), 15, 1)
    mask = opened(secret(builder, "x", (6,), 15))
    square = builder.add("multiply", mask, mask)
    cube = builder.add("multiply", opened(square), mask)
    publish(builder.add("add", square, cube))
    outcome = run(builder, {"x": x}, narrow=False)
    assert np.array_equal(outcome.y, x**2 + x**3)
    assert outcome.cost.bytes_to_each_peer[0] == 2 * 8 * 6 + 3 * ROUND_HEADER


def test_products_of_narrow_openings_are_right_in_the_smaller_ring() -> None:
    builder = Builder(party_names(3))
    x, y = uniform((50,), 10, 1), uniform((50,), 10, 2)
    product = builder.add(
        "multiply", opened(secret(builder, "x", (50,), 10), 40), opened(secret(builder, "y", (50,), 10), 30)
    )
    assert product.type.width == 30
    publish(builder.add("truncate", opened(product, 30), bits=4))
    assert np.abs(run(builder, {"x": x, "y": y}, narrow=False).y - x * y / 16).max() < 1


@quick
@given(party_counts, st.integers(1, 20), st.integers(0, 99))
def test_products_of_sums_of_masked_values(parties: int, size: int, seed: int) -> None:
    builder = Builder(party_names(parties))
    x, y = uniform((size,), 20, seed), uniform((size,), 20, seed + 1)
    a, b = opened(secret(builder, "x", (size,), 20), 50), opened(secret(builder, "y", (size,), 20), 50)
    total, difference = builder.add("add", a, b), builder.add("subtract", a, b)
    product = builder.add("multiply", total, builder.add("negate", difference))
    publish(builder.add("truncate", opened(product, 50), bits=2))
    assert np.abs(run(builder, {"x": x, "y": y}, narrow=False).y - (y**2 - x**2) / 4).max() < 1


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 3), (2, 3)), ((3,), (3,)), ((), ())])
def test_shapes_that_do_not_multiply(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    builder = Builder(party_names(2))
    left, right = (opened(secret(builder, slot, shape, 10)) for slot, shape in zip("xy", shapes, strict=True))
    with pytest.raises(PlanError):
        builder.add("matmul", left, right)


def test_shared_values_do_not_multiply() -> None:
    builder = Builder(party_names(2))
    x = secret(builder, "x", (2,), 10)
    with pytest.raises(PlanError, match="needs masked"):
        builder.add("multiply", x, opened(x))


@pytest.mark.parametrize("inner", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("operation", ["multiply", "matmul"])
def test_the_inferred_bound_holds_at_the_edge(operation: str, inner: int) -> None:
    builder = Builder(party_names(2))
    x, y = np.full((1, inner), 2**10 - 1), np.full((inner, 1), -(2**9) + 1)
    left, right = opened(secret(builder, "x", x.shape, 10)), opened(secret(builder, "y", y.shape, 9))
    product = builder.add(operation, left, right)
    limit = product.type.bound
    publish(product)
    result = np.abs(run(builder, {"x": x, "y": y}).y).max()
    assert result < 2**limit <= 2 * 2**19 * inner
