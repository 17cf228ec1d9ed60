"""Local operations: on public, shared and masked values, and on bits, they do what numpy does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError, ProtocolError
from parley.plan.builder import Builder, Value
from parley.plan.graph import Kind
from tests.parley.harness import (
    Ring,
    opened,
    party_counts,
    party_names,
    publish,
    quick,
    run,
    secret,
    secret_bits,
    shapes,
    uniform,
)

KINDS = ("public", "shared", "masked")


def value_of(builder: Builder, kind: str, slot: str, values: Ring, bound: int) -> Value:
    if kind == "public":
        return builder.add("constant", data=values.astype("<i8").tobytes(), shape=values.shape, scale=0, bound=bound)
    shared = secret(builder, slot, values.shape, bound)
    return shared if kind == "shared" else opened(shared)


@quick
@given(
    parties=party_counts,
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    shape=shapes,
    drop=st.integers(0, 3),
    subtract=st.booleans(),
    seed=st.integers(0, 99),
)
def test_addition(
    parties: int, kinds: tuple[str, str], shape: tuple[int, ...], drop: int, subtract: bool, seed: int
) -> None:
    builder = Builder(party_names(parties))
    arrays = uniform(shape, 61, seed), uniform(shape[drop:], 61, seed + 1)
    left, right = (value_of(builder, kind, slot, a, 61) for kind, slot, a in zip(kinds, "ab", arrays, strict=True))
    operation = "subtract" if subtract else "add"
    if set(kinds) == {"shared", "masked"}:
        with pytest.raises(PlanError, match="convert"):
            builder.add(operation, left, right)
        return
    for first, second, name in ((left, right, "y"), (right, left, "z")):
        publish(builder.add(operation, first, second), name)
    values = run(builder, {"a": arrays[0], "b": arrays[1]}).values
    expected = arrays[0] - arrays[1] if subtract else arrays[0] + arrays[1]
    assert np.array_equal(values["y"], expected)
    assert np.array_equal(values["z"], -expected if subtract else expected)


LOCAL: dict[str, tuple[Callable[[Value], Value], Callable[[Ring], Ring]]] = {
    "negate": (lambda v: v.builder.add("negate", v), lambda a: -a),
    "rescale": (lambda v: v.builder.add("rescale", v, bits=3), lambda a: a),
    "sum": (lambda v: v.builder.add("sum", v, axes=(0, 2)), lambda a: a.sum(axis=(0, 2))),
    "sum nothing": (lambda v: v.builder.add("sum", v, axes=()), lambda a: a),
    "sum all": (lambda v: v.builder.add("sum", v, axes=(0, 1, 2)), lambda a: a.sum()),
    "scatter_add": (
        lambda v: v.builder.add("scatter_add", v, v.builder.constant([4, 0, 4]), axis=1, size=6),
        lambda a: np.stack([a[:, 1], 0 * a[:, 0], 0 * a[:, 0], 0 * a[:, 0], a[:, 0] + a[:, 2], 0 * a[:, 0]], axis=1),
    ),
    "multiply_public": (
        lambda v: v.builder.add("multiply_public", v, v.builder.constant([[3], [-5], [0]])),
        lambda a: a * np.array([[3], [-5], [0]]),
    ),
    "matmul_public": (
        lambda v: v.builder.add("matmul_public", v, v.builder.constant(np.arange(8).reshape(4, 2))),
        lambda a: a @ np.arange(8).reshape(4, 2),
    ),
}
"""Operations on a value of shape (2, 3, 4) that need a ring."""


def first_row(value: Value) -> Value:
    return value.builder.add("slice", value, starts=(0,) * 3, sizes=(2, 1, 4), steps=(1,) * 3)


MOVES: dict[str, tuple[Callable[[Value], Value], Callable[[Ring], Ring]]] = {
    "reshape": (lambda v: v.builder.add("reshape", v, shape=(4, 1, 6)), lambda a: a.reshape(4, 1, 6)),
    "transpose": (lambda v: v.builder.add("transpose", v, axes=(2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    "expand": (
        lambda v: v.builder.add("expand", v, shape=(5, 2, 3, 4)),
        lambda a: np.broadcast_to(a, (5, 2, 3, 4)),
    ),
    "slice": (
        lambda v: v.builder.add("slice", v, starts=(1, 2, 0), sizes=(1, 3, 2), steps=(1, -1, 2)),
        lambda a: a[1:2, ::-1, :4:2],
    ),
    "slice nothing": (
        lambda v: v.builder.add("slice", v, starts=(0, 0, 0), sizes=(2, 0, 4), steps=(1, 1, 1)),
        lambda a: a[:, :0],
    ),
    "slice backwards": (
        lambda v: v.builder.add("slice", v, starts=(1, 2, 3), sizes=(2, 3, 4), steps=(-1, -1, -1)),
        lambda a: a[::-1, ::-1, ::-1],
    ),
    "pad": (
        lambda v: v.builder.add("pad", v, before=(0, 1, 2), after=(1, 0, 0)),
        lambda a: np.pad(a, ((0, 1), (1, 0), (2, 0))),
    ),
    "gather": (
        lambda v: v.builder.add("gather", v, v.builder.constant([2, 0, 2, 1]), axis=1),
        lambda a: a[:, [2, 0, 2, 1]],
    ),
    "gather nothing": (
        lambda v: v.builder.add("gather", v, v.builder.constant(np.zeros(0, np.int64)), axis=2),
        lambda a: a[:, :, :0],
    ),
    "concatenate": (
        lambda v: v.builder.add("concatenate", v, v, first_row(v), axis=1),
        lambda a: np.concatenate([a, a, a[:, :1]], axis=1),
    ),
}
"""Operations on a value of shape (2, 3, 4) that only move elements."""


@pytest.mark.parametrize("parties", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*LOCAL, *MOVES])
def test_on_ring_elements(name: str, kind: str, parties: int) -> None:
    function, expected = {**LOCAL, **MOVES}[name]
    builder = Builder(party_names(parties))
    array = uniform((2, 3, 4), 50, 7)
    publish(function(value_of(builder, kind, "x", array, 50)))
    outcome = run(builder, {"x": array})
    assert np.array_equal(outcome.y, expected(array))
    assert outcome.y.shape == outcome.plan.nodes[-1].type.shape
    assert outcome.cost.rounds == 1 + (kind == "masked")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MOVES)
def test_on_bits(name: str, masked: bool) -> None:
    function, expected = MOVES[name]
    builder = Builder(party_names(3))
    array = np.random.default_rng(1).integers(-1, 1, size=(2, 3, 4), endpoint=False)
    bits = secret_bits(builder, "x", array.shape)
    result = function(builder.add("open_bits", bits) if masked else bits)
    publish(result)
    assert np.array_equal(run(builder, {"x": array}).y[0], expected(-array))


@pytest.mark.parametrize("kind", ["shared", "masked"])
@pytest.mark.parametrize(
    ("operation", "attributes", "indices"),
    [
        ("gather", {"axis": 0}, [3]),
        ("gather", {"axis": 0}, [-1]),
        ("scatter_add", {"axis": 0, "size": 2}, [0, 1, 2]),
        ("scatter_add", {"axis": 0, "size": 3}, [0, 1, -1]),
    ],
)
def test_indices_out_of_range(operation: str, attributes: dict[str, int], indices: list[int], kind: str) -> None:
    builder = Builder(party_names(2))
    value = value_of(builder, kind, "x", np.zeros(3, np.int64), 10)
    index = builder.add("argument", name="rows", shape=(len(indices),), scale=0, bound=10)
    publish(builder.add(operation, value, index, **attributes))
    with pytest.raises(ProtocolError, match="index"):
        run(builder, {"x": np.zeros(3, np.int64)}, arguments=[{"rows": np.array(indices)}])


def test_public_arguments_index_rows() -> None:
    builder = Builder(party_names(3))
    array = uniform((5, 2), 40, 3)
    index = builder.add("argument", name="rows", shape=(3,), scale=0, bound=10)
    value = opened(secret(builder, "x", (5, 2), 40))
    publish(builder.add("gather", value, index, axis=0))
    assert np.array_equal(run(builder, {"x": array}, arguments=[{"rows": np.array([4, 4, 0])}]).y, array[[4, 4, 0]])


@quick
@given(st.integers(2, 16), st.sampled_from(["add", "subtract", "multiply", "sum", "matmul_public", "scatter_add"]))
def test_the_inferred_bound_holds_at_the_edge(bound: int, operation: str) -> None:
    """Bounds small enough for what is proven to be below what the precision promises."""
    builder = Builder(party_names(2))
    edge = np.full((3, 4), (1 << bound) - 1)
    x, y = secret(builder, "x", (3, 4), bound), secret(builder, "y", (3, 4), 12)
    other = np.full((3, 4), -(2**12) + 1)
    match operation:
        case "add" | "subtract":
            result = builder.add(operation, x, y)
        case "multiply":
            result = builder.add(operation, opened(x), opened(y))
        case "sum":
            result = builder.add(operation, x, axes=(0, 1))
        case "matmul_public":
            result = builder.add(operation, x, builder.constant(np.full((4, 1), 2**9 - 1)))
        case _:
            result = builder.add(operation, x, builder.constant([0, 0, 0]), axis=0, size=1)
    limit = builder.nodes[result.index].type.bound
    publish(result)
    assert np.abs(run(builder, {"x": edge, "y": other}).y).max() < 2**limit


@pytest.mark.parametrize("kind", [Kind.SHARED, Kind.MASKED])
def test_widths_are_the_smaller_of_both(kind: Kind) -> None:
    builder = Builder(party_names(2))
    x, y = (secret(builder, slot, (2,), 10) for slot in "xy")
    left, right = opened(x, 20), opened(y, 30)
    if kind == Kind.SHARED:
        left, right = builder.add("share", left), builder.add("share", right)
    result = builder.add("add", left, right)
    assert (result.kind, result.type.width) == (kind, 20)
    assert builder.add("concatenate", left, right, axis=0).type.width == 20
