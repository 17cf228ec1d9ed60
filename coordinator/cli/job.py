"""`parley job`: check, submit, follow, cancel, and take results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.errors import FAILED, OK, TimeLimit
from coordinator.cli.options import Cluster, Coordinator, Identity, JobId
from coordinator.cli.output import Format, FormatOption, moment, print_record, print_rows, say

if TYPE_CHECKING:
    from coordinator.client import CoordinatorClient
    from coordinator.submission import RecordedJob
    from services.protocol import coordinator_pb2

app = typer.Typer(no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The job file (YAML).")]
Out = Annotated[Path | None, typer.Option("--out", help="Directory for model.safetensors, metrics.json, result.json.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait; the job goes on after.", min=0.1)]


@app.command()
def validate(
    file: File,
    descriptions: Annotated[
        Path | None,
        typer.Option("--descriptions", help="What `parley data list --format json` has printed; no cluster is asked."),
    ] = None,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Check a job without running it: shapes, who learns what, rounds, bytes, multiply-adds and memory."""
    from coordinator.submission import ask_descriptions, forecast, read_descriptions, read_job, record_job

    job, text = read_job(file)
    if descriptions is not None:
        datasets = read_descriptions(descriptions)
    else:
        with _client(coordinator, identity, cluster) as client:
            datasets = ask_descriptions(client, job)
    found = forecast(record_job(file, datasets, job, text), datasets)
    if format is not Format.table:
        print_record(found, format)
        return
    print(f"{file} is valid: {found['kind']} job {found['job']} among {', '.join(found['parties'])}")
    print("\nreads")
    print_rows(found["reads"], ["for", "dataset", "shape"], format)
    if found["model"]:
        print("\nmodel")
        print_rows(
            [{"parameter": key, "shape": value} for key, value in found["model"].items()],
            ["parameter", "shape"],
            format,
        )
    print("\nreveals, and nothing else")
    print_rows(_grouped(found["reveals"]), ["name", "shape", "to"], format)
    print("\ncosts (bytes that a party sends to all others; that the dealer sends to all)")
    columns = ["stage", "repetitions", "rounds", "bytes_sent_per_party", "dealer_bytes", "multiply_adds", "peak_memory"]
    print_rows([*found["stages"], found["total"]], columns, format)


def _grouped(reveals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for a metric that is revealed at the end of every epoch."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in reveals:
        name, _, last = entry["name"].rpartition(".")
        shown = f"{name}.{{epoch}}" if entry["name"].startswith("metrics.") and last.isdigit() else entry["name"]
        rows.setdefault((shown, str(entry["to"])), {**entry, "name": shown})
    return list(rows.values())


@app.command()
def submit(
    file: File,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job and take its results.")] = False,
    out: Out = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key: the same key and job submit it once only.")
    ] = None,
    timeout: Timeout = None,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Record a job on this machine and queue it; with --wait follow it and write its results to --out."""
    from coordinator.results import check_writable, job_record
    from coordinator.submission import ask_descriptions, read_job, record_job

    job, text = read_job(file)
    if out is not None:
        check_writable(out)
    with _client(coordinator, identity, cluster) as client:
        recorded = record_job(file, ask_descriptions(client, job), job, text)
        queued = _submit(client, recorded, key)
        say(f"job {queued.id} ({queued.name}) is with the coordinator; `parley job watch {queued.id}` follows it")
        if wait or out is not None:
            _finish(client, queued.id, out, timeout, format)
        else:
            print_record(_shown(job_record(queued), format), format)


def _submit(client: CoordinatorClient, recorded: RecordedJob, key: str | None) -> coordinator_pb2.Job:
    from uuid import uuid4

    from coordinator.jobs import check_key, submission

    if key is not None:
        check_key(key)
    stages = recorded.recording.stages
    return client.submit(submission(recorded.text, stages, key or uuid4().hex, client.identity.bundle))


def _finish(client: CoordinatorClient, id: str, out: Path | None, timeout: float | None, format: Format) -> None:
    """Follow a job to its end, take its results, and end with its exit code."""
    from coordinator.progress import follow
    from coordinator.results import fetch_result, summary, write_result
    from parley.errors import NotFound
    from services.protocol import coordinator_pb2 as pb

    try:
        job = follow(client, id, timeout)
    except KeyboardInterrupt:
        say(f"\nno longer following; the job goes on: `parley job watch {id}`, `parley job cancel {id}`")
        raise typer.Exit(130) from None
    except TimeoutError as error:
        raise TimeLimit(f"{error}; it goes on: `parley job watch {id}`") from error
    result, files = None, {}
    if job.state == pb.SUCCEEDED:
        try:
            result = fetch_result(client, id)
        except NotFound as nothing:
            say(str(nothing))
        if result is not None and out is not None:
            files = write_result(result, out)
            say("wrote " + ", ".join(files.values()))
        elif result is not None:
            say(f"`parley job result {id} --out DIR` writes what it reveals to you")
    print_record(_shown(summary(result, job, files), format), format)
    _exit(job)


def _exit(job: coordinator_pb2.Job) -> None:
    from coordinator.cli.errors import one_line
    from coordinator.jobs import state_name
    from services.protocol import coordinator_pb2 as pb

    if job.state == pb.SUCCEEDED:
        raise typer.Exit(OK)
    where = f", {job.node}" if job.node else ""
    say(f"error: JOB {state_name(job.state)} ({FAILED}){where}: {one_line(job.reason)}; see `parley job show {job.id}`")
    raise typer.Exit(FAILED)


@app.command("list")
def list_(
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only jobs in this state; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.", min=1, max=1000)] = 50,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """List your jobs, the newest first."""
    from coordinator.results import job_record

    states = [_state(name) for name in state or []]
    with _client(coordinator, identity, cluster) as client:
        rows = [job_record(job) for job in client.jobs(states, limit)]
    if format is Format.table:
        for row in rows:
            row["submitted"] = moment(row["submitted_at"])
    print_rows(rows, ["id", "name", "state", "submitted", "node", "reason"], format)


def _state(name: str) -> Any:
    from parley.errors import InputError
    from services.protocol import coordinator_pb2 as pb

    if name.upper() not in pb.JobState.keys()[1:]:
        raise InputError(f"--state {name}: there is none of that name; use {', '.join(pb.JobState.keys()[1:])}")
    return pb.JobState.Value(name.upper())


@app.command()
def show(
    job: JobId,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Show a job: its state and why, its progress, and its file."""
    from coordinator.results import job_record

    with _client(coordinator, identity, cluster) as client:
        found = client.job(job)
    record = job_record(found)
    if format is not Format.table:
        print_record(record | {"job_file": found.job_file}, format)
        return
    progress = record.pop("progress")
    print_record(_shown(record, format), format)
    print()
    columns = ["stage", "done", "total", "seconds", "rounds", "bytes_sent", "dealer_bytes", "wait_seconds"]
    print_rows(progress, columns, format)
    print(f"\n{found.job_file.rstrip()}")


@app.command()
def watch(
    job: JobId,
    out: Out = None,
    timeout: Timeout = None,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Follow a job to its end, and take its results; Ctrl-C leaves it running."""
    from coordinator.results import check_writable

    if out is not None:
        check_writable(out)
    with _client(coordinator, identity, cluster) as client:
        _finish(client, job, out, timeout, format)


@app.command()
def cancel(
    job: JobId,
    reason: Annotated[str, typer.Option(help="Why, for those who look at the job later.")] = "",
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Cancel a job that waits or runs; what the nodes hold of it is wiped."""
    from coordinator.jobs import ENDED
    from coordinator.results import job_record

    with _client(coordinator, identity, cluster) as client:
        found = client.cancel(job, reason)
        if found.state not in ENDED:  # it runs: the nodes end it at once, which takes a moment
            for found in client.watch(job, 15.0):
                if found.state in ENDED:
                    break
    print_record(_shown(job_record(found), format), format)


@app.command()
def result(
    job: JobId,
    out: Out = None,
    coordinator: Coordinator = None,
    identity: Identity = None,
    cluster: Cluster = None,
    format: FormatOption = Format.table,
) -> None:
    """Take what a job has revealed to you: metrics and aggregates to standard output, files to --out."""
    from coordinator.results import check_writable, fetch_result, summary, write_result

    if out is not None:
        check_writable(out)
    with _client(coordinator, identity, cluster) as client:
        found = fetch_result(client, job)
    files = write_result(found, out) if out is not None else {}
    print_record(_shown(summary(found, found.job, files), format), format)


def _client(coordinator: str | None, identity: Path | None, cluster: Path | None) -> CoordinatorClient:
    from coordinator.client import CoordinatorClient, find_coordinator

    return CoordinatorClient(find_coordinator(coordinator, identity, cluster))


def _shown(record: dict[str, Any], format: Format) -> dict[str, Any]:
    """The record; for people with times in words and without the progress, which has a table of its own."""
    if format is not Format.table:
        return record
    times = {key: moment(record[key] or 0) for key in ("submitted_at", "started_at", "ended_at")}
    return {key: value for key, value in (record | times).items() if key != "progress"}
