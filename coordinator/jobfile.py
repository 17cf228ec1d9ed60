"""The job file: what is computed on whose data, and what is revealed to whom.

A job is checked completely before anything is sent: keys, types and ranges by the schema, and then whether its parts
fit each other. What this version does not carry out yet is part of the schema and refused by name, in `_not_yet`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from services.yamlfile import Path_, StrictModel, parse, problem, read_text

SUBMITTER = "submitter"
_RESERVED = frozenset({SUBMITTER, "coordinator", "dealer"})
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_REFERENCE = re.compile(r"([a-z0-9][a-z0-9_-]*)/([a-z0-9_-]+)")
_ENTRY = re.compile(r"[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > 64:
        raise ValueError("use at most 64 lower-case letters, digits, `_` and `-`, a letter or digit first")
    return value


def _reference(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        raise ValueError("write the party and its dataset as `party/dataset`, for example `alice/train`")
    return value


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


Name = Annotated[str, AfterValidator(_name)]
Reference = Annotated[str, AfterValidator(_reference)]
Receivers = list[str]


class DataSource(StrictModel):
    """Rows that a job reads. Exactly one way: `stack`, `join` (with `on`), or `features` and `labels`."""

    stack: Annotated[list[Reference], Field(min_length=1)] | None = None
    """More rows: the datasets one below the other, in this order."""
    join: Annotated[list[Reference], Field(min_length=2)] | None = None
    """More columns: rows of the same `on`. Not carried out yet."""
    on: str | None = None
    features: Reference | None = None
    """Features of one party with the labels of another. Not carried out yet."""
    labels: Reference | None = None

    def references(self) -> Iterator[tuple[Path_, str]]:
        """Every dataset that is read, with its path in this source."""
        for key in ("stack", "join"):
            for index, reference in enumerate(getattr(self, key) or ()):
                yield (key, index), reference
        for key in ("features", "labels"):
            if getattr(self, key) is not None:
                yield (key,), getattr(self, key)

    @model_validator(mode="after")
    def _one_way(self) -> DataSource:
        ways = [
            way
            for way, used in (
                ("stack", self.stack is not None),
                ("join", self.join is not None or self.on is not None),
                ("features and labels", self.features is not None or self.labels is not None),
            )
            if used
        ]
        if len(ways) != 1:
            raise problem((), f"needs one of `stack`, `join`, or `features` and `labels`; found {_listed(ways)}")
        if ways == ["join"] and (self.join is None or self.on is None):
            raise problem((), "a join needs both `join` and the column `on`")
        if ways == ["features and labels"] and (self.features is None or self.labels is None):
            raise problem((), "`features` and `labels` go together: add the other one")
        return self


class Data(StrictModel):
    """`train` and `test` for training and evaluation, `input` for prediction and aggregation."""

    train: DataSource | None = None
    test: DataSource | None = None
    input: DataSource | None = None

    def sources(self) -> Iterator[tuple[str, DataSource]]:
        """The sources that are given, by key."""
        for key in type(self).model_fields:
            if getattr(self, key) is not None:
                yield key, getattr(self, key)


class ModelChoice(StrictModel):
    """A built-in model, or a class of the submitter's own.

    `features` and `classes` (outputs, for `linear_regression`) are checked against the data where they are given, and
    taken from it where not. `hidden`: sizes of the layers between, for `mlp`. `args`: keywords for the class of
    `entry`.
    """

    builtin: Literal["softmax_regression", "logistic_regression", "linear_regression", "mlp"] | None = None
    features: int | None = Field(default=None, ge=1)
    classes: int | None = Field(default=None, ge=1)
    hidden: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
    entry: str | None = None
    args: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelChoice:
        if (self.builtin is None) == (self.entry is None):
            raise problem((), "needs either `builtin` or `entry`")
        if self.entry is not None:
            if not _ENTRY.fullmatch(self.entry):
                raise problem(("entry",), f"{self.entry!r}: write the file and the class as `models.py:Net`")
            for key in ("features", "classes", "hidden"):
                if getattr(self, key) is not None:
                    raise problem((key,), "is for built-in models: give it to your class in `args`")
            if not _is_finite(self.args):
                raise problem(("args",), "holds a number that is not finite")
            return self
        if self.args is not None:
            raise problem(("args",), "is for `entry`: a built-in takes `features`, `classes` and `hidden`")
        if (self.builtin == "mlp") != (self.hidden is not None):
            message = "is for mlp only: remove it" if self.hidden is not None else "is missing: an mlp needs it"
            raise problem(("hidden",), message)
        if self.builtin == "logistic_regression" and self.classes not in (None, 2):
            raise problem(("classes",), "logistic regression tells two classes apart: use softmax_regression for more")
        return self


class SGD(StrictModel):
    """Stochastic gradient descent, as `torch.optim.SGD`."""

    lr: float = Field(gt=0, le=1e4)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1e4)
    nesterov: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise problem(("nesterov",), "needs a momentum: add `momentum: 0.9`, or remove it")
        return self


class Optimizer(StrictModel):
    """One optimizer, by name."""

    sgd: SGD


class Train(StrictModel):
    """How a model is trained. The order of rows is `parley.pytorch.batches.batch_rows` of these numbers."""

    loss: Literal["cross_entropy", "mse", "bce_with_logits"]
    optimizer: Optimizer
    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the initial weights and of the order of rows; both are public."""
    shuffle: bool = True
    drop_last: bool = False


class Evaluate(StrictModel):
    """Computed on `data.test` after every epoch, or after the last one."""

    metrics: Annotated[list[Literal["accuracy", "loss"]], Field(min_length=1)]
    every: Literal["epoch", "end"] = "end"


class Aggregate(StrictModel):
    """Sums and means of columns over the rows of all parties. A column is named, or numbered from 0."""

    statistics: Annotated[list[Literal["sum", "mean"]], Field(min_length=1)]
    columns: Annotated[list[str | Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Reveal(StrictModel):
    """Who learns what: names of parties, or `submitter`. Nothing else leaves the parties."""

    model: Receivers = Field(default_factory=list)
    metrics: Receivers = Field(default_factory=list)
    predictions: Receivers = Field(default_factory=list)
    result: Receivers = Field(default_factory=list)

    def receivers(self) -> Iterator[tuple[str, list[str]]]:
        """What is revealed, with its receivers."""
        for key in type(self).model_fields:
            yield key, getattr(self, key)


class Checkpoint(StrictModel):
    """How often shares are written to disk at the parties, and how many of these states are kept."""

    every_steps: int = Field(ge=1)
    keep: int = Field(default=2, ge=1, le=1000)


class Precision(StrictModel):
    """Fixed point: a value v is kept as the integer nearest to v · 2^fraction_bits."""

    fraction_bits: int = Field(default=16, ge=10, le=24)


class Job(StrictModel):
    """A whole job; `load_job` reads one from a file."""

    kind: Literal["train", "evaluate", "predict", "aggregate"]
    name: Name
    parties: Annotated[list[Name], Field(min_length=2, max_length=64)]
    data: Data
    model: ModelChoice | None = None
    train: Train | None = None
    evaluate: Evaluate | None = None
    aggregate: Aggregate | None = None
    reveal: Reveal
    checkpoint: Checkpoint | None = None
    precision: Precision = Precision()

    def to_canonical_json(self) -> str:
        """The same text for the same job, however its file was written; for hashing."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(self.to_canonical_json().encode()).hexdigest()

    @model_validator(mode="after")
    def _consistent(self) -> Job:
        for check in (_check_parties, _check_kind, _not_yet, _check_reveal, _check_learning):
            for path, message in check(self):
                raise problem(path, message)
        return self


def load_job(path: Path) -> Job:
    """The job in the YAML file at `path`. InputError names every problem as `file:line: path.of.key: what to mend`."""
    return parse_job(read_text(path), str(path))


def parse_job(text: str, source: str = "job") -> Job:
    """`load_job` of a text; `source` is its name in messages."""
    return parse(text, source, Job)


Problems = Iterator[tuple[Path_, str]]


def _listed(names: list[str]) -> str:
    return " and ".join(f"`{name}`" for name in names) or "none"


def _check_parties(job: Job) -> Problems:
    for index, party in enumerate(job.parties):
        if party in _RESERVED:
            yield ("parties", index), f"`{party}` is the name of a role: call the party something else"
        if party in job.parties[:index]:
            yield ("parties", index), f"`{party}` is named twice: remove one"
    for key, source in job.data.sources():
        seen: set[str] = set()
        for path, reference in source.references():
            party = reference.split("/")[0]
            if party not in job.parties:
                yield ("data", key, *path), f"`{party}` is not among the parties: add it to `parties`"
            if reference in seen:
                yield ("data", key, *path), f"`{reference}` is here twice: its rows would count double; remove one"
            seen.add(reference)


_NEEDED = {
    "train": ("model", "train"),
    "evaluate": ("model", "evaluate"),
    "predict": ("model",),
    "aggregate": ("aggregate",),
}
_ALLOWED = {
    "train": ("model", "train", "evaluate", "checkpoint"),
    "evaluate": ("model", "evaluate"),
    "predict": ("model",),
    "aggregate": ("aggregate",),
}
_DATA = {"train": ("train",), "evaluate": ("test",), "predict": ("input",), "aggregate": ("input",)}
_REVEALS = {
    "train": ("model", "metrics"),
    "evaluate": ("metrics",),
    "predict": ("predictions",),
    "aggregate": ("result",),
}


def _check_kind(job: Job) -> Problems:
    for key in ("model", "train", "evaluate", "aggregate", "checkpoint"):
        given = getattr(job, key) is not None
        if given and key not in _ALLOWED[job.kind]:
            yield (key,), f"has no meaning in a job of kind {job.kind}: remove it"
        if not given and key in _NEEDED[job.kind]:
            yield (key,), f"is missing: a job of kind {job.kind} needs it"
    needed = [*_DATA[job.kind], *(["test"] if job.kind == "train" and job.evaluate is not None else [])]
    given_data = [key for key, _ in job.data.sources()]
    for key in needed:
        if key not in given_data:
            yield ("data", key), f"is missing: a job of kind {job.kind} reads it"
    for key in given_data:
        if key not in needed:
            hint = ": add `evaluate`, or remove it" if key == "test" else ": remove it"
            yield ("data", key), f"nothing in this job reads it{hint}"


def _not_yet(job: Job) -> Problems:
    """What the schema knows and this version does not carry out."""
    if job.kind in ("evaluate", "predict"):
        yield ("kind",), f"{job.kind} is not available yet: this version carries out train and aggregate"
    for key, source in job.data.sources():
        if source.join is not None:
            yield ("data", key, "join"), "a join of columns is not available yet: stack rows with `stack: [...]`"
        if source.features is not None:
            message = "features and labels of two parties are not available yet: stack rows with `stack: [...]`"
            yield ("data", key, "features"), message


def _check_reveal(job: Job) -> Problems:
    anyone = False
    for key, receivers in job.reveal.receivers():
        if receivers and key not in _REVEALS[job.kind]:
            may = _listed(list(_REVEALS[job.kind]))
            yield ("reveal", key), f"a job of kind {job.kind} has no such result: it may reveal {may}"
        for index, receiver in enumerate(receivers):
            anyone = True
            if receiver != SUBMITTER and receiver not in job.parties:
                known = ", ".join([*job.parties, SUBMITTER])
                yield ("reveal", key, index), f"`{receiver}` is not known here: receivers are {known}"
            if receiver in receivers[:index]:
                yield ("reveal", key, index), f"`{receiver}` is named twice: remove one"
    if not anyone:
        yield ("reveal",), "the job reveals nothing to anyone: name receivers"
    if job.kind == "train" and job.reveal.metrics and job.evaluate is None:
        yield ("reveal", "metrics"), "there are no metrics without `evaluate`: add it, or remove this"
    if job.evaluate is not None and not job.reveal.metrics:
        yield ("reveal", "metrics"), "is missing: `evaluate` computes metrics that no one would learn"


_LOSSES = {
    "softmax_regression": ("cross_entropy",),
    "logistic_regression": ("bce_with_logits",),
    "linear_regression": ("mse",),
}


def _check_learning(job: Job) -> Problems:
    if job.evaluate is not None and len(set(job.evaluate.metrics)) < len(job.evaluate.metrics):
        yield ("evaluate", "metrics"), "a metric is named twice: remove one"
    if job.aggregate is not None:
        for key, values in (("statistics", job.aggregate.statistics), ("columns", job.aggregate.columns)):
            if len(set(values)) < len(values):
                yield ("aggregate", key), "something is named twice: remove one"
    if job.train is None or job.model is None:
        return
    fitting = _LOSSES.get(job.model.builtin or "", (job.train.loss,))
    if job.train.loss not in fitting:
        yield ("train", "loss"), f"{job.model.builtin} is trained with {fitting[0]}, not with {job.train.loss}"
    if job.train.loss == "mse" and job.evaluate is not None and "accuracy" in job.evaluate.metrics:
        yield ("evaluate", "metrics"), "accuracy counts classes, and mse trains none: use `metrics: [loss]`"
