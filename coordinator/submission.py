"""From a job file to what is submitted, on the submitter's machine: descriptions of data, recorded stages, forecast."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.client import CoordinatorClient
from coordinator.jobfile import Job, parse_job
from coordinator.recording import Recording, Stage, record
from parley.errors import InputError, Unreachable
from parley.plan.cost import Cost, cost
from parley.plan.wire import plan_hash
from parley.pytorch.recorder import Dataset
from services.protocol import session_pb2
from services.yamlfile import read_text


@dataclass(frozen=True)
class RecordedJob:
    """A job with the stages that it will run."""

    job: Job
    text: str
    """The job file."""
    recording: Recording


def described(datasets: Iterable[session_pb2.Dataset]) -> list[dict[str, Any]]:
    """What parties say of their datasets, as plain values; `datasets_from` takes them."""
    return [
        {
            "name": entry.name,
            "dataset": entry.dataset,
            "shape": list(entry.shape),
            "kind": entry.kind,
            "dtype": entry.dtype,
            "classes": entry.classes or None,
            "bound": entry.bound,
            "columns": list(entry.columns) or None,
            "content_hash": entry.content_hash,
        }
        for entry in datasets
    ]


def datasets_from(rows: Iterable[Any], source: str) -> dict[str, Dataset]:
    """Descriptions for the recorder, by `party/tensor`; raises InputError where one is not usable."""
    found: dict[str, Dataset] = {}
    for row in rows:
        try:
            party, slash, name = str(row["name"]).partition("/")
            shape, kind, bound = tuple(int(size) for size in row["shape"]), str(row["kind"]), float(row["bound"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source}: {row!r} does not describe a dataset ({error!r})") from error
        if not slash or kind not in ("real", "integer", "one_hot") or any(size < 0 for size in shape):
            raise InputError(f"{source}: {row!r} does not describe a dataset of a party")
        found[f"{party}/{name}"] = Dataset(party, name, shape, kind == "integer", bound, kind == "one_hot")
    return found


def read_descriptions(path: Path) -> dict[str, Dataset]:
    """The descriptions in a file that `parley data list --format json` (or jsonl) has printed."""
    text = read_text(path)
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise InputError(f"{path}: not what `parley data list --format json` prints ({error})") from error
    return datasets_from(rows, str(path))


def ask_descriptions(client: CoordinatorClient, job: Job) -> dict[str, Dataset]:
    """What the parties say of their data now; raises Unreachable where one of the job's does not answer."""
    found = datasets_from(described(client.datasets()), "the coordinator")
    silent = set(job.parties) - {dataset.party for dataset in found.values()}
    if silent:
        for status in client.nodes():
            if status.node.name in silent and not status.reachable:
                raise Unreachable(f"the coordinator cannot ask party {status.node.name} for its data: {status.reason}")
    return found


def read_job(path: Path) -> tuple[Job, str]:
    """The job in a file, and its text; raises InputError."""
    text = read_text(path)
    return parse_job(text, str(path)), text


def check_datasets(job: Job, datasets: dict[str, Dataset]) -> None:
    """Raise InputError that names every dataset of the job that no party offers."""
    parts = ("_x", "_y") if job.kind in ("train", "evaluate") else ("",)
    missing = [
        f"data.{key}: {reference}{' (with labels)' if parts != ('',) else ''}"
        for key, source in job.data.sources()
        for _, reference in source.references()
        if not all(f"{reference}{part}" in datasets for part in parts)
    ]
    if missing:
        known = ", ".join(sorted(datasets)) or "none"
        raise InputError(
            f"no party offers {'; '.join(missing)}; offered are: {known}; a party registers with `parley data add`"
        )


def record_job(path: Path, datasets: dict[str, Dataset], job: Job, text: str) -> RecordedJob:
    """Record the job of a file; raises InputError, NotFound, UnsupportedOperation with what to mend."""
    check_datasets(job, datasets)
    return RecordedJob(job, text, record(job, datasets, path.parent))


# ---- the forecast -------------------------------------------------------------------------------------------------


def forecast(recorded: RecordedJob, datasets: dict[str, Dataset]) -> dict[str, Any]:
    """What the job reads, costs and tells to whom, before anything runs."""
    job, stages = recorded.job, recorded.recording.stages
    costs: dict[bytes, Cost] = {}
    rows: dict[str, dict[str, Any]] = {}
    for stage in stages:
        key = plan_hash(stage.plan)
        if key not in costs:
            costs[key] = cost(stage.plan)
        each, count = costs[key], len(stage.arguments)
        row = rows.setdefault(
            stage.name,
            {
                "stage": stage.name,
                "repetitions": 0,
                "rounds": 0,
                "bytes_sent_per_party": 0,
                "dealer_bytes": 0,
                "multiply_adds": 0,
                "peak_memory": 0,
            },
        )
        row["repetitions"] += count
        row["rounds"] += count * each.rounds
        row["bytes_sent_per_party"] += count * max(each.bytes_to_peers)
        row["dealer_bytes"] += count * sum(each.bytes_from_dealer)
        row["multiply_adds"] += count * each.multiply_adds
        row["peak_memory"] = max(row["peak_memory"], each.peak_memory)
    summed = ("repetitions", "rounds", "bytes_sent_per_party", "dealer_bytes", "multiply_adds")
    total: dict[str, Any] = {"stage": "total"} | {key: sum(row[key] for row in rows.values()) for key in summed}
    total["peak_memory"] = max((row["peak_memory"] for row in rows.values()), default=0)
    return {
        "job": job.name,
        "kind": job.kind,
        "parties": list(job.parties),
        "reads": _reads(job, datasets),
        "model": _model(recorded.recording),
        "reveals": _reveals(stages),
        "stages": list(rows.values()),
        "total": total,
        "plans": len(costs),
    }


def _reads(job: Job, datasets: dict[str, Dataset]) -> list[dict[str, Any]]:
    parts = ("_x", "_y") if job.kind in ("train", "evaluate") else ("",)
    return [
        {"for": key, "dataset": f"{reference}{part}", "shape": list(datasets[f"{reference}{part}"].shape)}
        for key, source in job.data.sources()
        for _, reference in source.references()
        for part in parts
    ]


def _model(recording: Recording) -> dict[str, list[int]]:
    if recording.model is None:
        return {}
    return {name: list(tensor.shape) for name, tensor in recording.model.state_dict().items()}


def _reveals(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Every value that leaves the parties, with its shape and receivers, once."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        for _, node in stage.plan.with_operation("reveal"):
            name = node.text("name")
            found.setdefault(
                name, {"name": name, "shape": list(node.type.shape), "to": sorted(node.texts("receivers"))}
            )
    return list(found.values())
