"""Opening: the value survives the round trip through its mask, in as many bytes as the width says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan.builder import Builder
from parley.plan.cost import ROUND_HEADER
from parley.plan.graph import Attribute, Kind, Node, Type
from parley.protocols import PROTOCOLS, infer_type
from parley.protocols.base import Exchange, Party
from parley.ring import kernels
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
    uniform,
)


@quick
@given(party_counts, shapes.flatmap(lambda shape: ring_arrays(shape, 62)))
def test_masked_and_back(parties: int, values: np.ndarray) -> None:
    builder = Builder(party_names(parties))
    publish(builder.add("share", opened(secret(builder, "x", values.shape))))
    outcome = run(builder, {"x": values})
    assert np.array_equal(outcome.y, values)
    assert outcome.cost.bytes_to_each_peer == (8 * values.size + 2 * ROUND_HEADER,) * parties
    assert outcome.cost.rounds == 2  # the opening, and the check before the reveal


@quick
@given(party_counts, st.integers(4, 64), st.integers(1, 20), st.integers(0, 99))
def test_a_narrow_opening_costs_its_width(parties: int, width: int, size: int, seed: int) -> None:
    builder = Builder(party_names(parties))
    values = uniform((size,), width - 2, seed)
    narrow = opened(secret(builder, "x", (size,), bound=width - 2), width)
    assert narrow.type.width == width
    publish(builder.add("truncate", narrow, bits=1))
    outcome = run(builder, {"x": values}, narrow=False)
    assert ((outcome.y == values >> 1) | (outcome.y == -(-values >> 1))).all()
    assert outcome.cost.bytes_to_each_peer[0] == kernels.ring_bytes(size, width) + 2 * ROUND_HEADER


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (9,), (3, 5)])
def test_bits(parties: int, shape: tuple[int, ...]) -> None:
    builder = Builder(party_names(parties))
    values = np.asarray(np.random.default_rng(5).integers(-1, 1, size=shape))
    publish(builder.add("open_bits", secret_bits(builder, "x", shape)))
    outcome = run(builder, {"x": values}, narrow=False)
    assert np.array_equal(outcome.y[0], -values)
    packed = kernels.packed_bytes(values.size)
    assert outcome.cost.bytes_to_each_peer[0] == kernels.ring_bytes(values.size, 2) + packed + 3 * ROUND_HEADER


@pytest.mark.parametrize("width", [0, -1, 65, 2**40])
def test_no_such_width(width: int) -> None:
    builder = Builder(party_names(2))
    with pytest.raises(PlanError, match="width"):
        opened(secret(builder, "x", (2,)), width)


def test_a_width_never_grows_back() -> None:
    builder = Builder(party_names(2))
    narrow = builder.add("share", opened(secret(builder, "x", (2,), 10), 20))
    with pytest.raises(PlanError, match="width"):
        opened(narrow, 21)
    with pytest.raises(PlanError, match="20 bits only"):
        publish(narrow)
    with pytest.raises(PlanError, match="20 bits only"):
        builder.add("store", narrow, slot="x")


@quick
@given(party_counts, st.integers(10, 40), st.integers(0, 99))
def test_narrow_takes_the_low_bits_of_an_opening(parties: int, bound: int, seed: int) -> None:
    builder = Builder(party_names(parties))
    values = np.random.default_rng(seed).integers(-(2**bound) + 1, 2**bound, size=7)
    wide = opened(secret(builder, "x", (7,), bound))
    narrow = builder.add("narrow", wide, width=bound + 2)
    publish(builder.add("truncate", narrow, bits=3))
    publish(wide, "whole")
    outcome = run(builder, {"x": values})
    assert np.abs(outcome.y - values / 8).max() < 1
    assert np.array_equal(outcome.values["whole"], values)


@pytest.mark.parametrize("operation", ["open", "open_bits", "input"])
def test_what_was_sent_is_left_alone(operation: str) -> None:
    """A channel may still hold the message when the round is finished."""
    bits = operation == "open_bits"
    shape = (2, 3) if bits else (24,)
    type = Type(Kind.BITS, (24,), planes=2) if bits else Type(Kind.SHARED, (24,))
    known: dict[str, dict[str, Attribute]] = {
        "open": {"width": 64},
        "input": {"party": 0, "dataset": "x", "shape": (24,), "scale": 0, "bound": 62},
    }
    types = [] if operation == "input" else [type]
    node = Node(operation, (), type, known.get(operation, {}))
    node = replace(node, type=infer_type(node, types))
    rng = np.random.default_rng(1)
    value, mask = rng.integers(1, 200, size=(2, *shape)).astype(np.uint8 if bits else np.int64)
    party = Party(0, party_names(3), lambda _: value)
    protocol = PROTOCOLS[operation]
    assert isinstance(protocol, Exchange)
    message, own = protocol.message(party, node, types, [value], [mask])
    before = bytes(message)
    other = None if operation == "input" else memoryview(rng.bytes(len(before)))
    protocol.finish(party, node, own, [None, other, other], types)
    assert bytes(message) == before
