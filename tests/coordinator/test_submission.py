"""What a coordinator refuses to queue, whatever a submitter sends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator import jobs
from coordinator.jobs import check_key, check_submission, plans_of, progress_of, request_digest, submission
from coordinator.recording import Stage
from coordinator.submission import read_job, record_job
from parley.errors import InputError
from parley.plan.graph import Plan
from parley.plan.wire import plan_to_bytes
from parley.pytorch.recorder import Dataset
from services.protocol import coordinator_pb2 as pb
from services.settings import LimitSettings

ROOT = Path(__file__).resolve().parent.parent.parent
JOB = ROOT / "deploy" / "compose" / "sample" / "softmax.yaml"
PARTIES = ["alice", "bob", "carol", "dave"]


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    datasets = {}
    for party in PARTIES[:3]:
        for split, rows in (("train", 128), ("test", 30)):
            datasets[f"{party}/{split}_x"] = Dataset(party, f"{split}_x", (rows, 16), False, 1.0)
            datasets[f"{party}/{split}_y"] = Dataset(party, f"{split}_y", (rows, 10), False, 1.0, one_hot=True)
    return record_job(JOB, datasets, *read_job(JOB)).recording.stages


@pytest.fixture
def request_(stages: list[Stage]) -> pb.SubmitJobRequest:
    return submission(JOB.read_text(), stages, "key", b"bundle")


def test_a_recorded_job_is_accepted(request_: pb.SubmitJobRequest) -> None:
    checked = check_submission(request_, PARTIES, LimitSettings())
    assert checked.job.name == "digits-softmax"
    done = {entry.stage: entry.total for entry in checked.progress}
    assert done["train"] == 9
    assert next(iter(done)) == "data train"
    assert checked.progress == progress_of(request_.stages)


def test_the_digest_is_that_of_the_work(request_: pb.SubmitJobRequest) -> None:
    same = pb.SubmitJobRequest.FromString(request_.SerializeToString())
    same.identity_bundle = b"renewed"
    assert request_digest(same) == request_digest(request_)
    same.stages[1].release.append("x")
    assert request_digest(same) != request_digest(request_)


def _stage(request: pb.SubmitJobRequest, name: str) -> pb.Stage:
    return next(stage for stage in request.stages if stage.name == name)


def _change_plan(stage: pb.Stage, stages: list[Stage], change: Callable[[Plan], Plan]) -> None:
    plan = next(each.plan for each in stages if each.name == stage.name)
    stage.plan = plan_to_bytes(change(plan))


def _without_stages(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    request.ClearField("stages")


def _damaged_plan(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    request.stages[0].plan = request.stages[0].plan[:-3]


def _other_parties(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    _change_plan(request.stages[0], stages, lambda plan: Plan(("alice", "bob", "dave"), plan.nodes))


def _other_receiver(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    def change(plan: Plan) -> Plan:
        nodes = [
            replace(node, attributes={**node.attributes, "receivers": ("bob",)}) if node.operation == "reveal" else node
            for node in plan.nodes
        ]
        return Plan(plan.parties, tuple(nodes))

    _change_plan(_stage(request, "reveal"), stages, change)


def _other_dataset(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    def change(plan: Plan) -> Plan:
        nodes = [
            replace(node, attributes={**node.attributes, "dataset": "secrets"}) if node.operation == "input" else node
            for node in plan.nodes
        ]
        return Plan(plan.parties, tuple(nodes))

    _change_plan(_stage(request, "data train"), stages, change)


def _no_reveal(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    kept = [stage for stage in request.stages if stage.name != "reveal"]
    request.ClearField("stages")
    request.stages.extend(kept)


def _unknown_handle(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    stage = _stage(request, "train")
    stage.load[min(stage.load)] = "nothing"


def _unbound(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    stage = _stage(request, "train")
    del stage.load[min(stage.load)]


def _wrong_rows(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    entry = _stage(request, "train").arguments[0].values
    entry[min(entry)].values = b"12345678"


def _no_repetition(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    _stage(request, "train").ClearField("arguments")


def _no_name(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    request.stages[0].name = ""


def _released(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    request.stages[0].release.append("nothing")


def _no_job(request: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    request.job_file = "kind: train"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without_stages, "0 stages"),
        (_damaged_plan, "stage 1 (`data train`)"),
        (_other_parties, "is for the parties alice, bob, dave"),
        (_other_receiver, "reveals 'model.weight' to bob, which the job file does not"),
        (_other_dataset, "reads alice/secrets"),
        (_no_reveal, "reveal no model to alice"),
        (_unknown_handle, "'nothing'"),
        (_unbound, "binds"),
        (_wrong_rows, "8 bytes"),
        (_no_repetition, "at least one"),
        (_no_name, "needs a name"),
        (_released, "releases the handle 'nothing'"),
        (_no_job, "is missing"),
    ],
)
def test_what_is_refused(
    request_: pb.SubmitJobRequest,
    stages: list[Stage],
    change: Callable[[pb.SubmitJobRequest, list[Stage]], None],
    says: str,
) -> None:
    change(request_, stages)
    with pytest.raises(InputError, match=re.escape(says)):
        check_submission(request_, PARTIES, LimitSettings())


def test_limits_and_parties_of_the_coordinator(request_: pb.SubmitJobRequest) -> None:
    with pytest.raises(InputError, match="knows no carol"):
        check_submission(request_, ["alice", "bob"], LimitSettings())
    for limits, says in (
        (LimitSettings(parties=2), "limit of 2"),
        (LimitSettings(plan_nodes=3), "limit of 3"),
        (LimitSettings(plan_bytes=100), "limit of 100"),
        (LimitSettings(memory_bytes=1000), "bytes of memory"),
    ):
        with pytest.raises(InputError, match=says):
            check_submission(request_, PARTIES, limits)


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ä"])
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="idempotency key"):
        check_key(key)


def test_a_plan_travels_once(request_: pb.SubmitJobRequest, stages: list[Stage]) -> None:
    plans = plans_of(request_.stages)
    assert plans == [plan_to_bytes(stage.plan) for stage in stages]
    sent = [stage.plan for stage in request_.stages if stage.plan]
    assert len(sent) == len(set(sent)) < len(stages)
    request_.stages[-1].ClearField("plan")
    request_.stages[-1].plan_digest = b"another"
    with pytest.raises(InputError, match="no earlier stage"):
        plans_of(request_.stages)


def test_a_submission_that_is_too_large(stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAXIMUM_SUBMISSION_BYTES", 1_000_000)
    long = [replace(stage, arguments=stage.arguments * (2000 if stage.name == "train" else 1)) for stage in stages]
    with pytest.raises(InputError, match="fewer epochs"):
        submission(JOB.read_text(), long, "key", b"")
