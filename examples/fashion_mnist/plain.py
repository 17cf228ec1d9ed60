"""The same training in plain PyTorch on the pooled data: what the secure result is compared with.

    python -m examples.fashion_mnist.plain DIR [--job softmax.yaml]

reads what `prepare` wrote to DIR and prints the curve as one line of JSON. No party could run this: it pools the data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from coordinator.jobfile import Job, load_job
from coordinator.models import build_model
from parley.errors import InputError
from parley.pytorch.batches import batch_count, batch_rows
from party_node.datasets import DatasetStore

Array = npt.NDArray[Any]


@dataclass
class Curve:
    """Loss and accuracy on the test data after so many steps; one entry of each list a measurement."""

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def add(self, step: int, loss: float, accuracy: float) -> None:
        """One measurement; `accuracy` from 0 to 1."""
        self.steps.append(step)
        self.loss.append(loss)
        self.accuracy.append(accuracy)


@dataclass(frozen=True)
class Pooled:
    """All parties' rows, stacked in the order of the job: float32 (rows, features) and one-hot (rows, classes)."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def pool(folder: Path, job: Job) -> Pooled:
    """The data of `job` from the folder of `prepare`, read just as the parties read it."""
    stacked: dict[str, Array] = {}
    with tempfile.TemporaryDirectory(prefix="parley-plain-") as scratch:
        stores = {party: DatasetStore(Path(scratch) / party) for party in job.parties}
        for split, source in job.data.sources():
            references = [reference.split("/") for _, reference in source.references()]
            for party, dataset in references:
                stores[party].add(folder / party / f"{dataset}.yaml")
            for suffix in ("x", "y"):
                parts = [stores[party].load(f"{dataset}_{suffix}") for party, dataset in references]
                stacked[f"{split}_{suffix}"] = np.concatenate(parts)
    return Pooled(**stacked)


def plain_model(job: Job, data: Pooled, directory: Path | None = None) -> nn.Module:
    """The model with the initial weights that the secure training has as well."""
    return build_model(job, features=data.train_x.shape[1:], outputs=data.train_y.shape[1], directory=directory)


def train_plain(
    model: nn.Module, data: Pooled, batches: Iterable[npt.NDArray[np.int64]], job: Job, *, at: Collection[int]
) -> Curve:
    """Trains `model` in place on the rows that `batches` names, with the job's optimizer and cross-entropy.

    Measures before the first step, after each step that `at` names (from 1), and after the last.
    InputError for a loss without classes.
    """
    if job.train is None or job.train.loss != "cross_entropy":
        raise InputError(f"job `{job.name}`: the plain baseline trains with cross_entropy only")
    sgd = job.train.optimizer.sgd
    optimizer = torch.optim.SGD(
        model.parameters(), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay, nesterov=sgd.nesterov
    )
    train_x, train_y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    curve = Curve()
    curve.add(0, *measure(model, data))
    step = 0
    for step, rows in enumerate(batches, start=1):
        index = torch.from_numpy(rows)
        loss = F.cross_entropy(model(train_x[index]), train_y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in at:
            curve.add(step, *measure(model, data))
    if curve.steps[-1] != step:
        curve.add(step, *measure(model, data))
    return curve


def measure(model: nn.Module, data: Pooled) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the test data."""
    with torch.no_grad():
        logits = model(torch.from_numpy(data.test_x))
        test_y = torch.from_numpy(data.test_y)
        loss = F.cross_entropy(logits, test_y)
        correct = (logits.argmax(dim=1) == test_y.argmax(dim=1)).double().mean()
    return float(loss), float(correct)


def plain_curve(folder: Path, job_file: Path, measurements: int = 12) -> Curve:
    """The whole baseline of one job file, with so many `measurements` an epoch, one of them at its end."""
    job = load_job(job_file)
    if job.train is None:
        raise InputError(f"{job_file}: not a training job")
    data = pool(folder, job)
    options = job.train
    rows = len(data.train_x)
    batches = batch_rows(
        rows, options.batch_size, options.epochs, options.seed, shuffle=options.shuffle, drop_last=options.drop_last
    )
    steps = batch_count(rows, options.batch_size, 1, options.drop_last)
    at = {steps * part // measurements for part in range(1, measurements * options.epochs + 1)}
    return train_plain(plain_model(job, data, job_file.parent), data, batches, job, at=at)


def main() -> None:
    """The command line named above."""
    parser = argparse.ArgumentParser(description="Train the job in plain PyTorch on the pooled data.")
    parser.add_argument("folder", type=Path, help="what examples.fashion_mnist.prepare wrote")
    parser.add_argument("--job", default="softmax.yaml", help="job file in that folder")
    options = parser.parse_args()
    try:
        curve = plain_curve(options.folder, options.folder / options.job)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    print(json.dumps(asdict(curve)))


if __name__ == "__main__":
    main()
