"""What any n−1 parties see does not depend on the others' secrets; and the test that says so sees protocols that leak.

Each plan runs on two different sets of secrets, and the views of every coalition are compared (tests/parley/views.py).
A difference is counted in standard deviations; LIMIT is not reached by chance. The broken protocols compute right
results like the sound ones: only this test tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from parley.functions import order
from parley.plan.builder import Builder, Value
from parley.plan.schedule import Slot, Step
from parley.protocols.base import Array, Correlation
from parley.runtime.session import Prepared
from tests.parley.harness import Ring, finish, opened, party_names, publish, secret, secret_bits
from tests.parley.views import ELEMENTS, LIMIT, Difference, broken, greatest_difference

pytestmark = pytest.mark.statistical

ODD = np.arange(ELEMENTS) % 2
PERIODIC: dict[str, Any] = {
    "period_bits": 4,
    "constants": (0.5,),
    "cosines": (1.0, -0.25),
    "sines": (0.125, 2.0),
    "share_bits": 20,
    "public_bits": 16,
}


def constant(bound: int) -> Ring:
    return np.zeros(ELEMENTS, dtype=np.int64)


def varying(bound: int) -> Ring:
    """Numbers of both signs and parities, other in every place than those of `constant`."""
    return np.where(ODD, (1 << bound) - 1 - (1 << bound) // 3, -(5 << (bound - 4)) - 3)


def keep(value: Value, slot: str = "out") -> None:
    value.builder.add("store", value, slot=slot)


def whole(builder: Builder, slot: str, bound: int = 62, scale: int = 0) -> Value:
    return secret(builder, slot, (ELEMENTS,), bound, scale)


def column(value: Value, width: int) -> Value:
    """(ELEMENTS) → (ELEMENTS, 1, width) for products of small matrices."""
    shaped = value.builder.add("reshape", value, shape=(ELEMENTS, 1, 1))
    return value.builder.add("expand", shaped, shape=(ELEMENTS, 1, width))


def product(b: Builder) -> Value:
    return b.add("multiply", opened(whole(b, "x", 30)), opened(whole(b, "y", 30)))


def two_openings(b: Builder) -> None:
    keep(opened(whole(b, "x")))
    keep(opened(whole(b, "y")), "b")


def selected(b: Builder, bits: int) -> None:
    bit = order.open_bits(order.negative(whole(b, "x", 10)))
    keep(b.add("select", bit, opened(whole(b, "y", 10)), bits=bits))


def relu_of_a_product(b: Builder) -> None:
    """The composite: product, comparison, selection with rescaling, and the product's opening used by both."""
    result, _ = order.relu(b.add("multiply", opened(whole(b, "x", 10, 16)), opened(whole(b, "y", 10, 16))))
    keep(result)


PLANS: dict[str, tuple[int, Callable[[Builder], None], tuple[int, ...]]] = {
    "open": (62, lambda b: keep(opened(whole(b, "x"))), ()),
    "two openings": (62, two_openings, ()),
    "narrow opening": (18, lambda b: keep(b.add("truncate", opened(whole(b, "x", 18), 20), bits=4)), (4,)),
    "multiply": (30, lambda b: keep(product(b)), ()),
    "matmul": (
        29,
        lambda b: keep(
            b.add(
                "matmul",
                column(opened(whole(b, "x", 29)), 2),
                b.add("transpose", column(opened(whole(b, "y", 29)), 2), axes=(0, 2, 1)),
            )
        ),
        (),
    ),
    "truncate": (62, lambda b: keep(b.add("truncate", opened(whole(b, "x")), bits=16)), (16,)),
    "words": (10, lambda b: keep(b.add("words", opened(whole(b, "x", 10), 12), thresholds=(0, 3))), ()),
    "comparison": (10, lambda b: keep(order.negative(whole(b, "x", 10))), ()),
    "bits": (10, lambda b: keep(b.add("open_bits", order.negative(whole(b, "x", 10)))), ()),
    "bit to ring": (10, lambda b: keep(order.to_ring(order.negative(whole(b, "x", 10)))), ()),
    "select": (10, lambda b: selected(b, 0), ()),
    "select and truncate": (10, lambda b: selected(b, 4), (4,)),
    "periodic": (30, lambda b: keep(b.add("periodic", opened(whole(b, "x", 30, 16)), **PERIODIC)), ()),
    "relu of a product": (10, relu_of_a_product, (16,)),
}  # fmt: skip


def plan_of(name: str, parties: int = 3, narrow: bool = True) -> tuple[Prepared, int, tuple[int, ...]]:
    bound, build, shifts = PLANS[name]
    builder = Builder(party_names(parties))
    build(builder)
    return Prepared.of(finish(builder, narrow)), bound, shifts


def compare(prepared: Prepared, bound: int, shifts: tuple[int, ...] = ()) -> Difference:
    """Secrets that differ in x alone."""
    slots = [node.text("slot") for _, node in prepared.plan.with_operation("load")]
    one, other = constant(bound), varying(bound)
    first = {slot: one if slot == "x" else other for slot in slots}
    return greatest_difference(prepared, first, dict.fromkeys(slots, other), shifts=shifts)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("parties", [2, 3])
def test_a_coalition_sees_nothing(name: str, parties: int) -> None:
    prepared, bound, shifts = plan_of(name, parties)
    difference = compare(prepared, bound, shifts)
    assert difference.tests > 500
    assert difference.deviation < LIMIT, difference


@pytest.mark.parametrize("parties", [4, 5])
def test_with_more_parties(parties: int) -> None:
    prepared, bound, shifts = plan_of("truncate", parties)
    assert compare(prepared, bound, shifts).deviation < LIMIT


def input_plan(parties: int = 3) -> Prepared:
    builder = Builder(party_names(parties))
    value = builder.add("input", party=0, dataset="x", shape=(ELEMENTS,), scale=0, bound=62)
    keep(builder.add("multiply", value, value, bound=62))
    return Prepared.of(finish(builder))


@pytest.mark.parametrize("parties", [2, 3])
def test_an_input_is_hidden_from_all_but_its_owner(parties: int) -> None:
    data = [{"p0": lambda _: constant(61)}, {"p0": lambda _: varying(61)}]
    others = tuple(range(1, parties))
    difference = greatest_difference(input_plan(parties), {}, {}, data=data, coalitions=[(others, False)])
    assert difference.deviation < LIMIT, difference


# Reveals: the secrets differ, what is revealed does not.


def sum_of_inputs(receiver: str) -> Prepared:
    builder = Builder(party_names(3))
    x, y = (builder.add("input", party=party, dataset="x", shape=(ELEMENTS,), scale=0, bound=61) for party in range(2))
    publish(builder.add("add", x, y), receivers=(receiver,))
    return Prepared.of(finish(builder))


SWAPPED = [
    {"p0": lambda _: constant(60), "p1": lambda _: varying(60)},
    {"p0": lambda _: varying(60), "p1": lambda _: constant(60)},
]
"""Two inputs of the same sum."""


@pytest.mark.parametrize(
    ("receiver", "coalition", "submitter"),
    [("p2", (2,), False), ("submitter", (), True), ("submitter", (2,), True), ("p2", (2,), True)],
)
def test_who_receives_a_sum_learns_the_sum_only(receiver: str, coalition: tuple[int, ...], submitter: bool) -> None:
    submitter = submitter and receiver == "submitter"
    difference = greatest_difference(
        sum_of_inputs(receiver), {}, {}, data=SWAPPED, coalitions=[(coalition, submitter)], shifts=()
    )
    assert difference.deviation < LIMIT, difference


def test_n_minus_one_parties_that_receive_a_result_learn_the_result_only() -> None:
    """Products of the same value from different secrets: x·y and y·x."""
    builder = Builder(party_names(3))
    publish(product(builder), receivers=("p0", "p1", "p2"))
    one, other = constant(29), varying(29)
    difference = greatest_difference(Prepared.of(finish(builder)), {"x": one, "y": other}, {"x": other, "y": one})
    assert difference.deviation < LIMIT, difference


# Broken protocols.


@dataclass(frozen=True)
class Weak(Correlation):
    """A correlation whose random shares are less than random, alike at the parties and the dealer."""

    weakness: Callable[[Array], Array] = lambda share: share

    def read(self, data: memoryview) -> Array:
        return np.ascontiguousarray(self.weakness(super().read(data)))


@dataclass(frozen=True)
class Unmasked(Correlation):
    """A correlation that one party receives as it is; the others' shares are zero."""

    def read(self, data: memoryview) -> Array:
        return super().read(data)

    def correction(self, value: Array, others: Any) -> Array:
        return np.array(value.astype(self.dtype, copy=False).reshape(self.shape))


def weak(slot: Slot, weakness: Callable[[Array], Array]) -> Slot:
    c = slot.correlation
    return replace(slot, correlation=Weak(c.dtype, c.shape, c.corrected, c.owner, weakness))


def weaken(prepared: Prepared, operation: str, weakness: Callable[[Array], Array], number: int = 0) -> Prepared:
    """The plan with weak shares in slot `number` of every node of that operation."""

    def change(step: Step, position: int, slot: Slot) -> Slot:
        return weak(slot, weakness) if step.node.operation == operation and position == number else slot

    return broken(prepared, change)


def unmask(prepared: Prepared, operation: str, number: int) -> Prepared:
    def change(step: Step, position: int, slot: Slot) -> Slot:
        if step.node.operation != operation or position != number:
            return slot
        c = slot.correlation
        return replace(slot, correlation=Unmasked(c.dtype, c.shape))

    return broken(prepared, change)


def same_position(prepared: Prepared, operation: str) -> Prepared:
    """All nodes of that operation draw their first correlation from one place in the keystream."""
    positions: list[int] = []

    def change(step: Step, position: int, slot: Slot) -> Slot:
        if step.node.operation != operation or position:
            return slot
        positions.append(slot.position)
        return replace(slot, position=positions[0])

    return broken(prepared, change)


WEAKNESSES: dict[str, tuple[str, Callable[[Prepared], Prepared]]] = {
    "a mask used twice": ("two openings", lambda p: same_position(p, "open")),
    "a mask of 40 bits": ("open", lambda p: weaken(p, "open", lambda share: share & ((1 << 40) - 1))),
    "a mask of 60 bits": ("open", lambda p: weaken(p, "open", lambda share: share & ((1 << 60) - 1))),
    "an even mask": ("open", lambda p: weaken(p, "open", lambda share: share & -2)),
    "no mask": ("open", lambda p: weaken(p, "open", np.zeros_like)),
    "one mask for all elements": ("open", lambda p: weaken(p, "open", lambda share: np.full_like(share, share[0]))),
    "one mask for two elements": ("open", lambda p: weaken(p, "open", lambda share: np.repeat(share[::2], 2))),
    "a narrow opening's mask too narrow": (
        "narrow opening",
        lambda p: weaken(p, "open", lambda share: share & ((1 << 16) - 1)),
    ),
    "bits without a mask": ("bits", lambda p: weaken(p, "open_bits", np.zeros_like)),
    "bits under one mask twice": ("relu of a product", lambda p: same_position(p, "open_bits")),
    "t without a mask": ("truncate", lambda p: unmask(p, "truncate", 0)),
    "s without a mask": ("truncate", lambda p: unmask(p, "truncate", 1)),
    "a product's correction without a mask": ("multiply", lambda p: unmask(p, "multiply", 0)),
    "words without a mask": ("words", lambda p: unmask(p, "words", 0)),
    "the sign's bit without a mask": ("words", lambda p: unmask(p, "words", 1)),
    "β without a mask": ("bit to ring", lambda p: unmask(p, "bit_to_ring", 0)),
    "sines without a mask": ("periodic", lambda p: unmask(p, "periodic", 0)),
    "a selection's β without a mask": ("select", lambda p: unmask(p, "select", 0)),
    "a selection's βt without a mask": ("select and truncate", lambda p: unmask(p, "select", 3)),
}  # fmt: skip


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_a_leak_is_seen(weakness: str) -> None:
    name, spoil = WEAKNESSES[weakness]
    prepared, bound, shifts = plan_of(name)
    difference = compare(spoil(prepared), bound, shifts)
    assert difference.deviation > 1.2 * LIMIT, difference


def test_an_input_under_a_narrow_mask_is_seen() -> None:
    prepared = weaken(input_plan(), "input", lambda share: share & ((1 << 40) - 1))
    data = [{"p0": lambda _: constant(61)}, {"p0": lambda _: varying(61)}]
    assert greatest_difference(prepared, {}, {}, data=data, coalitions=[((1, 2), False)]).deviation > 1.2 * LIMIT


@pytest.mark.parametrize(("receiver", "coalition", "submitter"), [("p2", (2,), False), ("submitter", (), True)])
def test_a_reveal_without_its_zero_sharing_leaks(receiver: str, coalition: tuple[int, ...], submitter: bool) -> None:
    """Each party's part is then its share of an intermediate value: the first's is its own input under a known mask."""
    prepared = sum_of_inputs(receiver)

    def change(step: Step, position: int, slot: Slot) -> Slot:
        if step.node.operation != "reveal":
            return slot
        c = slot.correlation
        return replace(slot, correlation=NoShares(c.dtype, c.shape))

    spoiled = broken(prepared, change)
    coalitions = [(coalition, submitter), ((2,), submitter)]
    difference = greatest_difference(spoiled, {}, {}, data=SWAPPED, coalitions=coalitions)
    assert difference.deviation > 1.2 * LIMIT, difference


@dataclass(frozen=True)
class NoShares(Correlation):
    def read(self, data: memoryview) -> Array:
        return np.zeros(self.shape, dtype=self.dtype)


def test_the_secrets_differ_and_the_shares_of_bits_are_bits() -> None:
    assert not np.array_equal(constant(10), varying(10))
    assert np.abs(varying(10)).max() < 1 << 10
    builder = Builder(party_names(2))
    assert secret_bits(builder, "x", (3,)).type.planes == 1
