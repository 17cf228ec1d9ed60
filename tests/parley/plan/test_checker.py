"""Every kind of broken plan is refused with the node named; what passes opens and reveals nothing it should not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parley.errors import ParleyError, PlanError
from parley.plan import checker
from parley.plan.builder import Builder
from parley.plan.checker import check
from parley.plan.cost import cost_of_schedule
from parley.plan.graph import Kind, Node, Plan, Type
from parley.plan.schedule import correlations, make_schedule
from parley.plan.wire import plan_from_bytes, plan_to_bytes
from parley.protocols import PROTOCOLS, infer_type
from parley.protocols.base import Exchange
from parley.ring.prg import BLOCK
from parley.runtime.local import LocalSession
from parley.runtime.session import Execution, Prepared
from tests.parley.harness import opened, party_names, publish, quick, secret
from tests.parley.plans import REVEALS, attribute_values, every_operation, node_mutations, prepare_vaults

GOOD = every_operation()
thorough = settings(quick, max_examples=40 * quick.max_examples, suppress_health_check=list(HealthCheck))


def with_node(plan: Plan, index: int, **changes: Any) -> Plan:
    nodes = list(plan.nodes)
    nodes[index] = replace(nodes[index], **changes)
    return replace_nodes(plan, nodes)


def replace_nodes(plan: Plan, nodes: list[Node]) -> Plan:
    return Plan(plan.parties, tuple(nodes), plan.name)


def index_of(operation: str, plan: Plan = GOOD) -> int:
    return plan.with_operation(operation)[0][0]


def refused_at(plan: Plan, index: int, words: str | None = None) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        check(plan)
    assert caught.value.node == index, caught.value
    if index >= 0:
        assert f"node {index}" in str(caught.value)


def test_the_good_plan_is_legal() -> None:
    check(GOOD)
    check(GOOD, REVEALS)


@pytest.mark.parametrize("operation", sorted(PROTOCOLS))
def test_an_unknown_operation_anywhere(operation: str) -> None:
    index = index_of(operation)
    refused_at(with_node(GOOD, index, operation="open_everything"), index, "unknown operation")


@pytest.mark.parametrize("operation", sorted(PROTOCOLS))
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("shape", lambda type: (*type.shape, 2)),
        ("shape", lambda type: (7,)),
        ("scale", lambda type: type.scale + 1),
        ("bound", lambda type: type.bound - 1),
        ("width", lambda type: type.width - 1),
        ("planes", lambda type: type.planes + 1),
        ("kind", lambda type: Kind.PUBLIC if type.kind != Kind.PUBLIC else Kind.SHARED),
        ("kind", lambda type: Kind.MASKED if type.kind != Kind.MASKED else Kind.SHARED),
    ],
)
def test_a_type_that_is_not_so(operation: str, field: str, change: Any) -> None:
    index = index_of(operation)
    type = GOOD.nodes[index].type
    refused_at(with_node(GOOD, index, type=replace(type, **{field: change(type)})), index, "the plan says")


@pytest.mark.parametrize("operation", sorted(PROTOCOLS))
def test_every_attribute_is_needed_and_has_its_kind(operation: str) -> None:
    index = index_of(operation)
    node = GOOD.nodes[index]
    for name in node.attributes:
        if name in ("bound", "planes") and operation not in (
            "load",
            "input",
            "random",
            "constant",
            "argument",
            "arrange",
        ):
            continue  # declared bounds are optional
        without = {key: value for key, value in node.attributes.items() if key != name}
        if (operation, name) != ("load", "planes"):
            refused_at(with_node(GOOD, index, attributes=without), index, name)
        for wrong in (object(), None, [1], {"a": 1}, 1j, ((1j,),), (None,), math.nan, "\0", b"\1", ((((1,),),),)):
            if isinstance(wrong, str) and isinstance(node.attributes[name], str):
                continue
            refused_at(with_node(GOOD, index, attributes={**node.attributes, name: wrong}), index)


@pytest.mark.parametrize("operation", sorted(PROTOCOLS))
def test_inputs_that_are_not_earlier_nodes(operation: str) -> None:
    index = index_of(operation)
    node = GOOD.nodes[index]
    for source in (index, index + 1, len(GOOD.nodes), len(GOOD.nodes) + 7, -1, 2**32):
        wrong = (source, *node.inputs[1:]) if node.inputs else (source,)
        refused_at(with_node(GOOD, index, inputs=wrong), index, "not an earlier node")


def test_a_cycle() -> None:
    index = index_of("truncate")
    source = GOOD.nodes[index].inputs[0]
    refused_at(with_node(GOOD, source, inputs=(index,)), source, "not an earlier node")


@pytest.mark.parametrize("operation", sorted(PROTOCOLS))
def test_too_many_or_too_few_inputs(operation: str) -> None:
    index = index_of(operation)
    node = GOOD.nodes[index]
    if PROTOCOLS[operation].arity is None:
        refused_at(with_node(GOOD, index, inputs=()), index, "takes at least one")
        return
    refused_at(with_node(GOOD, index, inputs=(*node.inputs, 0)), index, "takes" if index else "not an earlier node")
    if node.inputs:
        refused_at(with_node(GOOD, index, inputs=node.inputs[1:]), index, "takes")


def single(operation: str, inputs: list[Type], **attributes: Any) -> None:
    infer_type(Node(operation, tuple(range(len(inputs))), Type(Kind.PUBLIC, ()), attributes), inputs)


ALL_KINDS = {
    kind: Type(kind, (2, 2), 16 if kind <= Kind.MASKED else 0, 20 if kind <= Kind.MASKED else 1) for kind in Kind
}


@pytest.mark.parametrize(
    ("operation", "attributes", "accepted"),
    [
        ("open", {"width": 64}, {Kind.SHARED}),
        ("open_bits", {}, {Kind.BITS}),
        ("reveal", {"name": "y", "receivers": ("p0",)}, {Kind.SHARED}),
        ("truncate", {"bits": 4}, {Kind.MASKED}),
        ("words", {"thresholds": (0,)}, {Kind.MASKED}),
        ("bit_to_ring", {}, {Kind.MASKED_BITS}),
        ("bit_polynomial", {"groups": 1, "outputs": (((0,),),)}, {Kind.MASKED_BITS}),
        ("share", {}, {Kind.MASKED, Kind.PUBLIC}),
        ("negate", {}, {Kind.PUBLIC, Kind.SHARED, Kind.MASKED}),
        ("sum", {"axes": (0,)}, {Kind.PUBLIC, Kind.SHARED, Kind.MASKED}),
        ("narrow", {"width": 30}, {Kind.MASKED}),
        ("planes", {"indices": (0,), "negate": (0,)}, {Kind.BITS}),
        ("arrange", {"planes": 1, "indices": (0,), "negate": (0,)}, {Kind.BITS}),
        ("stack_planes", {}, {Kind.BITS, Kind.MASKED_BITS}),
        ("join_planes", {}, {Kind.BITS}),
        (
            "periodic",
            {
                "period_bits": 4,
                "constants": (0,),
                "cosines": (1,),
                "sines": (1,),
                "share_bits": 10,
                "public_bits": 10,
            },
            {Kind.MASKED},
        ),
        ("store", {"slot": "x"}, {Kind.SHARED, Kind.MASKED, Kind.BITS, Kind.MASKED_BITS}),
    ],
)
def test_kinds(operation: str, attributes: Mapping[str, Any], accepted: set[Kind]) -> None:
    """In particular: what is opened is shared and not yet masked, and nothing but a shared value is revealed."""
    for kind, type in ALL_KINDS.items():
        if kind in accepted:
            single(operation, [type], **attributes)
        else:
            with pytest.raises(PlanError, match="needs"):
                single(operation, [type], **attributes)


@pytest.mark.parametrize("operation", ["multiply", "matmul"])
def test_products_take_masked_values(operation: str) -> None:
    for left, one in ALL_KINDS.items():
        for right, other in ALL_KINDS.items():
            if (left, right) == (Kind.MASKED, Kind.MASKED):
                single(operation, [one, other])
            else:
                with pytest.raises(PlanError, match="needs masked"):
                    single(operation, [one, other])


def test_a_masked_value_is_not_opened() -> None:
    """What is open already has its mask; opening the public part again would be opening something unmasked."""
    index = index_of("open")
    refused_at(with_node(GOOD, index, inputs=(index_of("input"),)), index, "needs shared, got masked")


# Reveals.


def test_reveals_that_were_not_declared() -> None:
    for missing in REVEALS:
        with pytest.raises(PlanError, match="not declared") as caught:
            check(GOOD, [pair for pair in REVEALS if pair != missing])
        assert GOOD.nodes[caught.value.node].text("name") == missing[0]
    with pytest.raises(PlanError, match="not declared"):
        check(GOOD, [])
    check(GOOD, [*REVEALS, ("more", "p2")])


@pytest.mark.parametrize(
    ("receivers", "words"),
    [
        (("mallory",), "neither a party"),
        (("p0", "p0"), "twice"),
        ((), "needs a receiver"),
        (("p0", ""), "neither"),
        ("p0", "receivers"),
        ((0,), "receivers"),
        (("dealer",), "neither"),
        (("p3",), "neither"),
    ],
)
def test_receivers(receivers: Any, words: str) -> None:
    index = index_of("reveal")
    node = GOOD.nodes[index]
    refused_at(with_node(GOOD, index, attributes={**node.attributes, "receivers": receivers}), index, words)


@pytest.mark.parametrize("name", ["", " ", "a b", "é", "a\n", "a" * 129, "$(x)", "\0"])
@pytest.mark.parametrize("operation", ["load", "store", "argument", "reveal", "input"])
def test_names(operation: str, name: str) -> None:
    index = index_of(operation)
    node = GOOD.nodes[index]
    attribute = {"load": "slot", "store": "slot", "input": "dataset"}.get(operation, "name")
    refused_at(with_node(GOOD, index, attributes={**node.attributes, attribute: name}), index, "name")


@pytest.mark.parametrize("operation", ["load", "store", "argument", "reveal"])
def test_names_given_twice(operation: str) -> None:
    index = index_of(operation)
    node = GOOD.nodes[index]
    refused_at(replace_nodes(GOOD, [*GOOD.nodes, node]), len(GOOD.nodes), "there are two")


@pytest.mark.parametrize("party", [-1, 3, 2**40, "p0", 1.0])
def test_an_input_of_nobody(party: int) -> None:
    index = index_of("input")
    node = GOOD.nodes[index]
    refused_at(with_node(GOOD, index, attributes={**node.attributes, "party": party}), index, "party")


# The plan as a whole.


@pytest.mark.parametrize(
    "parties",
    [
        (),
        ("p0",),
        ("p0", "p0", "p1"),
        ("p0", "submitter", "p1"),
        ("p0", "p 1", "p2"),
        ("", "p1", "p2"),
        ("a\n", "b", "c"),
    ],
)
def test_parties(parties: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="part"):
        check(Plan(parties, GOOD.nodes))


def test_too_many_parties() -> None:
    with pytest.raises(PlanError, match="parties"):
        check(Plan(party_names(65), GOOD.nodes))


def test_no_nodes_and_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    refused_at(Plan(party_names(2), ()), -1, "0 nodes")
    monkeypatch.setattr(checker, "MAXIMAL_NODES", 3)
    refused_at(GOOD, -1, "nodes")


def test_a_source_line_without_end() -> None:
    refused_at(with_node(GOOD, 0, line="x" * 5000), 0, "source line")


# Sizes.


@pytest.mark.parametrize(
    "shape",
    [
        (2**40,),
        (2**34, 2**4),
        (2**47,) * 16,
        (1,) * 17,
        (-1,),
        (2, -3),
        (2**64,),
        (2**63,),
        (0, 2**40, 2**40),
        (2**200,),
        (2**47,) * 100_000,
        (1.0,),
        ("2",),
    ],
)
@pytest.mark.parametrize(
    "operation", ["load", "input", "argument", "random", "constant", "constant_bits", "reshape", "expand"]
)
def test_absurd_shapes(operation: str, shape: Any) -> None:
    index = index_of(operation)
    node = GOOD.nodes[index]
    attributes = {**node.attributes, "shape": shape}
    changed = with_node(GOOD, index, attributes=attributes)
    try:
        type = infer_type(changed.nodes[index], changed.input_types(changed.nodes[index]))
    except PlanError:
        type = node.type
    refused_at(with_node(changed, index, type=type), index)


def test_sizes_that_grow_along_the_way() -> None:
    builder = Builder(party_names(2))
    value = secret(builder, "x", (1,), 1)
    for power in range(1, 6):
        value = builder.add("expand", value, shape=(2**8,) * power)
    publish(value)
    with pytest.raises(PlanError, match="over the limit"):
        check(builder.finish())
    builder = Builder(party_names(2))
    value = secret(builder, "x", (2**10,), 1)
    publish(builder.add("pad", value, before=(2**50,), after=(0,)))
    with pytest.raises(PlanError, match="over the limit"):
        check(builder.finish())
    builder = Builder(party_names(2))
    value = secret(builder, "x", (2**16, 1), 1)
    publish(builder.add("matmul", opened(value), builder.add("transpose", opened(value), axes=(1, 0))))
    with pytest.raises(PlanError, match="over the limit"):
        check(builder.finish())


def test_randomness_without_end() -> None:
    builder = Builder(party_names(2))
    value = opened(secret(builder, "x", (2**31 - 1,), 20, 16))
    wave = {"constants": (0.0,), "cosines": (0.1,) * 64, "sines": (0.1,) * 64, "share_bits": 8, "public_bits": 8}
    publish(builder.add("periodic", value, period_bits=3, **wave))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="correlated randomness"):
        check(builder.finish())


def test_values_that_leave_the_ring() -> None:
    builder = Builder(party_names(2))
    masked = opened(secret(builder, "x", (2,), 32))
    node = Node("multiply", (1, 1), Type(Kind.SHARED, (2,), 0, 64))
    refused_at(Plan(builder.parties, (*builder.nodes, node)), 2, "leave the ring")
    assert masked.index == 1
    summed = Node("sum", (0,), Type(Kind.SHARED, (), 0, 33), {"axes": (0,)})
    check(Plan(builder.parties, (builder.nodes[0], summed)))


@pytest.mark.parametrize("bits", [200, -200, 2**40, -(2**70)])
def test_scales_of_no_use(bits: int) -> None:
    index = index_of("rescale")
    node = GOOD.nodes[index]
    type = replace(node.type, scale=GOOD.types[node.inputs[0]].scale + bits)
    refused_at(with_node(GOOD, index, attributes={"bits": bits}, type=type), index, "scale")


# Constants.


@pytest.mark.parametrize(
    "changes",
    [
        {"data": b"1234567"},
        {"data": b""},
        {"data": np.array([1, 2, 3, 16], "<i8").tobytes()},
        {"data": np.array([1, 2, 3, -(2**63)], "<i8").tobytes()},
        {"bound": 2},
        {"bound": 63},
        {"bound": -1},
        {"bound": 2**62},
        {"bound": 2**70},
        {"shape": (2, 3)},
        {"shape": (-1, -4)},
        {"shape": (-4, -1)},
        {"data": "1234"},
        {"data": (1, 2, 3, 4)},
    ],
)
def test_constants(changes: dict[str, Any]) -> None:
    builder = Builder(party_names(2))
    publish(builder.constant([1, 2, 3, 4]))
    plan = builder.finish()
    node = plan.nodes[0]
    assert node.integer("bound") == 3
    if changes == {"data": np.array([1, 2, 3, 16], "<i8").tobytes()}:
        changes = {**changes, "bound": 4}  # 2^4 itself is not below 2^4
    attributes = {**node.attributes, **changes}
    bound = attributes["bound"] if isinstance(attributes["bound"], int) else 3
    refused_at(with_node(plan, 0, attributes=attributes, type=replace(node.type, bound=bound)), 0)


# Corruptions: whatever happens to a good plan, nothing but PlanError comes, and what passes is safe and can be run.


def assert_safe(plan: Plan) -> None:
    """What must hold of every plan that the checker accepts, said without the checker's own words."""
    declared = set(REVEALS)
    for node in plan.nodes:
        sources = [plan.types[source] for source in node.inputs]
        if isinstance(PROTOCOLS[node.operation], Exchange):
            masks = PROTOCOLS[node.operation].correlations(node, sources)
            assert node.operation in ("open", "open_bits", "input")
            assert len(masks) == 1
            assert not masks[0].corrected
            assert masks[0].owner == (node.integer("party") if node.operation == "input" else None)
            if node.operation == "open":
                assert sources[0].kind == Kind.SHARED
                assert masks[0].dtype == "int64"
                assert masks[0].shape == node.type.shape
            if node.operation == "open_bits":
                assert sources[0].kind == Kind.BITS
                assert masks[0].bytes == node.type.planes * ((node.type.elements + 7) // 8)
        if node.operation == "reveal":
            assert {(node.text("name"), receiver) for receiver in node.texts("receivers")} <= declared
        if node.type.kind == Kind.MASKED:
            assert node.operation in ("open", "input", "load") or Kind.MASKED in {type.kind for type in sources}
        if node.type.kind == Kind.MASKED_BITS:
            assert node.operation in ("open_bits", "load") or Kind.MASKED_BITS in {type.kind for type in sources}
    end = 0
    schedule = make_schedule(plan)
    for slot in correlations(schedule):
        assert slot.position >= end
        assert slot.position % BLOCK == 0
        end = slot.position + slot.correlation.bytes
    assert schedule.keystream >= end


def try_to_run(plan: Plan) -> bool:
    """Run a small accepted plan; errors of ours are fine (an index is out of range), others are not."""
    prepared = Prepared.of(plan)
    if cost_of_schedule(prepared.schedule).peak_memory > 1 << 24 or prepared.schedule.keystream > 1 << 24:
        return False
    arguments = {node.text("name"): np.zeros(node.type.shape, np.int64) for _, node in plan.with_operation("argument")}
    shape = plan.nodes[index_of("input", plan)].type.shape if plan.with_operation("input") else ()
    session = LocalSession(plan.parties, {name: lambda _: np.zeros(shape) for name in plan.parties})
    try:
        loads = {node.text("slot"): node.type for _, node in plan.with_operation("load")}
        stores = {node.text("slot"): f"new {node.text('slot')}" for _, node in plan.with_operation("store")}
        prepare_vaults(session, loads)
        session.execute(Execution(prepared, 0, {slot: slot for slot in loads}, stores, (arguments,)))
    except ParleyError:
        pass
    finally:
        session.close()
    return True


def test_the_good_plan_runs() -> None:
    assert_safe(GOOD)
    assert try_to_run(GOOD)


@thorough
@given(st.data())
def test_corrupted_nodes(data: st.DataObject) -> None:
    plan = data.draw(node_mutations(GOOD))
    try:
        check(plan, REVEALS)
        wire = plan_to_bytes(plan)
    except PlanError:
        return
    assert_safe(plan)
    assert plan_to_bytes(plan_from_bytes(wire)) == wire
    try_to_run(plan)


WIRE = plan_to_bytes(GOOD)


@thorough
@given(st.data())
def test_corrupted_bytes(data: st.DataObject) -> None:
    raw = bytearray(WIRE)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(("set", "delete", "insert", "copy"))):
            case "set":
                raw[position] = data.draw(st.integers(0, 255))
            case "delete":
                del raw[position : position + data.draw(st.integers(1, 4))]
            case "insert":
                raw[position:position] = data.draw(st.binary(min_size=1, max_size=4))
            case _:
                raw[position:position] = raw[position : position + data.draw(st.integers(1, 60))]
    try:
        plan = plan_from_bytes(bytes(raw))
        check(plan, REVEALS)
    except PlanError:
        return
    assert_safe(plan)
    try_to_run(plan)


@thorough
@given(
    st.sampled_from(sorted(PROTOCOLS)),
    st.lists(
        st.builds(
            Type,
            st.sampled_from(list(Kind)),
            st.lists(st.integers(0, 5) | st.sampled_from((2**40, 2**47)), max_size=4).map(tuple),
            st.integers(-62, 124),
            st.integers(0, 62),
            st.integers(1, 64),
            st.integers(1, 40),
        ),
        max_size=3,
    ),
    st.data(),
)
def test_any_attributes_on_any_inputs(operation: str, inputs: list[Type], data: st.DataObject) -> None:
    node = GOOD.nodes[index_of(operation)]
    arity = PROTOCOLS[operation].arity
    if arity is not None and len(inputs) < arity:
        return
    attributes = {
        name: data.draw(st.just(value) | attribute_values, label=name) for name, value in node.attributes.items()
    }
    try:
        result = infer_type(replace(node, attributes=attributes), inputs[:arity] if arity is not None else inputs)
        checker.check_type(result)
    except PlanError:
        return
    assert all(type(size) is int and size >= 0 for size in result.shape)
    assert 1 <= result.width <= 64
