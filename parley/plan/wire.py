"""A plan as bytes and back: protobuf by `protos/plan.proto`. Parsing trusts nothing but says nothing of legality: that
is the checker's."""

from __future__ import annotations

import hashlib

from google.protobuf.message import DecodeError

from parley.errors import PlanError
from parley.plan import plan_pb2 as pb
from parley.plan.graph import Attribute, Kind, Node, Plan, Type

VERSION = 1
MAXIMAL_BYTES = 64 << 20
MAXIMAL_DEPTH = 8


def plan_to_bytes(plan: Plan) -> bytes:
    """Raises PlanError where something in the plan has no place in the wire form (and so in no legal plan)."""
    message = pb.Plan(version=VERSION, name=plan.name, parties=plan.parties)
    for index, node in enumerate(plan.nodes):
        try:
            entry = message.nodes.add(
                operation=node.operation, inputs=node.inputs, line=node.line, type=type_to_message(node.type)
            )
            for name in sorted(node.attributes):
                _write(entry.attributes.add(name=name).value, node.attributes[name])
        except (TypeError, ValueError) as error:
            raise PlanError(f"cannot be written ({error})", index) from None
    return message.SerializeToString(deterministic=True)


def plan_from_bytes(data: bytes) -> Plan:
    """Raises PlanError where `data` is not a plan of this version."""
    if len(data) > MAXIMAL_BYTES:
        raise PlanError(f"a plan of {len(data)} bytes is over the limit of {MAXIMAL_BYTES}")
    message = pb.Plan()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise PlanError(f"these bytes are not a plan ({error})") from None
    if message.version != VERSION:
        raise PlanError(f"plan version {message.version} is not {VERSION}; run the same version of Parley on all nodes")
    nodes = []
    for index, entry in enumerate(message.nodes):
        try:
            attributes = {item.name: _read(item.value, 0) for item in entry.attributes}
            type = type_from_message(entry.type)
        except ValueError as error:
            raise PlanError(str(error), index, entry.line) from None
        if len(attributes) != len(entry.attributes):
            raise PlanError("an attribute is given twice", index, entry.line)
        nodes.append(Node(entry.operation, tuple(entry.inputs), type, attributes, entry.line))
    return Plan(tuple(message.parties), tuple(nodes), message.name)


def plan_hash(plan: Plan) -> bytes:
    """SHA-256 of the plan's bytes: equal plans have equal hashes, at whichever node."""
    return hashlib.sha256(plan_to_bytes(plan)).digest()


def type_to_message(type: Type) -> pb.Type:
    return pb.Type(
        kind=pb.Type.Kind.ValueType(int(type.kind)),
        shape=type.shape,
        scale=type.scale,
        bound=type.bound,
        width=type.width,
        planes=type.planes,
    )


def type_from_message(message: pb.Type) -> Type:
    """Raises ValueError where the kind is unknown."""
    return Type(Kind(message.kind), tuple(message.shape), message.scale, message.bound, message.width, message.planes)


def _write(item: pb.Item, value: Attribute) -> None:
    if isinstance(value, int):
        item.integer = value
    elif isinstance(value, float):
        item.real = value
    elif isinstance(value, str):
        item.text = value
    elif isinstance(value, bytes):
        item.data = value
    else:
        item.list.SetInParent()
        for entry in value:
            _write(item.list.items.add(), entry)


def _read(item: pb.Item, depth: int) -> Attribute:
    match item.WhichOneof("value"):
        case "integer":
            return item.integer
        case "real":
            return item.real
        case "text":
            return item.text
        case "data":
            return item.data
        case "list" if depth < MAXIMAL_DEPTH:
            return tuple(_read(entry, depth + 1) for entry in item.list.items)
        case "list":
            raise ValueError(f"an attribute is nested deeper than {MAXIMAL_DEPTH}")
        case _:
            raise ValueError("an attribute has no value")
