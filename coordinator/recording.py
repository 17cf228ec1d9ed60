"""A job, recorded: the plans that it will run, made on the submitter's machine from descriptions of the data alone.

The training loop is plain PyTorch on secret tensors, run against a backend that keeps the plans instead of running
them. A step whose plan and bindings equal those of the step before it (of the same batch size) is settled: from there
on only the rows change, and PyTorch is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from coordinator.jobfile import DataSource, Job
from coordinator.models import build_model
from parley.cluster import Cluster
from parley.errors import InputError, NotFound
from parley.plan.builder import Builder, Precision
from parley.plan.graph import Plan, Type
from parley.plan.wire import plan_hash
from parley.pytorch.batches import batch_rows
from parley.pytorch.metrics import correct
from parley.pytorch.module import mark_state
from parley.pytorch.recorder import Dataset, Integers, Result
from parley.pytorch.tensor import SecretTensor

EVALUATION_ROWS = 2000
"""Rows that are evaluated at once."""


@dataclass
class Stage:
    """One plan, to be run once for every entry of `arguments`."""

    name: str
    plan: Plan
    loads: dict[str, str]
    stores: dict[str, str]
    arguments: list[dict[str, Integers]]
    release: list[str] = field(default_factory=list)
    """Handles that nobody needs after the stage."""

    @cached_property
    def binding(self) -> tuple[bytes, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        """What two repetitions of one step have in common."""
        return plan_hash(self.plan), tuple(sorted(self.loads.items())), tuple(sorted(self.stores.items()))


class RecordingBackend:
    """Keeps what a cluster would run."""

    def __init__(self, parties: Sequence[str], datasets: Mapping[str, Dataset], precision: Precision) -> None:
        self.stages: list[Stage] = []
        self.stage = ""
        """Name that the next stages get."""
        self._parties, self._datasets, self._precision = tuple(parties), datasets, precision

    @property
    def parties(self) -> tuple[str, ...]:
        return self._parties

    def describe(self, name: str) -> Dataset:
        if name not in self._datasets:
            known = ", ".join(sorted(self._datasets)) or "none"
            raise NotFound(f"there is no dataset {name!r}; known are: {known}")
        return self._datasets[name]

    def execute(
        self,
        plan: Plan,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[Mapping[str, Integers]],
        wait: bool,
    ) -> dict[str, Result]:
        if wait:
            raise InputError("a value was asked for while the job was recorded; only declared reveals are possible")
        self.stages.append(Stage(self.stage, plan, dict(loads), dict(stores), [dict(entry) for entry in arguments]))
        return {}

    def put(self, handle: str, type: Type, values: Integers) -> None:
        """The initial weights are drawn from the job's seed, so they are public: they travel as an argument."""
        builder = Builder(self._parties, self._precision)
        given = builder.add("argument", name="values", shape=type.shape, scale=type.scale, bound=type.bound)
        builder.add("store", builder.add("share", given), slot="value")
        self.execute(builder.finish(), {}, {"value": handle}, [{"values": values}], False)

    def release(self, handles: Sequence[str]) -> None:
        if self.stages:
            self.stages[-1].release.extend(handles)

    def close(self) -> None:
        pass


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


@dataclass
class Recording:
    """The stages of a job, and the plain model whose parameters the reveals of kind `model.*` fill."""

    stages: list[Stage]
    model: nn.Module | None


def record(job: Job, datasets: Mapping[str, Dataset], directory: Path | None = None) -> Recording:
    """Record a job. `datasets`: descriptions by `party/tensor`; `directory`: of the job file, for a model of its own.

    Raises InputError, NotFound, UnsupportedOperation with what to mend.
    """
    precision = Precision(fraction_bits=job.precision.fraction_bits)
    backend = RecordingBackend(job.parties, datasets, precision)
    with Cluster(backend, precision) as cluster:
        recorder = _Recorder(job, backend, cluster, directory)
        if job.kind == "aggregate":
            recorder.aggregate()
            return Recording(backend.stages, None)
        return Recording(backend.stages, recorder.train())


class _Recorder:
    def __init__(self, job: Job, backend: RecordingBackend, cluster: Cluster, directory: Path | None) -> None:
        self._job, self._backend, self._cluster, self._directory = job, backend, cluster, directory
        self._reveals = 0

    def train(self) -> nn.Module:
        job = self._job
        assert job.train is not None
        assert job.data.train is not None
        x, y = self._load("train", job.data.train)
        test = self._load("test", job.data.test) if job.data.test is not None and job.evaluate is not None else None
        self._backend.stage = "model"
        plain = build_model(job, features=tuple(x.shape[1:]), outputs=_outputs(y), directory=self._directory)
        model = self._cluster.private(
            build_model(job, features=tuple(x.shape[1:]), outputs=_outputs(y), directory=self._directory)
        )
        settings = job.train.optimizer.sgd
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
        loss = LOSSES[job.train.loss]
        steps = _Steps(self._backend, self._cluster)
        per_epoch = list(
            batch_rows(x.shape[0], job.train.batch_size, 1, job.train.seed, job.train.shuffle, job.train.drop_last)
        )
        every_epoch = job.evaluate is not None and job.evaluate.every == "epoch" and test is not None
        order = batch_rows(
            x.shape[0], job.train.batch_size, job.train.epochs, job.train.seed, job.train.shuffle, job.train.drop_last
        )
        if every_epoch and test is not None:
            self._evaluate(model, loss, test, 0)
        for number, rows in enumerate(order):
            epoch, step = divmod(number, len(per_epoch))
            steps.run("train", rows, lambda index: _step(model, loss, optimizer, x[index], y[index]))
            if every_epoch and test is not None and step == len(per_epoch) - 1:
                self._evaluate(model, loss, test, epoch + 1)
        if test is not None and not every_epoch:
            self._evaluate(model, loss, test, job.train.epochs)
        self._reveal(
            [(f"model.{name}", tensor) for name, tensor in model.state_dict().items()], job.reveal.model, "reveal"
        )
        return plain

    def aggregate(self) -> None:
        job = self._job
        assert job.aggregate is not None
        assert job.data.input is not None
        tables: list[torch.Tensor] = [self._cluster.dataset(name) for _, name in job.data.input.references()]
        table = torch.cat(tables)
        del tables
        columns = [self._column(column, table) for column in job.aggregate.columns]
        chosen = table if not columns else table[:, torch.tensor(columns)] if table.ndim > 1 else table
        results = []
        for statistic in job.aggregate.statistics:
            value = chosen.sum(0) if statistic == "sum" else chosen.float().mean(0)
            results.append((f"result.{statistic}", value))
        del table, chosen, value
        self._reveal(results, job.reveal.result, "aggregate")

    def _column(self, column: str | int, table: torch.Tensor) -> int:
        if isinstance(column, str):
            raise InputError(
                f"aggregate.columns: {column!r}: give the position of the column, as the data's owner lists it"
            )
        width = table.shape[1] if table.ndim > 1 else 1
        if column >= width:
            raise InputError(f"aggregate.columns: there is no column {column}; the data has {width}")
        return column

    def _load(self, name: str, source: DataSource) -> tuple[SecretTensor, SecretTensor]:
        self._backend.stage = f"data {name}"
        references = [reference for _, reference in source.references()]
        parts: list[list[torch.Tensor]]
        parts = [[self._cluster.dataset(f"{reference}_{part}") for reference in references] for part in ("x", "y")]
        shapes = {tuple(tensor.shape[1:]) for tensor in parts[0]}
        if len(shapes) > 1:
            raise InputError(f"data.{name}: the parties' rows have different shapes: {sorted(shapes)}")
        x, y = (torch.cat(part) for part in parts)
        del parts
        self._cluster.flush()
        return x, y  # type: ignore[return-value]

    def _evaluate(
        self,
        model: nn.Module,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        test: tuple[SecretTensor, SecretTensor],
        epoch: int,
    ) -> None:
        """Add up the metrics over the test rows, and reveal the sums divided by their number."""
        assert self._job.evaluate is not None
        metrics = self._job.evaluate.metrics
        x, y = test
        rows = x.shape[0]
        self._backend.stage = "evaluate"
        totals: dict[str, torch.Tensor] = {name: self._total() for name in metrics}
        steps = _Steps(self._backend, self._cluster)

        def add(index: torch.Tensor) -> None:
            with torch.no_grad():
                scores, targets = model(x[index]), y[index]
                if "accuracy" in totals:
                    totals["accuracy"] += correct(scores, targets)
                if "loss" in totals:
                    totals["loss"] += loss(scores, targets) * (len(index) / rows)

        for start in range(0, rows, EVALUATION_ROWS):
            steps.run("evaluate", np.arange(start, min(start + EVALUATION_ROWS, rows)), add)
        if "accuracy" in totals:
            totals["accuracy"] /= rows
        named: list[tuple[str, torch.Tensor]] = [(f"metrics.{name}.{epoch}", total) for name, total in totals.items()]
        totals.clear()
        self._reveal(named, self._job.reveal.metrics, "evaluate")

    def _total(self) -> SecretTensor:
        """A secret zero that a loop adds to."""
        total = self._cluster.secret(torch.zeros(()))
        mark_state(total)
        return total

    def _reveal(self, named: list[tuple[str, torch.Tensor]], receivers: Sequence[str], stage: str) -> None:
        self._backend.stage = stage
        if not receivers:
            return
        recorder = self._cluster.recorder
        contents = [(name, tensor._storage.read()) for name, tensor in named if isinstance(tensor, SecretTensor)]
        named.clear()
        recorder.reveal(contents, receivers, wait=False)


def _outputs(y: torch.Tensor) -> int:
    return int(y.shape[1]) if y.ndim > 1 else 1


def _step(
    model: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    optimizer.zero_grad()
    loss(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


class _Steps:
    """Records a loop's steps until they repeat."""

    def __init__(self, backend: RecordingBackend, cluster: Cluster) -> None:
        self._backend, self._cluster = backend, cluster
        self._last: dict[int, Stage] = {}
        self._settled: dict[int, Stage] = {}

    def run(self, stage: str, rows: Integers, body: Callable[[torch.Tensor], None]) -> None:
        """One step on these rows: recorded, or, once settled, the last one again with other rows."""
        self._backend.stage = stage
        size = len(rows)
        if size in self._settled:
            self._repeat(self._settled[size], rows)
            return
        before = len(self._backend.stages)
        body(torch.from_numpy(rows))
        self._cluster.flush()
        made = self._backend.stages[before:]
        if len(made) == 1 and self._only_rows(made[0], rows):
            if size in self._last and self._last[size].binding == made[0].binding:
                self._settled[size] = made[0]
            self._last[size] = made[0]

    @staticmethod
    def _only_rows(stage: Stage, rows: Integers) -> bool:
        """Whether the rows are all that the step takes from outside."""
        return not stage.release and all(np.array_equal(value, rows) for value in stage.arguments[0].values())

    def _repeat(self, settled: Stage, rows: Integers) -> None:
        arguments = dict.fromkeys(settled.arguments[0], rows)
        last = self._backend.stages[-1]
        if last.binding == settled.binding and not last.release:
            last.arguments.append(arguments)
        else:
            self._backend.stages.append(Stage(settled.name, settled.plan, settled.loads, settled.stores, [arguments]))
