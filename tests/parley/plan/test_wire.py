"""Plans as bytes: the same plan comes back, equal plans have equal bytes, anything else is a PlanError."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.plan import plan_pb2 as pb
from parley.plan import wire
from parley.plan.graph import Kind, Node, Plan, Type
from parley.plan.wire import plan_from_bytes, plan_hash, plan_to_bytes
from tests.parley.harness import party_names, quick
from tests.parley.plans import every_operation

GOOD = every_operation()

wire_values = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=20,
)


@quick
@given(st.dictionaries(st.text(max_size=8), wire_values, max_size=5), st.text(max_size=20))
def test_any_attributes_come_back(attributes: dict, line: str) -> None:
    type = Type(Kind.BITS, (3, 0), -5, 62, 64, 9)
    plan = Plan(party_names(2), (Node("anything", (0, 7), type, attributes, line),), "naïve")
    assert plan_from_bytes(plan_to_bytes(plan)) == plan


def test_the_good_plan_comes_back() -> None:
    assert plan_from_bytes(plan_to_bytes(GOOD)) == GOOD
    assert plan_hash(plan_from_bytes(plan_to_bytes(GOOD))) == plan_hash(GOOD) == plan_hash(every_operation())


def test_everything_is_in_the_hash() -> None:
    node = GOOD.nodes[0]
    plans = [
        GOOD,
        Plan(GOOD.parties[::-1], GOOD.nodes, GOOD.name),
        Plan(GOOD.parties, GOOD.nodes[:-1], GOOD.name),
        *(
            Plan(GOOD.parties, (changed, *GOOD.nodes[1:]), GOOD.name)
            for changed in (
                replace(node, operation="other"),
                replace(node, inputs=(0,)),
                replace(node, attributes={**node.attributes, "extra": 1}),
                replace(node, attributes={**node.attributes, "extra": 1.0}),
                replace(node, attributes={**node.attributes, "extra": "1"}),
                replace(node, attributes={**node.attributes, "extra": b"1"}),
                replace(node, attributes={**node.attributes, "extra": (1,)}),
                *(
                    replace(node, type=replace(node.type, **{field: 3}))
                    for field in ("scale", "bound", "width", "planes")
                ),
                replace(node, type=replace(node.type, shape=(9,))),
                replace(node, type=replace(node.type, kind=Kind.BITS)),
            )
        ),
    ]
    assert len({plan_hash(plan) for plan in plans}) == len(plans)


def test_the_order_in_which_attributes_were_written_does_not_matter() -> None:
    node = GOOD.nodes[0]
    turned = replace(node, attributes=dict(reversed(node.attributes.items())))
    assert plan_hash(Plan(GOOD.parties, (turned, *GOOD.nodes[1:]), GOOD.name)) == plan_hash(GOOD)


@quick
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(PlanError):
        plan_from_bytes(data)


def test_cut_off_anywhere() -> None:
    whole = plan_to_bytes(GOOD)
    for size in range(0, len(whole), 101):
        try:
            plan = plan_from_bytes(whole[:size])
        except PlanError:
            continue
        assert len(plan.nodes) < len(GOOD.nodes)


def test_another_version() -> None:
    message = pb.Plan()
    message.ParseFromString(plan_to_bytes(GOOD))
    message.version = 2
    with pytest.raises(PlanError, match="version 2"):
        plan_from_bytes(message.SerializeToString())


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAXIMAL_BYTES", 100)
    with pytest.raises(PlanError, match="over the limit"):
        plan_from_bytes(plan_to_bytes(GOOD))


def message_with(**item: object) -> bytes:
    message = pb.Plan(version=1, parties=["a", "b"])
    node = message.nodes.add(operation="open", type=pb.Type(kind=2, width=64))
    node.attributes.add(name="x", value=pb.Item(**item))
    return message.SerializeToString()


def test_nested_without_end() -> None:
    inner = pb.Item(integer=1)
    for _ in range(20):
        inner = pb.Item(list=pb.List(items=[inner]))
    with pytest.raises(PlanError, match="nested") as caught:
        plan_from_bytes(message_with(list=inner.list))
    assert caught.value.node == 0
    data = b"\x08\x02"  # an integer of 1
    for field in (0x0A, 0x2A) * 2000 + (0x12, 0x22, 0x22):  # items of a list, list of an item; value, attribute, node
        size, length = len(data), b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        data = bytes([field]) + length + bytes([size]) + data
    with pytest.raises(PlanError, match="not a plan"):
        plan_from_bytes(b"\x08\x01" + data)


def test_an_attribute_without_a_value_and_one_given_twice() -> None:
    with pytest.raises(PlanError, match="no value") as caught:
        plan_from_bytes(message_with())
    assert caught.value.node == 0
    message = pb.Plan()
    message.ParseFromString(message_with(integer=1))
    message.nodes[0].attributes.add(name="x", value=pb.Item(integer=2))
    with pytest.raises(PlanError, match="twice"):
        plan_from_bytes(message.SerializeToString())


@pytest.mark.parametrize("kind", [0, 6, 99, -1])
def test_an_unknown_kind(kind: int) -> None:
    message = pb.Plan(version=1, parties=["a", "b"])
    message.nodes.add(operation="open", type=pb.Type(kind=kind, width=64))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="node 0"):
        plan_from_bytes(message.SerializeToString())


@pytest.mark.parametrize("value", [2**63, 10**400, object(), None, (object(),)])
def test_what_has_no_wire_form(value: object) -> None:
    node = replace(GOOD.nodes[0], attributes={"x": value})  # type: ignore[dict-item]
    with pytest.raises(PlanError, match="node 0"):
        plan_to_bytes(Plan(GOOD.parties, (node,)))
