"""Which plans are legal. Every node of a session checks what it received itself, before anything runs; it trusts no
one.

A legal plan opens shared values under fresh masks only (there is no other operation that communicates, and a mask
belongs to a node and an execution, so that no plan can name one twice), and tells its receivers nothing but its
reveals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from parley.errors import PlanError
from parley.plan.graph import Kind, Node, Plan, Type
from parley.protocols import PROTOCOLS, infer_type
from parley.protocols.base import MAXIMAL_AXES

SUBMITTER = "submitter"
"""The receiver that is not a party: whoever runs the plan."""

MAXIMAL_NODES = 200_000
MAXIMAL_PARTIES = 64
MAXIMAL_BYTES = 1 << 34
"""Of one value at one party."""
MAXIMAL_RANDOMNESS = 1 << 38
"""Bytes of correlated randomness that one node consumes at one party: 16 times its largest value."""
MAXIMAL_TEXT = 4096

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def check(plan: Plan, reveals: Collection[tuple[str, str]] | None = None) -> None:
    """Raise PlanError, naming the node, unless the plan is legal.

    `reveals`: where given, the pairs (name of the result, receiver) that are allowed; any other is refused.
    """
    _check_parties(plan)
    if not 1 <= len(plan.nodes) <= MAXIMAL_NODES:
        raise PlanError(f"{len(plan.nodes)} nodes, allowed are 1 to {MAXIMAL_NODES}")
    names: set[tuple[str, str]] = set()
    for index, node in enumerate(plan.nodes):
        try:
            _check_node(plan, index, node)
            _check_name(plan, node, names, reveals)
        except PlanError as error:
            if error.node >= 0:
                raise
            raise PlanError(str(error).removeprefix("plan: "), index, node.line) from None


def _check_parties(plan: Plan) -> None:
    if not 2 <= len(plan.parties) <= MAXIMAL_PARTIES or len(set(plan.parties)) != len(plan.parties):
        raise PlanError(f"parties {plan.parties}: 2 to {MAXIMAL_PARTIES} distinct names are needed")
    for name in plan.parties:
        if not _NAME.fullmatch(name) or name == SUBMITTER:
            raise PlanError(f"{name!r} is not a name for a party")


def _check_node(plan: Plan, index: int, node: Node) -> None:
    if len(node.line) > MAXIMAL_TEXT:
        raise PlanError(f"the source line is longer than {MAXIMAL_TEXT} characters")
    for source in node.inputs:
        if not 0 <= source < index:
            raise PlanError(f"input {source} is not an earlier node")
    if node.operation not in PROTOCOLS:
        raise PlanError(f"unknown operation {node.operation!r}")
    inferred = infer_type(node, plan.input_types(node))
    if inferred != node.type:
        raise PlanError(f"{node.operation} gives {_describe(inferred)}, the plan says {_describe(node.type)}")
    check_type(inferred)
    randomness = sum(part.bytes for part in PROTOCOLS[node.operation].correlations(node, plan.input_types(node)))
    if randomness > MAXIMAL_RANDOMNESS:
        raise PlanError(f"correlated randomness of {randomness} bytes is over the limit of {MAXIMAL_RANDOMNESS}")


def check_type(type: Type) -> None:
    """Raise PlanError where a type is over the limits or may leave the ring."""
    if len(type.shape) > MAXIMAL_AXES:
        raise PlanError(f"{len(type.shape)} axes are over the limit of {MAXIMAL_AXES}")
    elements = math.prod(max(size, 1) for size in type.shape)  # the other axes of an empty array have a limit too
    if type.kind in (Kind.BITS, Kind.MASKED_BITS):
        size = (elements + 7) // 8 * type.planes
    else:
        size = elements * 8
        if type.bound > 62:
            raise PlanError(
                f"values up to 2^{type.bound} leave the ring of 64 bits; rescale before, or declare a bound"
            )
        if not -62 <= type.scale <= 124:
            raise PlanError(f"a scale of {type.scale} bits is of no use")
    if size > MAXIMAL_BYTES:
        raise PlanError(f"a value of {size} bytes is over the limit of {MAXIMAL_BYTES}")


def _check_name(
    plan: Plan, node: Node, names: set[tuple[str, str]], reveals: Collection[tuple[str, str]] | None
) -> None:
    field = {"load": "slot", "store": "slot", "argument": "name", "reveal": "name"}.get(node.operation)
    if field is not None:
        name = node.text(field)
        if not _NAME.fullmatch(name):
            raise PlanError(f"{name!r} is not a name")
        if (node.operation, name) in names:
            raise PlanError(f"there are two {node.operation} nodes named {name!r}")
        names.add((node.operation, name))
    if node.operation == "input":
        if not 0 <= node.integer("party") < len(plan.parties):
            raise PlanError(f"there is no party {node.integer('party')}")
        if not _NAME.fullmatch(node.text("dataset")):
            raise PlanError(f"{node.text('dataset')!r} is not the name of a dataset")
    if node.operation == "reveal":
        receivers = node.texts("receivers")
        if len(set(receivers)) != len(receivers):
            raise PlanError("a receiver is named twice")
        for receiver in receivers:
            if receiver not in (*plan.parties, SUBMITTER):
                raise PlanError(f"{receiver!r} is neither a party nor {SUBMITTER!r}")
            if reveals is not None and (node.text("name"), receiver) not in reveals:
                raise PlanError(f"revealing {node.text('name')!r} to {receiver!r} was not declared")


def _describe(type: Type) -> str:
    kind = f"{type.kind.name.lower()}{type.shape}"
    return f"{kind} scale {type.scale} bound {type.bound} width {type.width} planes {type.planes}"
