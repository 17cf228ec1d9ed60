"""The life of jobs over real processes: a local cluster of four parties, driven by the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from coordinator.client import CoordinatorClient, find_coordinator
from coordinator.local_cluster import LocalCluster, load_authority
from examples.fashion_mnist.plain import plain_curve
from services.identity import issue
from services.protocol import coordinator_pb2 as pb

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
Run = Callable[..., Any]
Running = Any


def job_file(running: Running, tmp_path: Path, base: str = "softmax", **train: Any) -> Path:
    """A job of the first three parties, with other numbers of the training."""
    job = yaml.safe_load((running.jobs / f"{base}.yaml").read_text())
    job["parties"] = job["parties"][:3]
    for source in job["data"].values():
        source["stack"] = source["stack"][:3]
    job["reveal"]["metrics"] = [*job["parties"], "submitter"]
    job["train"].update(train)
    path = tmp_path / f"{base}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def submit_long(parley: Run, running: Running, tmp_path: Path) -> str:
    """A job that would take minutes, once it trains; its name."""
    file = job_file(running, tmp_path, "mlp", epochs=150, batch_size=60)
    file.write_text(file.read_text().replace("every: epoch", "every: end"))
    done = parley("job", "submit", file, *running.options, "--format", "json")
    assert done.code == 0, done
    id = str(done.record["id"])
    with CoordinatorClient(find_coordinator(cluster=running.cluster.directory)) as client:
        for job in client.watch(id, 60):
            if any(entry.stage == "train" and entry.done for entry in job.progress):
                break
            assert job.state in (pb.QUEUED, pb.SCHEDULED, pb.RUNNING), job
    return id


def test_a_job_trains_and_what_it_reveals_is_that_of_plain_pytorch(
    parley: Run, running: Running, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = parley(
        "job", "submit", running.jobs / "softmax.yaml", "--wait", "--out", out, *running.options, "--format", "json"
    )
    assert done.code == 0, done
    record = done.record
    assert record["state"] == "SUCCEEDED"
    plain = plain_curve(running.jobs, running.jobs / "softmax.yaml")
    assert abs(record["metrics"]["accuracy"] - plain.accuracy[-1]) <= 0.02
    assert abs(record["metrics"]["loss"] - plain.loss[-1]) <= 0.01
    train = next(entry for entry in record["progress"] if entry["stage"] == "train")
    assert train["done"] == train["total"] == 9
    assert 0 < train["rounds"] / train["done"] <= 20
    assert train["bytes_sent"] > 0
    assert train["dealer_bytes"] > 0
    assert train["seconds"] > 0
    model = load_file(out / "model.safetensors")
    assert {name: (value.shape, value.dtype) for name, value in model.items()} == {
        "weight": ((10, 64), np.dtype("float32")),
        "bias": ((10,), np.dtype("float32")),
    }
    history = json.loads((out / "metrics.json").read_text())["history"]
    assert [entry["epoch"] for entry in history["accuracy"]] == [0, 1, 2, 3]

    # The party that the job names has it too, and the others have not.
    id = record["id"]
    own = {party: running.cluster.node(party).directory / "data" / "results" / id for party in running.cluster.parties}
    assert np.allclose(load_file(own["alice"] / "model.safetensors")["weight"], model["weight"], atol=1e-6)
    assert not (own["bob"] / "model.safetensors").exists()
    assert (own["bob"] / "metrics.json").exists()

    # And it can be asked for again.
    shown = parley("job", "show", id, *running.options)
    assert "SUCCEEDED" in shown.out
    assert "digits-softmax" in shown.out
    assert id in parley("job", "list", "--state", "succeeded", *running.options).out
    again = parley("job", "result", id, "--out", tmp_path / "again", *running.options, "--format", "json")
    assert again.record["metrics"] == record["metrics"]
    exported = tmp_path / "models" / "model.safetensors"
    assert parley("model", "export", id, "--out", exported, *running.options).code == 0
    assert exported.read_bytes() == (out / "model.safetensors").read_bytes()
    watched = parley("job", "watch", id, *running.options, "--format", "json")
    assert (watched.code, watched.record["state"]) == (0, "SUCCEEDED")
    cancelled = parley("job", "cancel", id, *running.options)
    assert (cancelled.code, "ended already" in cancelled.error) == (6, True)


def test_a_small_network_with_relu(parley: Run, running: Running, tmp_path: Path) -> None:
    file = job_file(running, tmp_path, "mlp", epochs=1, batch_size=64)
    done = parley("job", "submit", file, "--wait", "--out", tmp_path / "out", *running.options, "--format", "json")
    assert done.code == 0, done
    plain = plain_curve(running.jobs, file)
    assert abs(done.record["metrics"]["loss"] - plain.loss[-1]) <= 0.02
    model = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: value.shape for name, value in model.items()} == {
        "0.weight": (128, 64),
        "0.bias": (128,),
        "2.weight": (128, 128),
        "2.bias": (128,),
        "4.weight": (10, 128),
        "4.bias": (10,),
    }
    train = next(entry for entry in done.record["progress"] if entry["stage"] == "train")
    assert train["rounds"] / train["done"] <= 36


def test_four_parties_learn_only_the_sum_of_their_numbers(parley: Run, running: Running, tmp_path: Path) -> None:
    job = {
        "kind": "aggregate",
        "name": "salaries",
        "parties": running.cluster.parties,
        "data": {"input": {"stack": [f"{party}/salary" for party in running.cluster.parties]}},
        "aggregate": {"statistics": ["sum", "mean"], "columns": [0]},
        "reveal": {"result": [*running.cluster.parties, "submitter"]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    out = tmp_path / "out"
    done = parley("job", "submit", tmp_path / "job.yaml", "--wait", "--out", out, *running.options, "--format", "json")
    assert done.code == 0, done
    assert done.record["result"]["sum"] == pytest.approx([11115.0], abs=1e-3)
    assert done.record["result"]["mean"] == pytest.approx([2778.75], abs=1e-3)
    assert json.loads((out / "result.json").read_text()) == done.record["result"]
    for party in running.cluster.parties:
        folder = running.cluster.node(party).directory / "data" / "results" / done.record["id"]
        assert np.load(folder / "result.sum.npy") == pytest.approx([11115.0], abs=1e-3)


def test_the_same_key_submits_a_job_once(parley: Run, running: Running, tmp_path: Path) -> None:
    file = job_file(running, tmp_path, epochs=1)
    command = ["job", "submit", file, "--key", "once", *running.options, "--format", "json"]
    first, second = parley(*command), parley(*command)
    assert first.code == second.code == 0
    assert first.record["id"] == second.record["id"]
    other = parley("job", "submit", job_file(running, tmp_path, epochs=2), *command[3:])
    assert (other.code, first.record["id"] in other.error) == (6, True), other
    assert parley("job", "watch", first.record["id"], *running.options).code == 0


def test_only_its_submitter_sees_a_job_and_only_receivers_its_result(
    parley: Run, running: Running, tmp_path: Path
) -> None:
    file = job_file(running, tmp_path, epochs=1)
    job = yaml.safe_load(file.read_text())
    job["reveal"] = {"model": ["alice"], "metrics": ["bob"]}
    file.write_text(yaml.safe_dump(job))
    done = parley("job", "submit", file, "--wait", "--out", tmp_path / "out", *running.options, "--format", "json")
    assert done.code == 0, done
    assert done.record["metrics"] == {} if "metrics" in done.record else True
    assert not list((tmp_path / "out").iterdir())
    id = done.record["id"]
    nothing = parley("job", "result", id, *running.options)
    assert (nothing.code, "does not name the submitter" in nothing.error) == (6, True)

    stranger = tmp_path / "stranger"
    issue(load_authority(running.cluster.directory), stranger, "submitter", "stranger")
    address = ["--coordinator", running.cluster.node("coordinator").address, "--identity", stranger]
    for command in ("show", "watch", "cancel", "result"):
        unseen = parley("job", command, id, *address)
        assert (unseen.code, "no job" in unseen.error) == (6, True), unseen
    assert parley("job", "list", *address, "--format", "json").out.strip() == "[]"

    dave, alice = (running.cluster.node(name).identity_directory for name in ("dave", "alice"))
    assert parley("job", "show", id, *address[:2], "--identity", dave).code == 6
    assert parley("job", "show", id, *address[:2], "--identity", alice).code == 0
    assert parley("job", "cancel", id, *address[:2], "--identity", alice).code == 4
    taken = parley("job", "result", id, *address[:2], "--identity", alice)
    assert (taken.code, "on that party's own disk" in taken.error) == (6, True), taken


def test_an_identity_of_another_authority_is_refused(parley: Run, running: Running, tmp_path: Path) -> None:
    assert parley("ca", "init", "--dir", tmp_path / "ca").code == 0
    options = ["--role", "submitter", "--name", "submitter", "--out", tmp_path / "me"]
    assert parley("ca", "issue", "--dir", tmp_path / "ca", *options).code == 0
    address = running.cluster.node("coordinator").address
    done = parley("job", "list", "--coordinator", address, "--identity", tmp_path / "me")
    assert done.code == 3, done
    assert "error: IDENTITY" in done.error or "error: UNREACHABLE" in done.error


def test_data_and_parties_that_are_unknown(parley: Run, running: Running, tmp_path: Path) -> None:
    text = job_file(running, tmp_path).read_text()
    before = parley("job", "list", *running.options, "--format", "json").out
    for old, new, says in (
        ("alice/train", "alice/trian", "alice/trian"),
        ("carol", "mallory", "mallory"),
    ):
        (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
        done = parley("job", "submit", tmp_path / "wrong.yaml", *running.options)
        assert (done.code, says in done.error) == (2, True), done
    done = parley("job", "show", "none", *running.options)
    assert (done.code, "no job 'none'" in done.error) == (6, True)
    assert parley("job", "list", *running.options, "--state", "lost").code == 2
    assert parley("job", "list", *running.options, "--format", "json").out == before


def test_a_running_job_is_cancelled_and_a_waiting_one_takes_its_place(
    parley: Run, running: Running, tmp_path: Path
) -> None:
    id = submit_long(parley, running, tmp_path)
    timed_out = parley("job", "watch", id, "--timeout", "1", *running.options)
    assert (timed_out.code, f"parley job watch {id}" in timed_out.error) == (5, True), timed_out
    early = parley("job", "result", id, *running.options)
    assert (early.code, "RUNNING" in early.error) == (1, True)
    waiting = parley(
        "job", "submit", job_file(running, tmp_path, epochs=1), *running.options, "--format", "json"
    ).record
    unwanted = parley(
        "job", "submit", job_file(running, tmp_path, epochs=1), *running.options, "--format", "json"
    ).record
    assert waiting["state"] == "QUEUED"
    dropped = parley("job", "cancel", unwanted["id"], *running.options, "--format", "json").record
    assert dropped["state"] == "CANCELLED"
    start = time.monotonic()
    done = parley("job", "cancel", id, "--reason", "enough", *running.options, "--format", "json")
    assert (done.code, done.record["state"]) == (0, "CANCELLED"), done
    assert done.record["reason"] == "cancelled by submitter submitter: enough"
    assert time.monotonic() - start < 10
    failed = parley("job", "watch", id, *running.options)
    assert (failed.code, "JOB CANCELLED (1)" in failed.error) == (1, True), failed
    assert parley("job", "watch", waiting["id"], *running.options).code == 0
    assert parley("job", "watch", unwanted["id"], *running.options).code == 1


def test_ctrl_c_leaves_the_job_running(parley: Run, running: Running, tmp_path: Path) -> None:
    id = submit_long(parley, running, tmp_path)
    command = [sys.executable, "-m", "coordinator.cli", "job", "watch", id, "--dir", str(running.cluster.directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "RUNNING" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), err
    assert "the job goes on" in err
    assert parley("job", "show", id, *running.options, "--format", "json").record["state"] == "RUNNING"
    assert parley("job", "cancel", id, *running.options).code == 0


def test_a_job_fails_with_the_name_of_the_party_that_was_killed(parley: Run, running: Running, tmp_path: Path) -> None:
    cluster: LocalCluster = running.cluster
    id = submit_long(parley, running, tmp_path)
    node = cluster.node("bob")
    ended = threading.Event()

    def kill() -> None:
        time.sleep(0.5)
        cluster.signal(node, signal.SIGKILL)
        ended.set()

    threading.Thread(target=kill).start()
    start = time.monotonic()
    done = parley("job", "watch", id, "--timeout", "60", *running.options, "--format", "json")
    assert ended.is_set()
    assert time.monotonic() - start < 20
    assert (done.code, done.record["state"], done.record["node"]) == (1, "FAILED", "party bob"), done
    assert "bob" in done.error
    state = parley("status", *running.options, "--format", "json")
    assert state.code == 3
    assert {row["node"]: row["state"] for row in json.loads(state.out)}["bob"] == "stopped"

    refused = parley("job", "submit", job_file(running, tmp_path, epochs=1), *running.options)
    assert (refused.code, "party bob" in refused.error) == (3, True), refused
    up = parley("up", *running.options)
    assert (up.code, "party bob: started" in up.err, "party alice: runs already" in up.err) == (0, True, True), up
    assert parley("status", *running.options).code == 0
    again = parley("job", "submit", job_file(running, tmp_path, epochs=1), "--wait", *running.options)
    assert again.code == 0, again


def test_a_coordinator_that_is_started_again_says_what_became_of_its_jobs(
    parley: Run, running: Running, tmp_path: Path
) -> None:
    cluster: LocalCluster = running.cluster
    id = submit_long(parley, running, tmp_path)
    waiting = parley(
        "job", "submit", job_file(running, tmp_path, epochs=1), *running.options, "--format", "json"
    ).record
    cluster.signal(cluster.node("coordinator"), signal.SIGKILL)
    done = parley("job", "list", *running.options)
    assert done.code == 3, done
    assert parley("up", *running.options).code == 0
    failed = parley("job", "watch", id, *running.options, "--format", "json")
    assert (failed.code, failed.record["state"], failed.record["node"]) == (1, "FAILED", "coordinator")
    assert "submit it again" in failed.record["reason"]
    assert parley("job", "watch", waiting["id"], *running.options).code == 0


def test_health_of_every_node(parley: Run, running: Running) -> None:
    for node in running.cluster.nodes:
        start = time.monotonic()
        done = parley("health", "--config", node.settings_path)
        assert (done.code, done.out) == (0, "serving\n"), done
        assert time.monotonic() - start < 2
