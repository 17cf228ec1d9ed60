"""Plan → plan, same meaning, cheaper: dead code, and openings no wider than their readers need.

Common subexpressions never arise (builder), and rescaling is late because functions insert it only where a product or
a kept value asks for it.
"""

from __future__ import annotations

from dataclasses import replace

from parley.errors import PlanError
from parley.plan.graph import Kind, Node, Plan, Type
from parley.protocols import infer_type

_SINKS = ("store", "reveal")


def optimise(plan: Plan) -> Plan:
    """All passes, in order."""
    return narrow_openings(remove_dead_code(plan))


def remove_dead_code(plan: Plan) -> Plan:
    """Keep what a store or a reveal needs, and nothing else."""
    alive = [node.operation in _SINKS for node in plan.nodes]
    for index in range(len(plan.nodes) - 1, -1, -1):
        if alive[index]:
            for source in plan.nodes[index].inputs:
                alive[source] = True
    if not any(alive):
        raise PlanError("the plan stores and reveals nothing")
    number: dict[int, int] = {}
    nodes: list[Node] = []
    for index, node in enumerate(plan.nodes):
        if alive[index]:
            number[index] = len(nodes)
            nodes.append(replace(node, inputs=tuple(number[source] for source in node.inputs)))
    return Plan(plan.parties, tuple(nodes), plan.name)


def narrow_openings(plan: Plan) -> Plan:
    """Open every value in as few bits as its readers need (protocols.md, section 10): fewer bytes, same result.

    Backward: how many low bits of each value are needed. A truncation or selection of a value below 2^bound needs
    bound + 2; a comparison the width that it was made for; a trigonometric polynomial its period; a product, and
    anything linear, as many as its result; what is kept or revealed, all 64.
    """
    needed = [0] * len(plan.nodes)
    for index in range(len(plan.nodes) - 1, -1, -1):
        node = plan.nodes[index]
        for position, source in enumerate(node.inputs):
            needed[source] = max(needed[source], _needed_of_input(node, plan.types[source], position, needed[index]))
    nodes: list[Node] = []
    types: list[Type] = []
    for index, node in enumerate(plan.nodes):
        if node.operation == "open":
            width = min(needed[index], node.integer("width"), types[node.inputs[0]].width)
            node = replace(node, attributes={**node.attributes, "width": max(width, 1)})
        node = replace(node, type=infer_type(node, [types[source] for source in node.inputs]))
        nodes.append(node)
        types.append(node.type)
    return Plan(plan.parties, tuple(nodes), plan.name)


def _needed_of_input(node: Node, source: Type, position: int, needed: int) -> int:
    if source.kind in (Kind.PUBLIC, Kind.BITS, Kind.MASKED_BITS):
        return 0
    match node.operation:
        case "truncate" | "select" if node.integer("bits"):
            return min(max(source.bound + 2, node.integer("bits") + 3), 64)
        case "narrow":
            return node.integer("width")
        case "words":  # the planes of its result were chosen for this width
            return source.width
        case "periodic":
            return node.integer("period_bits") + source.scale
        case "store" | "reveal":
            return 64
        case _:
            return needed
