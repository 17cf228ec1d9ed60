"""What a job has revealed to its submitter: unsealed on the submitter's machine, put together, and written down.

DIR/model.safetensors    the results named `model.*`: float32, by the names of the model's `state_dict`
DIR/metrics.json         those named `metrics.*`: each at the end, and its history by epoch
DIR/result.json          those named `result.*`, of an aggregation
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.client import CoordinatorClient
from coordinator.jobfile import SUBMITTER
from coordinator.jobs import state_name
from parley.errors import InputError, NotFound, ParleyError, ProtocolError
from parley.ring import fixed
from services.identity import Identity
from services.protocol import coordinator_pb2 as pb
from services.values import open_part

MODEL, METRICS, RESULT = "model.safetensors", "metrics.json", "result.json"
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JobResult:
    """The values that a job has revealed to whoever asks, by the first word of their names."""

    job: pb.Job
    model: dict[str, Reals] = field(default_factory=dict)
    """By the names of the state_dict."""
    history: dict[str, dict[int, float]] = field(default_factory=dict)
    """Metric → epoch → value."""
    aggregate: dict[str, Reals] = field(default_factory=dict)
    """By statistic."""

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric as it was last."""
        return {name: values[max(values)] for name, values in self.history.items()}


def fetch_result(client: CoordinatorClient, id: str) -> JobResult:
    """The result of a job that has succeeded.

    Raises NotFound where there is no such job, or nothing for the caller; InputError where it has not succeeded.
    """
    message = client.result(id)
    if message.job.state != pb.SUCCEEDED:
        raise JobNotSuccessful(f"job {id} is {state_name(message.job.state)}{_reason(message.job)}: it has no result")
    result = open_result(message, client.identity)
    if not (result.model or result.history or result.aggregate):
        where = (
            "what it reveals to a party is on that party's own disk, below `results` in its data directory"
            if client.identity.role == "party"
            else "its `reveal` does not name the submitter"
        )
        raise NotFound(f"job {id} reveals nothing to you: {where}")
    return result


class JobNotSuccessful(ParleyError):
    """There is no result, since the job has failed, was cancelled, or is not yet done."""


def _reason(job: pb.Job) -> str:
    return f" ({job.reason})" if job.reason else ""


def open_result(message: pb.Result, identity: Identity) -> JobResult:
    """Unseal and add the parties' parts. Raises ProtocolError where one is missing, changed or there twice."""
    parties = frozenset(message.job.parties)
    groups: dict[tuple[int, str], dict[str, pb.ResultPart]] = {}
    for part in message.parts:
        if part.reveal.receiver != SUBMITTER:
            raise ProtocolError(f"the coordinator sent a part for {part.reveal.receiver!r}, who is not asking")
        group = groups.setdefault((part.reveal.execution, part.reveal.name), {})
        if part.party in group or part.party not in parties:
            raise ProtocolError(f"the coordinator sent a part of {part.reveal.name!r} that is none ({part.party!r})")
        group[part.party] = part
    result = JobResult(message.job)
    for (_, name), group in sorted(groups.items()):
        if set(group) != parties:
            missing = ", ".join(sorted(parties - set(group)))
            raise ProtocolError(f"the coordinator did not send the part that {missing} has of {name!r}")
        _place(result, name, _together(list(group.values()), identity))
    return result


def _together(parts: Sequence[pb.ResultPart], identity: Identity) -> Reals:
    """The sum of the parts, as reals."""
    first = parts[0].reveal
    total = np.zeros(tuple(first.shape), dtype=np.int64)
    for part in parts:
        if (list(part.reveal.shape), part.reveal.scale) != (list(first.shape), first.scale):
            raise ProtocolError(f"the parties' parts of {first.name!r} are of different shapes or scales")
        with np.errstate(over="ignore"):
            total = total + open_part(identity.sealing_private_key, part.session, part.party, part.reveal)
    return fixed.decode(total, first.scale)


def _place(result: JobResult, name: str, values: Reals) -> None:
    kind, _, rest = name.partition(".")
    if kind == "model":
        result.model[rest] = values
    elif kind == "metrics":
        metric, _, epoch = rest.rpartition(".")
        result.history.setdefault(metric, {})[int(epoch)] = float(values)
    elif kind == "result":
        result.aggregate[rest] = values


# ---- files --------------------------------------------------------------------------------------------------------


def write_result(result: JobResult, directory: Path) -> dict[str, str]:
    """Write what there is to `directory`, each file whole or not at all; returns the paths by what they hold."""
    _make(directory)
    written = {}
    if result.model:
        write_model(result, directory / MODEL)
        written["model"] = str(directory / MODEL)
    if result.history:
        content = {"metrics": result.metrics, "history": _history(result)}
        _replace(directory / METRICS, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))
        written["metrics"] = str(directory / METRICS)
    if result.aggregate:
        values = {name: value.tolist() for name, value in result.aggregate.items()}
        _replace(directory / RESULT, lambda path: path.write_text(json.dumps(values, indent=2) + "\n"))
        written["result"] = str(directory / RESULT)
    return written


def write_model(result: JobResult, path: Path) -> dict[str, list[int]]:
    """Write the model as safetensors; returns the shapes by name. Raises NotFound where it was not revealed."""
    from safetensors.numpy import save_file

    if not result.model:
        raise NotFound(f"job {result.job.id} does not reveal its model to you: `reveal.model` names who learns it")
    tensors = {name: np.asarray(value, dtype=np.float32, order="C") for name, value in result.model.items()}
    _make(path.parent)
    _replace(path, lambda temporary: save_file(tensors, str(temporary), metadata={"format": "pt"}))
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _history(result: JobResult) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{"epoch": epoch, "value": values[epoch]} for epoch in sorted(values)]
        for name, values in result.history.items()
    }


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made ({error.strerror}): name another directory") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(directory: Path) -> None:
    """Raise InputError where results could not be written there: better said before a job than after it."""
    _make(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(f"{directory} cannot be written to: name another directory")


def summary(result: JobResult | None, job: pb.Job, files: dict[str, str]) -> dict[str, Any]:
    """What the command line says at the end of a job, as plain values."""
    record: dict[str, Any] = job_record(job)
    if result is not None:
        record["metrics"] = result.metrics
        record["result"] = {name: value.tolist() for name, value in result.aggregate.items()}
    record["files"] = files
    return record


def job_record(job: pb.Job) -> dict[str, Any]:
    """A job as plain values."""
    return {
        "id": job.id,
        "name": job.name,
        "state": state_name(job.state),
        "reason": job.reason,
        "node": job.node,
        "submitter": job.submitter,
        "parties": list(job.parties),
        "attempt": job.attempt,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at or None,
        "ended_at": job.ended_at or None,
        "progress": [
            {
                "stage": entry.stage,
                "done": entry.done,
                "total": entry.total,
                "seconds": round(entry.seconds, 3),
                "rounds": entry.rounds,
                "bytes_sent": entry.bytes_sent,
                "dealer_bytes": entry.dealer_bytes,
                "wait_seconds": round(entry.wait_seconds, 3),
            }
            for entry in job.progress
        ],
    }
