"""What is measured: plans by name, with the secret values that they need.

A workload is recorded once, on whichever backend it will run, and then executed many times.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import parley
from parley.functions import linear, neural, order, smooth
from parley.plan.builder import Builder, Precision, Value
from parley.plan.graph import Kind, Plan, Type
from parley.pytorch.recorder import Backend, Cell, Dataset, Integers, Result
from parley.ring import fixed

ROWS = 2048
"""Rows from which batches are drawn."""
BATCH = 128


@dataclass
class Workload:
    """A plan with its bindings; every repetition takes one of the sets of arguments in turn."""

    plan: Plan
    loads: dict[str, str]
    stores: dict[str, str]
    arguments: list[dict[str, Integers]]


Operation = Callable[..., Value]


@dataclass(frozen=True)
class Elementwise:
    """A function of one or two secret arrays of `shape`, drawn uniformly from [low, high]."""

    operation: Operation
    shape: tuple[int, ...]
    low: float = -8.0
    high: float = 8.0
    inputs: int = 1


ELEMENTWISE: dict[str, Elementwise] = {
    "relu": Elementwise(lambda x: order.relu(x)[0], (100_000,)),
    "compare": Elementwise(order.negative, (1_000_000,)),
    "mul": Elementwise(lambda x, y: linear.factor(linear.multiply(x, y)), (1_000_000,), inputs=2),
    "matmul": Elementwise(lambda x, y: linear.factor(linear.matmul(x, y)), (512, 512), inputs=2),
    "exp": Elementwise(smooth.exp, (100_000,), -11.5, 0.5),
    "sigmoid": Elementwise(smooth.sigmoid, (100_000,)),
    "tanh": Elementwise(smooth.tanh, (100_000,)),
    "log": Elementwise(smooth.log, (100_000,), 0.01, 1000.0),
    "reciprocal": Elementwise(smooth.reciprocal, (100_000,), 0.01, 1000.0),
    "sqrt": Elementwise(smooth.sqrt, (100_000,), 0.01, 1000.0),
    "softmax": Elementwise(lambda x: linear.factor(neural.softmax(x)), (10_000, 10)),
    "max": Elementwise(lambda x: order.max_last(x)[0], (10_000, 10)),
    "argmax": Elementwise(lambda x: order.index_of(order.argmax_bits(x)), (10_000, 10)),
}

LAYERS: dict[str, tuple[int, ...]] = {
    "softmax-train": (784, 10),
    "mlp-train": (784, 128, 128, 10),
    "mlp-infer": (784, 128, 128, 10),
}

NAMES: tuple[str, ...] = (*LAYERS, *ELEMENTWISE)


def make(name: str, backend: Backend, precision: Precision | None = None) -> Workload:
    """Put the workload's secret values at the parties and record its plan."""
    if name in LAYERS:
        return _network(name, backend, precision)
    return _elementwise(ELEMENTWISE[name], backend, precision)


def _elementwise(case: Elementwise, backend: Backend, precision: Precision | None) -> Workload:
    builder = Builder(backend.parties, precision)
    bits = builder.precision
    type = Type(Kind.SHARED, case.shape, bits.fraction_bits, bits.fraction_bits + bits.range_bits)
    generator = np.random.default_rng(0)
    loads, values = {}, []
    for number in range(case.inputs):
        slot = f"x{number}"
        drawn = generator.uniform(case.low, case.high, case.shape)
        backend.put(slot, type, fixed.encode(drawn, type.scale, type.bound))
        loads[slot] = slot
        values.append(
            builder.add("load", slot=slot, kind=int(type.kind), shape=type.shape, scale=type.scale, bound=type.bound)
        )
    builder.add("store", case.operation(*values), slot="y")
    return Workload(builder.finish(), loads, {"y": "y"}, [{}])


class _Capture:
    """A backend that remembers the last plan it was given, on its way to another."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.last: Workload | None = None

    @property
    def parties(self) -> tuple[str, ...]:
        return self._backend.parties

    def describe(self, name: str) -> Dataset:
        return self._backend.describe(name)

    def execute(
        self,
        plan: Plan,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[Mapping[str, Integers]],
        wait: bool,
    ) -> dict[str, Result]:
        self.last = Workload(plan, dict(loads), dict(stores), [dict(entry) for entry in arguments])
        return self._backend.execute(plan, loads, stores, arguments, wait)

    def put(self, handle: str, type: Type, values: Integers) -> None:
        self._backend.put(handle, type, values)

    def release(self, handles: Sequence[str]) -> None:
        """Nothing is released: the plan goes on using what it was recorded with."""

    def close(self) -> None:
        """The backend is its owner's."""


def _network(name: str, backend: Backend, precision: Precision | None) -> Workload:
    """One training iteration (forward, gradient, backward, update), or one forward pass, on a batch of rows."""
    capture = _Capture(backend)
    sizes = LAYERS[name]
    with torch.random.fork_rng(), parley.Cluster(capture, precision) as cluster:
        torch.manual_seed(0)
        x = cluster.secret(torch.rand(ROWS, sizes[0]), bound=1.0)
        y = cluster.secret(F.one_hot(torch.randint(0, sizes[-1], (ROWS,)), sizes[-1]).float(), one_hot=True)
        for tensor in (x, y):
            assert isinstance(tensor._storage, Cell)
            tensor._storage.open()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        model = cluster.private(nn.Sequential(*layers[:-1]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        cluster.flush()
        for _ in range(2):  # from the second on, the plan repeats
            index = torch.randperm(ROWS)[:BATCH]
            if name.endswith("infer"):
                with torch.no_grad():
                    scores = model(x[index])
                cluster.flush()
                del scores
                continue
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
            optimizer.zero_grad()
            cluster.flush()
        captured = capture.last
        assert captured is not None
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, ROWS, BATCH) for _ in range(16)]
    captured.arguments = [dict.fromkeys(captured.arguments[0], chosen) for chosen in rows]
    return captured
