"""`parley demo`: images split among parties, trained on without sharing them, and compared with plain PyTorch.

Everything that a collaboration would do on several machines is done on this one: certificates, one process a node,
registered data, a job file, a sealed result. It needs a checkout, since the data and its plain baseline are an example
(`examples/fashion_mnist`) and not part of the installed package.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import yaml

from coordinator.client import CoordinatorClient, find_coordinator
from coordinator.jobfile import Job
from coordinator.jobs import state_name, submission
from coordinator.local_cluster import LocalCluster, Report
from coordinator.progress import follow
from coordinator.results import MODEL, JobResult, fetch_result, write_result
from coordinator.submission import RecordedJob, ask_descriptions, read_job, record_job
from parley.errors import InputError, ParleyError, ProtocolError
from party_node.datasets import DatasetStore
from services.protocol import coordinator_pb2 as pb
from services.settings import PartySettings, load_settings

CACHE = Path("data/fashion-mnist")
"""Where fetched images are kept from one demo to the next."""
AGREEMENT = 0.005
"""By how much the accuracy of the revealed model, computed in the clear, may differ from the secure evaluation."""


def run_demo(
    *, rows: int | None, epochs: int | None, parties: int, model: str, out: Path, digits: bool
) -> dict[str, Any]:
    """Run the demo and return its figures; model, metrics and curves are in `out`.

    `model`: `softmax` or `mlp`. Whatever happens, every process that was started is stopped.
    """
    examples = _examples()
    started = time.monotonic()
    out = out.resolve()
    folder = out / "data"
    if folder.exists():
        shutil.rmtree(folder)
    images = examples["source"].digits(lambda _: None) if digits else None
    source = examples["prepare"].prepare(folder, parties=parties, rows=rows, cache=CACHE, images=images, report=_say)
    job_file = folder / f"{model}.yaml"
    if epochs is not None:
        _set_epochs(job_file, epochs)
    with _cluster(out / "cluster", parties) as cluster:
        register(cluster, folder, ("train", "test"), _say)
        job, recorded, result = _train(cluster, job_file)
    files = write_result(result, out)
    _say("training plain PyTorch on the pooled data, in the same order")
    plain = examples["plain"].plain_curve(folder, job_file)
    secure_accuracy, plain_accuracy = result.metrics["accuracy"], plain.accuracy[-1]
    _check_model(examples["plain"], recorded, folder, job_file, out / MODEL, secure_accuracy)
    train = next(entry for entry in job.progress if entry.stage == "train")
    curves = out / "curves.png"
    _draw(examples, result, plain, curves, recorded.job, source)
    _say(f"test accuracy: secure {secure_accuracy:.2%}, plain PyTorch {plain_accuracy:.2%}")
    _say(
        f"{train.done} iterations in {train.seconds:.1f} s; wrote {files['model']}, {files['metrics']}, {curves}; "
        f"{time.monotonic() - started:.0f} s in all"
    )
    return {
        "secure_accuracy": round(secure_accuracy, 6),
        "plain_accuracy": round(plain_accuracy, 6),
        "train_seconds": round(train.seconds, 3),
        "iterations": train.done,
        "iteration_ms": round(1000 * train.seconds / train.done, 3),
        "rounds_per_iteration": round(train.rounds / train.done, 3),
        "bytes_sent_per_party_per_iteration": round(train.bytes_sent / train.done / parties),
        "dealer_bytes_per_iteration": round(train.dealer_bytes / train.done),
        "model_path": files["model"],
    }


def _examples() -> dict[str, ModuleType]:
    from importlib import import_module

    try:
        return {
            name: import_module(f"examples.fashion_mnist.{name}") for name in ("prepare", "source", "plain", "curves")
        }
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] == "examples":
            raise InputError(
                "the demo needs a checkout of Parley, whose directory `examples` is not part of the installed "
                "package: run `make demo` there"
            ) from error
        raise InputError(
            f"the demo needs the package {error.name}: pip install 'parley-mpc[demo]', or run `make demo` in a checkout"
        ) from error


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _set_epochs(job_file: Path, epochs: int) -> None:
    job = yaml.safe_load(job_file.read_text())
    job["train"]["epochs"] = epochs
    job_file.write_text(yaml.safe_dump(job, sort_keys=False, default_flow_style=None, width=110))


@contextlib.contextmanager
def _cluster(directory: Path, parties: int) -> Iterator[LocalCluster]:
    """A fresh cluster that is stopped at the end, also by Ctrl-C, an error or SIGTERM."""
    cluster = LocalCluster(directory)
    if cluster.exists:
        cluster.stop(_say)
    if directory.exists():
        shutil.rmtree(directory)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        cluster.make(parties, _say)
        cluster.start(_say)
        yield cluster
    finally:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            if cluster.exists:
                cluster.stop(_say)
        finally:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, before)


def _terminated(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def register(cluster: LocalCluster, folder: Path, names: Sequence[str], report: Report) -> None:
    """Each party registers its own `FOLDER/PARTY/NAME.yaml`, as `parley data add` does."""
    for party in cluster.parties:
        settings = load_settings(PartySettings, cluster.node(party).settings_path)
        store = DatasetStore(settings.data_directory / "datasets")
        for name in names:
            tensors = store.add(folder / party / f"{name}.yaml")
            report(f"party {party} registered {', '.join(f'{tensor.name} {tensor.shape}' for tensor in tensors)}")


def _train(cluster: LocalCluster, job_file: Path) -> tuple[pb.Job, RecordedJob, JobResult]:
    """Submit the job, follow it, and take the result."""
    with CoordinatorClient(find_coordinator(cluster=cluster.directory)) as client:
        job, text = read_job(job_file)
        recorded = record_job(job_file, ask_descriptions(client, job), job, text)
        request = submission(text, recorded.recording.stages, uuid4().hex, client.identity.bundle)
        queued = client.submit(request)
        ended = follow(client, queued.id)
        if ended.state != pb.SUCCEEDED:
            where = f" at {ended.node}" if ended.node else ""
            raise ParleyError(f"the job is {state_name(ended.state)}{where}: {ended.reason}")
        return ended, recorded, fetch_result(client, queued.id)


def _check_model(
    plain: ModuleType, recorded: RecordedJob, folder: Path, job_file: Path, path: Path, secure_accuracy: float
) -> None:
    """The revealed model works in plain PyTorch, and is as good there as the secure evaluation has said."""
    from safetensors.torch import load_file

    data = plain.pool(folder, recorded.job)
    model = plain.plain_model(recorded.job, data, job_file.parent)
    model.load_state_dict(load_file(path))
    _, accuracy = plain.measure(model, data)
    if abs(accuracy - secure_accuracy) > AGREEMENT:
        raise ProtocolError(
            f"the revealed model has an accuracy of {accuracy:.4f} in plain PyTorch, the secure evaluation said "
            f"{secure_accuracy:.4f}: please report this"
        )
    _say(f"the revealed model, loaded into plain PyTorch: {accuracy:.2%}, as the secure evaluation said")


def _draw(
    examples: dict[str, ModuleType], result: JobResult, plain: Any, path: Path, job: Job, source: dict[str, Any]
) -> None:
    assert job.train is not None
    per_epoch = examples["plain"].batch_count(source["train_rows"], job.train.batch_size, 1, job.train.drop_last)
    secure = examples["plain"].Curve()
    for epoch, accuracy in sorted(result.history["accuracy"].items()):
        secure.add(epoch * per_epoch, result.history["loss"][epoch], accuracy)
    title = f"{job.name}: {source['train_rows']} images of {len(job.parties)} parties"
    examples["curves"].draw_curves(secure, plain, path, title=title, steps_per_epoch=per_epoch)
