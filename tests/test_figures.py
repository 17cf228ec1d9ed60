"""The counted figures of the README: rounds and bytes of one iteration, held exactly, and measured where it runs."""

from __future__ import annotations

import pytest

from benchmarks import workloads
from coordinator.jobfile import parse_job
from coordinator.recording import record
from parley.cluster import LocalBackend
from parley.plan.cost import Cost, cost
from parley.pytorch.recorder import Dataset

JOB = """
kind: train
name: figures
parties: [alice, bob, carol]
data: {train: {stack: [alice/train, bob/train, carol/train]}}
model: %s
train: {loss: cross_entropy, optimizer: {sgd: {lr: 0.1}}, epochs: 1, batch_size: 128, seed: 7}
reveal: {model: [alice]}
"""


def step_of(model: str) -> Cost:
    """The cost of one settled training iteration of a job on 60,000 images of 784 pixels."""
    job = parse_job(JOB % model)
    datasets = {}
    for party in job.parties:
        datasets[f"{party}/train_x"] = Dataset(party, "train_x", (20_000, 784), False, 1.0)
        datasets[f"{party}/train_y"] = Dataset(party, "train_y", (20_000, 10), False, 1.0, one_hot=True)
    steps = [stage for stage in record(job, datasets).stages if stage.name == "train"]
    return cost(max(steps, key=lambda stage: len(stage.arguments)).plan)


def test_an_iteration_of_softmax_regression() -> None:
    measured = step_of("{builtin: softmax_regression}")
    assert measured.rounds == 16
    assert measured.bytes_to_peers == (369_940,) * 3
    assert measured.rounds <= 20
    assert max(measured.bytes_to_peers) <= 600_000


def test_an_iteration_of_the_network() -> None:
    measured = step_of("{builtin: mlp, hidden: [128, 128]}")
    assert measured.rounds == 30
    assert measured.bytes_to_peers == (5_626_956,) * 3
    assert measured.rounds <= 36
    assert max(measured.bytes_to_peers) <= 6_000_000


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["softmax-train", "mlp-infer", "softmax", "argmax"])
def test_what_runs_is_what_the_report_says(name: str, parties: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "ROWS", 256)
    for case in ("softmax", "argmax"):
        small = workloads.Elementwise(workloads.ELEMENTWISE[case].operation, (50, 10))
        monkeypatch.setitem(workloads.ELEMENTWISE, case, small)
    backend = LocalBackend([f"party{k}" for k in range(parties)], {})
    workload = workloads.make(name, backend)
    expected = cost(workload.plan)
    before = [(s.rounds, s.bytes_to_peers, s.bytes_from_dealer) for s in backend.statistics]
    backend.execute(workload.plan, workload.loads, workload.stores, workload.arguments[:1], wait=True)
    after = [(s.rounds, s.bytes_to_peers, s.bytes_from_dealer) for s in backend.statistics]
    backend.close()
    for party, (old, new) in enumerate(zip(before, after, strict=True)):
        spent = tuple(n - o for n, o in zip(new, old, strict=True))
        assert spent == (expected.rounds, expected.bytes_to_peers[party], expected.bytes_from_dealer[party])


@pytest.mark.parametrize("name", workloads.NAMES)
def test_every_workload_can_be_measured(name: str) -> None:
    backend = LocalBackend(["alice", "bob"], {})
    assert cost(workloads.make(name, backend).plan).rounds >= 2
    backend.close()
