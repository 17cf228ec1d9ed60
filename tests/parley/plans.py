"""A plan with every operation in it, and ways to spoil plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from parley.errors import PlanError
from parley.functions import order
from parley.plan.builder import Builder
from parley.plan.graph import Kind, Node, Plan, Type
from parley.plan.schedule import Schedule
from parley.protocols import PROTOCOLS, infer_type
from parley.protocols.base import Masked
from parley.ring.kernels import packed_bytes
from parley.runtime.local import LocalSession
from tests.parley.harness import opened, party_names, secret


def every_operation(parties: int = 3) -> Plan:
    """All operations of the register, revealed to a party and to the submitter, small enough to be run."""
    b = Builder(party_names(parties))
    b.line = "train.py:7"
    x = secret(b, "x", (2, 3), 30, 16)
    w = b.add("load", slot="w", kind=int(Kind.MASKED), shape=(3, 4), scale=16, bound=20)
    data = b.add("input", party=1, dataset="rows", shape=(5, 3), scale=16, bound=24)
    rows = b.add("argument", name="rows", shape=(2,), scale=0, bound=10)
    batch = b.add("gather", data, rows, axis=0)
    logits = b.add("matmul", batch, w)
    bits = order.negative(logits)
    relu = order.select(order.logical_not(bits), logits)
    noise = b.add("random", distribution="normal", parameters=(0.0, 1.0), shape=(2, 4), scale=16, bound=24)
    total = b.add("add", relu, noise)
    scaled = b.add("multiply_public", total, b.constant([1, 2, 3, 4]))
    summed = b.add("sum", b.add("negate", scaled), axes=(0,))
    wave = b.add(
        "periodic",
        opened(summed),
        period_bits=4,
        constants=(0.5,),
        cosines=(1.0, 0.25),
        sines=(0.5, 0.0),
        share_bits=16,
        public_bits=16,
    )
    cut = b.add("truncate", opened(wave), bits=16)
    moved = b.add("transpose", b.add("expand", cut, shape=(3, 4)), axes=(1, 0))
    piece = b.add("slice", moved, starts=(3, 0), sizes=(2, 3), steps=(-2, 1))
    padded = b.add("pad", piece, before=(0, 0), after=(0, 1))
    joined = b.add("concatenate", padded, b.add("pad", x, before=(0, 1), after=(0, 0)), axis=0)
    spread = b.add("scatter_add", joined, b.constant([0, 2, 0, 1]), axis=0, size=3)
    square = b.add("multiply", opened(spread), opened(spread), bound=60)
    difference = b.add("subtract", b.add("rescale", spread, bits=16), square)
    flat = b.add("reshape", difference, shape=(12,))
    wide = b.add("matmul_public", x, b.constant(np.arange(6).reshape(3, 2), 0))
    narrow = b.add("narrow", opened(wide), width=50)
    thresholds = order.below(narrow, (0, 5))
    one_hot = order.argmax_bits(secret(b, "scores", (2, 4), 20, 16))
    both = b.add("join_planes", one_hot, b.add("constant_bits", shape=(2, 4), bit=1))
    stacked = b.add("stack_planes", order.open_bits(both))
    result = b.add("bit_to_ring", stacked)
    b.add("store", b.add("share", w), slot="w")
    b.add("store", order.to_ring(thresholds), slot="bits")
    b.add("reveal", flat, name="loss", receivers=("p0", "submitter"))
    b.add("reveal", result, name="classes", receivers=("p1",))
    plan = b.finish("everything")
    assert {node.operation for node in plan.nodes} == set(PROTOCOLS), set(PROTOCOLS) - {n.operation for n in plan.nodes}
    return plan


REVEALS = [("loss", "p0"), ("loss", "submitter"), ("classes", "p1")]

integers = st.one_of(
    st.sampled_from(
        (0, 1, -1, 2, 3, 16, 62, 63, 64, 65, 127, 2**31, 2**32, -(2**31), 2**48, 2**62, 2**63 - 1, -(2**63), 2**64)
    ),
    st.integers(-20, 80),
    st.integers(),
)
scalars = st.one_of(
    integers,
    st.floats(),
    st.sampled_from((math.nan, math.inf, -math.inf, 1e308, 5e-324, 10**400)),
    st.text(max_size=6),
    st.sampled_from(("p0", "submitter", "x", "w", "rows", "normal", "uniform", "bernoulli")),
    st.binary(max_size=40),
)
attribute_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5).map(tuple), max_leaves=12
) | st.lists(integers, max_size=5).map(tuple)


@st.composite
def node_mutations(draw: st.DrawFn, plan: Plan) -> Plan:
    """The plan with one to three nodes changed anywhere; types may be inferred anew, so that it looks right."""
    nodes: list[Node] = list(plan.nodes)
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(nodes) - 1))
        node = nodes[index]
        match draw(
            st.sampled_from(("operation", "inputs", "attribute", "attribute", "attribute", "remove", "type", "move"))
        ):
            case "operation":
                node = replace(node, operation=draw(st.sampled_from(sorted(PROTOCOLS)) | st.text(max_size=8)))
            case "inputs":
                size = draw(st.integers(0, 4))
                sources = st.integers(-1, len(nodes) + 1) | st.integers(0, max(index - 1, 0)) | st.just(2**40)
                node = replace(node, inputs=tuple(draw(st.lists(sources, min_size=size, max_size=size))))
            case "attribute":
                names = sorted(node.attributes) or ["bound"]
                name = draw(st.sampled_from(names) | st.sampled_from(("bound", "planes", "width")))
                node = replace(node, attributes={**node.attributes, name: draw(attribute_values)})
            case "remove" if node.attributes:
                name = draw(st.sampled_from(sorted(node.attributes)))
                node = replace(node, attributes={k: v for k, v in node.attributes.items() if k != name})
            case "type":
                field = draw(st.sampled_from(("kind", "shape", "scale", "bound", "width", "planes")))
                value: Any = draw(integers)
                if field == "kind":
                    value = draw(st.sampled_from(list(Kind)))
                if field == "shape":
                    value = tuple(draw(st.lists(st.integers(-1, 2**64), max_size=4)))
                node = replace(node, type=replace(node.type, **{field: value}))
            case "move":
                nodes.insert(draw(st.integers(0, len(nodes) - 1)), nodes.pop(index))
                continue
        nodes[index] = node
    if draw(st.booleans()):
        nodes = with_inferred_types(nodes)
    return Plan(plan.parties, tuple(nodes), plan.name)


def with_inferred_types(nodes: Sequence[Node]) -> list[Node]:
    """Every type as inferred, as far as there is one; PlanError is the only thing that may stop it."""
    result: list[Node] = []
    for index, node in enumerate(nodes):
        if all(0 <= source < index for source in node.inputs):
            try:
                node = replace(node, type=infer_type(node, [result[source].type for source in node.inputs]))
            except PlanError:
                pass
        result.append(node)
    return result


def layout(schedule: Schedule) -> str:
    """Everything that the roles must agree on, as text."""
    lines = [f"{schedule.keystream} {schedule.messages}"]
    for stage in schedule.stages:
        lines.append(f"stage {stage.message} {stage.dead}")
        for step in (*stage.local, *stage.exchange):
            lines.append(f"{step.index} {step.node.operation} {step.sizes}")
            lines += [f"  {slot.correlation} {slot.position} {slot.receiver}" for slot in step.slots]
    return "\n".join(lines)


def prepare_vaults(session: LocalSession, loads: Mapping[str, Type]) -> None:
    """Values of zero under every slot, shared or masked."""

    for slot, type in loads.items():
        packed = (type.planes, packed_bytes(type.elements))
        bits = type.kind in (Kind.BITS, Kind.MASKED_BITS)
        zero = np.zeros(packed if bits else type.shape, np.uint8 if bits else np.int64)
        masked = type.kind in (Kind.MASKED, Kind.MASKED_BITS)
        for runtime in session._runtimes:
            runtime.vault.put(slot, type, Masked(zero, zero) if masked else zero)
        assert session._dealer is not None
        session._dealer.vault.put(slot, type, zero if masked else None)
