"""Collects what PyTorch does to secret tensors in a plan, and runs it when a value is asked for.

A `Cell` is the storage of a secret tensor: what is known of its value now. A recorder belongs to one cluster; between
two flushes it has one builder. At a flush every cell that is still referred to is stored under a handle, every value
asked for is revealed, and the next builder starts with loads.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from parley.errors import InputError, ParleyError, UnsupportedOperation
from parley.functions import linear, order
from parley.plan.builder import Builder, Precision, Value
from parley.plan.checker import SUBMITTER
from parley.plan.graph import Kind, Node, Plan, Type
from parley.ring import fixed

Integers = npt.NDArray[np.int64]

REMEMBERED_PLANS = 32
"""Plans that a recorder, or a backend, recognises when they come again."""


@dataclass(frozen=True)
class Uniform:
    """A public tensor of one number throughout; it costs nothing until it meets a secret."""

    number: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not math.isfinite(self.number):
            raise InputError(f"a public number is {self.number}; secret arithmetic knows finite numbers only")


Content = Value | Uniform


@dataclass(frozen=True)
class Dataset:
    """What is public of a tensor that a party holds. `bound`: no absolute value exceeds it. `one_hot`: rows are
    one-hot."""

    party: str
    name: str
    shape: tuple[int, ...]
    integer: bool
    bound: float
    one_hot: bool = False


@dataclass(frozen=True)
class Result:
    """A revealed tensor: ring elements and their scale."""

    values: Integers
    scale: int

    def real(self) -> npt.NDArray[np.float64]:
        return fixed.decode(self.values, self.scale)


class Backend(Protocol):
    """What runs plans: roles in this process, or services behind a coordinator."""

    @property
    def parties(self) -> tuple[str, ...]: ...

    def describe(self, name: str) -> Dataset:
        """The dataset `party/name`. Raises NotFound."""

    def execute(
        self,
        plan: Plan,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[Mapping[str, Integers]],
        wait: bool,
    ) -> dict[str, Result]:
        """Run a plan once for every entry of `arguments`. With `wait`, return what the last one reveals to the
        submitter; else it may return before the plan has run."""

    def put(self, handle: str, type: Type, values: Integers) -> None:
        """Share the caller's ring elements among the parties."""

    def release(self, handles: Sequence[str]) -> None:
        """Forget values."""

    def close(self) -> None:
        """End the session."""


class Cell:
    """The value of a secret tensor, and of all its aliases.

    Exactly one holds: it is recorded in the current builder (`content`), or kept at the parties (`handle`).
    """

    def __init__(
        self,
        recorder: Recorder,
        content: Content | None,
        handle: str | None = None,
        type: Type | None = None,
    ) -> None:
        self.recorder = recorder
        self.integer = False
        """Whole numbers, kept without fractional bits."""
        self.state = False
        """Written in place, or a parameter: kept at the precision's scale under one handle, so that a loop repeats one
        plan."""
        self.total: float | None = None
        self._content, self._handle, self._type = content, handle, type
        self._epoch = recorder.epoch
        recorder.adopt(self)

    def read(self) -> Content:
        """The value in the current builder; a kept one is loaded."""
        if isinstance(self._content, Uniform):
            return self._content
        if self._content is None or self._epoch != self.recorder.epoch:
            assert self._handle is not None
            assert self._type is not None
            self._content = self.recorder.load(self._handle, self._type).with_total(self.total)
            self._epoch = self.recorder.epoch
        return self._content

    def write(self, content: Content) -> None:
        """Replace the value (an in-place operation)."""
        self._content, self._epoch, self.state = content, self.recorder.epoch, True
        self.total = content.total if isinstance(content, Value) else None

    def open(self) -> None:
        """Keep the value masked from now on: what is opened once need not be opened for every product it enters."""
        value = self.read()
        if isinstance(value, Value) and value.kind == Kind.SHARED and not self.state:
            self._content = linear.masked(value)
            self._drop_handle()

    @property
    def pending(self) -> bool:
        """Whether the value exists only in the current builder."""
        if not isinstance(self._content, Value) or self._epoch != self.recorder.epoch:
            return False
        return self._handle is None or not self.recorder.is_load(self._content, self._handle)

    def keep(self) -> tuple[Value, str]:
        """For a flush: the value to store, and the handle to store it under."""
        value = self._content
        assert isinstance(value, Value)
        self.total = value.total
        if value.kind == Kind.PUBLIC:
            value = linear.shared(value)
        precision = value.builder.precision
        if self.state and value.kind in (Kind.SHARED, Kind.MASKED):
            value = linear.shared(linear.with_scale(value, 0 if self.integer else precision.fraction_bits))
        if self._handle is None or not self.state:
            self._drop_handle()
            self._handle = self.recorder.new_handle()
        self._type = replace(value.type, width=64)
        if self.state and value.kind == Kind.SHARED:
            self._type = replace(self._type, bound=precision.fraction_bits + precision.range_bits)
        self._content = None
        return value, self._handle

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self.recorder.forget(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self._drop_handle()


@dataclass
class View:
    """A part or another arrangement of a cell: reads through, and writes through where that is possible."""

    base: Cell | View
    forward: Callable[[Content], Content]
    backward: Callable[[Value, Value], Value] | None
    """(the base's value, the view's new value) → the base's new value, both recorded."""
    name: str
    truth: bool
    """Whether the elements are truth values."""

    @property
    def recorder(self) -> Recorder:
        return self.base.recorder

    def read(self) -> Content:
        return self.forward(self.base.read())

    def write(self, content: Content) -> None:
        if self.backward is None:
            raise UnsupportedOperation(
                f"writing in place through {self.name} of a secret tensor; write to the tensor itself"
            )
        base = self.base.read()
        if isinstance(base, Uniform) and isinstance(content, Uniform):
            whole = math.prod(base.shape) == math.prod(content.shape)
            if whole or base.number == content.number:
                self.base.write(Uniform(content.number, base.shape))
                return
        base, content = (self.recorder.recorded(part, self.truth) for part in (base, content))
        self.base.write(self.backward(base, content))


Storage = Cell | View


@dataclass
class _Pending:
    """What one builder has collected besides its nodes."""

    loads: dict[str, str] = field(default_factory=dict)
    """Slot → handle."""
    values: dict[str, Value] = field(default_factory=dict)
    """Handle → its load."""
    arguments: dict[str, Integers] = field(default_factory=dict)
    notes: dict[tuple[str, int], Value] = field(default_factory=dict)


class Recorder:
    """Turns operations into plans for one backend."""

    def __init__(self, backend: Backend, precision: Precision | None = None) -> None:
        self.backend = backend
        self.precision = precision or Precision()
        self.epoch = 0
        self._cells: weakref.WeakSet[Cell] = weakref.WeakSet()
        self._handles = itertools.count()
        self._garbage: list[str] = []
        self._finished: list[tuple[list[Node], Plan]] = []
        """What was recorded lately, and the plan that became of it; the latest first."""
        self.metas: dict[object, Any] = {}
        """What PyTorch said of operations lately: their signature → shapes, strides and element types of results."""
        self._start()

    def _start(self) -> None:
        self.builder = Builder(self.backend.parties, self.precision)
        self._pending = _Pending()
        self.epoch += 1

    # Building blocks for cells and lowerings

    def adopt(self, cell: Cell) -> None:
        self._cells.add(cell)

    def new_handle(self) -> str:
        return f"t{next(self._handles)}"

    def forget(self, handle: str) -> None:
        """Release a handle with the next execution (also called when a cell dies)."""
        self._garbage.append(handle)

    def load(self, handle: str, type: Type) -> Value:
        known = self._pending.values.get(handle)
        if known is None:
            slot = f"in{len(self._pending.loads)}"
            known = self.builder.add(
                "load",
                slot=slot,
                kind=int(type.kind),
                shape=type.shape,
                scale=type.scale,
                bound=type.bound,
                planes=type.planes,
            )
            self._pending.loads[slot] = handle
            self._pending.values[handle] = known
        return known

    def is_load(self, value: Value, handle: str) -> bool:
        known = self._pending.values.get(handle)
        return known is not None and known.index == value.index

    def note(self, name: str, value: Value, fact: Value) -> None:
        """Remember something about a value until the next flush, for the backward pass."""
        self._pending.notes[name, value.index] = fact

    def noted(self, name: str, value: Value) -> Value | None:
        return self._pending.notes.get((name, value.index))

    def argument(self, values: Integers, bound: int, scale: int = 0) -> Value:
        """Public integers that may differ from one execution of the plan to the next."""
        name = f"arg{len(self._pending.arguments)}"
        self._pending.arguments[name] = np.ascontiguousarray(values, dtype=np.int64)
        return self.builder.add("argument", name=name, shape=values.shape, scale=scale, bound=bound)

    def public(self, values: npt.NDArray[np.generic]) -> Content:
        """A plain tensor that meets a secret one: a Uniform, or an argument of the plan."""
        if values.size and (values == values.flat[0]).all():
            return Uniform(float(values.flat[0]), values.shape)
        if values.dtype.kind == "b":
            return self.argument(values.astype(np.int64), 1)
        if values.dtype.kind in "iu":
            bound = 62 - 1 - self.precision.fraction_bits
            if values.size and max(abs(int(values.min())), abs(int(values.max()))) >= 1 << bound:
                raise InputError(f"a plain tensor that is used with secret ones has integers of 2^{bound} or more")
            return self.argument(values.astype(np.int64), bound)
        bound = self.precision.fraction_bits + self.precision.range_bits
        try:
            encoded = fixed.encode(values, self.precision.fraction_bits, bound)
        except InputError as error:
            raise InputError(f"a plain tensor that is used with secret ones: {error}") from None
        return self.argument(encoded, bound, self.precision.fraction_bits)

    # Sources

    def dataset(self, name: str) -> tuple[Cell, Dataset]:
        """The tensor that a party holds, put in (masked) with the next execution."""
        found = self.backend.describe(name)
        bits = self.precision
        if found.one_hot or found.integer:
            scale = 0
            bound = bound_bits(found.bound, 0)
        else:
            scale = bits.fraction_bits
            bound = bound_bits(found.bound, scale)
        if bound > max(scale, bits.fraction_bits) + bits.range_bits:
            raise InputError(
                f"dataset {name} declares values up to {found.bound:g}, beyond the range of ±2^{bits.range_bits}"
            )
        value = self.builder.add(
            "input",
            party=self.backend.parties.index(found.party),
            dataset=found.name,
            shape=found.shape,
            scale=scale,
            bound=bound,
        )
        return Cell(self, value.with_total(1.0 if found.one_hot else None)), found

    def secret(self, values: npt.NDArray[np.generic], one_hot: bool = False, magnitude: float | None = None) -> Cell:
        """The caller's tensor, shared among the parties. Public are, where given, that its rows are one-hot, and that
        no absolute value exceeds `magnitude`."""
        bits = self.precision
        if one_hot:
            if not (np.isin(values, (0, 1)).all() and values.ndim and (values.sum(-1) == 1).all()):
                raise InputError("a tensor declared one-hot has a row that is not")
            values = values.astype(np.int64)
        truth = values.dtype.kind == "b"
        if truth:
            values = values.astype(np.int64)
        scale = bits.fraction_bits if values.dtype.kind == "f" else 0
        bound = 1 if one_hot or truth else max(scale, bits.fraction_bits) + bits.range_bits
        if magnitude is not None:
            bound = min(bound, bound_bits(magnitude, scale))
        type = Type(Kind.SHARED, values.shape, scale, bound)
        handle = self.new_handle()
        self.backend.put(handle, type, fixed.encode(values, scale, bound))
        cell = Cell(self, None, handle, type)
        if truth:
            return Cell(self, order.logical_not(order.less_scalar(self.load(handle, type), 1)))
        cell.total = 1.0 if one_hot else None
        return cell

    # Running

    def reveal(
        self, contents: Sequence[tuple[str, Content]], receivers: Sequence[str], wait: bool | None = None
    ) -> dict[str, Result]:
        """Run what is recorded and reveal (name, value) pairs to the receivers; the submitter's are returned.

        `wait`: for the results; by default where the submitter is a receiver.
        """
        for receiver in receivers:
            if receiver not in (SUBMITTER, *self.backend.parties):
                raise InputError(
                    f"{receiver!r} is none of the parties {', '.join(self.backend.parties)}; nothing was revealed to it"
                )
        if not receivers:
            raise InputError("a reveal needs a receiver")
        for name, content in contents:
            value = self.materialise(content)
            self.builder.add("reveal", linear.shared(value), name=name, receivers=tuple(receivers))
        return self._run(wait=SUBMITTER in receivers if wait is None else wait)

    def materialise(self, content: Content) -> Value:
        """A ring value for any content: bits become 0 or 1, a uniform tensor a constant."""
        value = self.recorded(content, False)
        return order.to_ring(value) if value.kind == Kind.BITS else value

    def recorded(self, content: Content, truth: bool) -> Value:
        """A value for any content: what is uniform as a constant, of bits where it is truth values."""
        if isinstance(content, Value):
            return content
        return constant_bits(self.builder, content) if truth else constant(self.builder, content)

    def flush(self) -> None:
        """Run what is recorded, so that every secret tensor in use is kept at the parties."""
        self._run(wait=False)

    def _run(self, wait: bool) -> dict[str, Result]:
        stores: dict[str, str] = {}
        cells = sorted((cell for cell in self._cells if cell.pending), key=lambda cell: self._order(cell))
        kept: list[Cell] = []
        for cell in cells:
            value, handle = cell.keep()
            self.builder.add("store", value, slot=f"out{len(stores)}")
            stores[f"out{len(stores)}"] = handle
            kept.append(cell)
        results: dict[str, Result] = {}
        if any(node.operation in ("store", "reveal") for node in self.builder.nodes):
            plan = self._finish()
            slots = {node.text("slot") for _, node in plan.with_operation("load")}
            names = {node.text("name") for _, node in plan.with_operation("argument")}
            results = self.backend.execute(
                plan,
                {slot: handle for slot, handle in self._pending.loads.items() if slot in slots},
                stores,
                [{name: values for name, values in self._pending.arguments.items() if name in names}],
                wait,
            )
        garbage, self._garbage = self._garbage, []
        if garbage:
            self.backend.release(garbage)
        self._start()
        return results

    def _finish(self) -> Plan:
        """The finished plan; what a loop records again is not optimised again."""
        nodes = self.builder.nodes
        for position, (known, plan) in enumerate(self._finished):
            if len(known) == len(nodes) and known == nodes:
                self._finished.insert(0, self._finished.pop(position))
                return plan
        plan = self.builder.finish()
        self._finished.insert(0, (nodes, plan))
        del self._finished[REMEMBERED_PLANS:]
        return plan

    @staticmethod
    def _order(cell: Cell) -> int:
        content = cell.read()
        assert isinstance(content, Value)
        return content.index


def constant(builder: Builder, content: Uniform) -> Value:
    """A uniform tensor as a constant of a plan."""
    scale = 0 if content.number == int(content.number) else builder.precision.fraction_bits
    integer = round(content.number * 2.0**scale)
    if abs(integer) >= 1 << linear.RING_BITS:
        raise InputError(f"the public number {content.number:g} is beyond the fixed-point range")
    return linear.expand(builder.constant(integer, scale), content.shape)


def constant_bits(builder: Builder, content: Uniform) -> Value:
    """A uniform tensor as bits [number != 0]."""
    return builder.add("constant_bits", shape=content.shape, bit=int(bool(content.number)))


def bound_bits(magnitude: float, scale: int) -> int:
    """The least b such that every encoding of a value up to `magnitude` is below 2^b. Raises InputError."""
    if not 0 <= magnitude < 2.0 ** (62 - scale):
        raise InputError(f"{magnitude} is not a usable bound of absolute values")
    return max(math.ceil(math.ldexp(magnitude, scale)), 1).bit_length()


def require_recorder(recorders: Sequence[Recorder]) -> Recorder:
    """The one recorder of an operation's secret operands."""
    if any(recorder is not recorders[0] for recorder in recorders):
        raise ParleyError("tensors of two clusters are used in one operation")
    return recorders[0]
