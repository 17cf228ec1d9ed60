"""`parley demo` as a newcomer runs it, on a small part of small images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parent.parent
KEYS = [
    "secure_accuracy",
    "plain_accuracy",
    "train_seconds",
    "iterations",
    "iteration_ms",
    "rounds_per_iteration",
    "bytes_sent_per_party_per_iteration",
    "dealer_bytes_per_iteration",
    "model_path",
]


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "coordinator.cli", "demo", "--digits", "--out", str(out), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_demo_trains_compares_and_leaves_nothing_running(tmp_path: Path) -> None:
    process = start(tmp_path, "--rows", "400", "--epochs", "2")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert list(found) == KEYS
    assert found["iterations"] == 8
    assert abs(found["secure_accuracy"] - found["plain_accuracy"]) <= 0.02
    assert found["rounds_per_iteration"] <= 20
    assert found["iteration_ms"] == pytest.approx(1000 * found["train_seconds"] / 8, abs=0.2)
    model = torch.nn.Linear(64, 10)
    model.load_state_dict(load_file(found["model_path"]))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1600, 720)
    assert all(node.pid() is None for node in LocalCluster(tmp_path / "cluster").nodes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_stops_what_it_has_started(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "--epochs", "80")
    assert process.stderr is not None
    while "RUNNING" not in (line := process.stderr.readline()):
        assert line, "it ended before the job ran"
    cluster = LocalCluster(tmp_path / "cluster")
    pids = [node.pid() for node in cluster.nodes]
    assert None not in pids
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert [node.pid() for node in cluster.nodes] == [None] * len(pids)
