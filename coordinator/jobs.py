"""A job on its way: stages as messages, and what a coordinator checks before it queues one.

The checks here save time and give good messages; nothing rests on them. Every party and the dealer check each plan
again themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.jobfile import SUBMITTER, Job, parse_job
from parley.errors import InputError, ParleyError, PlanError
from parley.plan.cost import cost_of_schedule
from parley.plan.graph import Plan, Type
from parley.plan.wire import plan_from_bytes, plan_to_bytes
from parley.runtime.session import Execution, Prepared
from services.protocol import coordinator_pb2 as pb
from services.settings import LimitSettings
from services.values import arguments_from_message, arguments_to_message

if TYPE_CHECKING:
    from coordinator.recording import Stage

MAXIMUM_STAGES = 20_000
MAXIMUM_HANDLES = 4096
"""Values that a job keeps at once."""
MAXIMUM_SUBMISSION_BYTES = 256 << 20
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


# ---- stages as messages -------------------------------------------------------------------------------------------


def stage_to_message(stage: Stage) -> pb.Stage:
    """A recorded stage, to be submitted."""
    return pb.Stage(
        name=stage.name,
        plan=plan_to_bytes(stage.plan),
        load=stage.loads,
        store=stage.stores,
        arguments=[arguments_to_message(entry) for entry in stage.arguments],
        release=stage.release,
    )


def submission(job_file: str, stages: Sequence[Stage], key: str, bundle: bytes) -> pb.SubmitJobRequest:
    """What a submitter sends; raises InputError where it is more than one message may hold."""
    request = pb.SubmitJobRequest(job_file=job_file, idempotency_key=key, identity_bundle=bundle)
    digests: set[bytes] = set()
    for stage in stages:
        message = stage_to_message(stage)
        digest = hashlib.sha256(message.plan).digest()
        if digest in digests:
            message.ClearField("plan")
            message.plan_digest = digest
        digests.add(digest)
        request.stages.append(message)
    size = request.ByteSize()
    if size > MAXIMUM_SUBMISSION_BYTES:
        raise InputError(
            f"the recorded job has {size} bytes and {MAXIMUM_SUBMISSION_BYTES} may be submitted, most of them row "
            "numbers (8 bytes a row and epoch): use fewer epochs, or submit the rest as another job"
        )
    return request


ENDED: frozenset[pb.JobState.ValueType] = frozenset({pb.SUCCEEDED, pb.FAILED, pb.CANCELLED, pb.DENIED})
"""The states that a job does not leave."""


def state_name(state: pb.JobState.ValueType) -> str:
    """QUEUED, RUNNING, …"""
    return pb.JobState.Name(state)


# ---- what a coordinator checks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """A job that may be queued."""

    job: Job
    progress: list[pb.Progress]
    digest: bytes


def progress_of(stages: Iterable[pb.Stage]) -> list[pb.Progress]:
    """An entry for each name of a stage, in the order in which they come first, with nothing done yet."""
    totals: dict[str, int] = {}
    for stage in stages:
        totals[stage.name] = totals.get(stage.name, 0) + len(stage.arguments)
    return [pb.Progress(stage=name, total=total) for name, total in totals.items()]


def plans_of(stages: Iterable[pb.Stage]) -> list[bytes]:
    """The plan of every stage, those that are only named put in; raises InputError where one is not there."""
    known: dict[bytes, bytes] = {}
    plans = []
    for number, stage in enumerate(stages, start=1):
        if stage.plan:
            plan = known.setdefault(hashlib.sha256(stage.plan).digest(), stage.plan)
        elif stage.plan_digest in known:
            plan = known[stage.plan_digest]
        else:
            raise InputError(f"stage {number} (`{stage.name[:64]}`): it names a plan that no earlier stage has")
        plans.append(plan)
    return plans


def request_digest(request: pb.SubmitJobRequest) -> bytes:
    """What makes two submissions the same job; the bundle, which a renewed certificate changes, does not count."""
    digest = hashlib.sha256()
    for content in (request.job_file.encode(), *(_stage_bytes(stage) for stage in request.stages)):
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()


def _stage_bytes(stage: pb.Stage) -> bytes:
    return stage.SerializeToString(deterministic=True)


def check_key(key: str) -> None:
    """Raise InputError unless `key` can be an idempotency key."""
    if not _KEY.fullmatch(key):
        raise InputError("the idempotency key must be 1 to 128 letters, digits and `_.:-`")


def check_submission(request: pb.SubmitJobRequest, known_parties: Collection[str], limits: LimitSettings) -> Submission:
    """Raise InputError, with what to mend, unless the job can be run as it stands."""
    job = parse_job(request.job_file, "the job file")
    unknown = [party for party in job.parties if party not in known_parties]
    if unknown:
        raise InputError(
            f"parties: this coordinator knows no {', '.join(unknown)}; it knows {', '.join(known_parties) or 'none'}"
        )
    if len(job.parties) > limits.parties:
        raise InputError(f"parties: {len(job.parties)} are over this coordinator's limit of {limits.parties}")
    if not 1 <= len(request.stages) <= MAXIMUM_STAGES:
        raise InputError(f"{len(request.stages)} stages, allowed are 1 to {MAXIMUM_STAGES}")
    declared, readable = _Declared(job), _readable(job)
    prepared: dict[bytes, Prepared] = {}
    handles: dict[str, Type] = {}
    revealed: set[tuple[str, str]] = set()
    for number, (stage, plan) in enumerate(zip(request.stages, plans_of(request.stages), strict=True), start=1):
        try:
            ready = prepared.get(plan)
            if ready is None:
                ready = prepared[plan] = _prepare(plan, job, readable, declared, limits)
            _check_stage(stage, ready, handles)
            revealed |= {
                (node.text("name"), receiver)
                for _, node in ready.plan.with_operation("reveal")
                for receiver in node.texts("receivers")
            }
        except ParleyError as error:
            raise InputError(f"stage {number} (`{stage.name[:64]}`): {error}") from error
    for kind, receivers in job.reveal.receivers():
        for receiver in receivers:
            if not any(name.split(".")[0] == _PREFIX[kind] and to == receiver for name, to in revealed):
                raise InputError(f"the stages reveal no {kind} to {receiver}, which the job file promises")
    return Submission(job, progress_of(request.stages), request_digest(request))


_PREFIX = {"model": "model", "metrics": "metrics", "predictions": "predictions", "result": "result"}
"""Kind of a reveal in the job file → first word of the results' names."""


class _Declared:
    """Who may learn what by the job file."""

    def __init__(self, job: Job) -> None:
        self._receivers = {_PREFIX[kind]: frozenset(receivers) for kind, receivers in job.reveal.receivers()}

    def check(self, plan: Plan) -> None:
        for index, node in plan.with_operation("reveal"):
            name = node.text("name")
            allowed = self._receivers.get(name.split(".")[0], frozenset())
            for receiver in node.texts("receivers"):
                if receiver not in allowed:
                    who = "the submitter" if receiver == SUBMITTER else receiver
                    raise PlanError(f"reveals {name!r} to {who}, which the job file does not", index, node.line)


def _readable(job: Job) -> set[tuple[int, str]]:
    """Index of the party and name of the tensor, of all that the job file names."""
    parts = ("_x", "_y") if job.kind in ("train", "evaluate") else ("", "_x")
    return {
        (job.parties.index(party), f"{dataset}{part}")
        for _, source in job.data.sources()
        for _, reference in source.references()
        for party, _, dataset in (reference.partition("/"),)
        for part in parts
    }


def _prepare(
    data: bytes, job: Job, readable: set[tuple[int, str]], declared: _Declared, limits: LimitSettings
) -> Prepared:
    if len(data) > limits.plan_bytes:
        raise PlanError(f"{len(data)} bytes are over this coordinator's limit of {limits.plan_bytes}")
    plan = plan_from_bytes(data)
    if len(plan.nodes) > limits.plan_nodes:
        raise PlanError(f"{len(plan.nodes)} nodes are over this coordinator's limit of {limits.plan_nodes}")
    if plan.parties != tuple(job.parties):
        raise PlanError(f"is for the parties {', '.join(plan.parties)}, the job file for {', '.join(job.parties)}")
    ready = Prepared.of(plan)
    for index, node in plan.with_operation("input"):
        party, dataset = node.integer("party"), node.text("dataset")
        if (party, dataset) not in readable:
            where = f"{job.parties[party]}/{dataset}"
            raise PlanError(f"reads {where}, which the job file does not name", index, node.line)
    declared.check(plan)
    memory = cost_of_schedule(ready.schedule).peak_memory
    if memory > limits.memory_bytes:
        raise PlanError(f"takes {memory} bytes of memory, over the limit of {limits.memory_bytes}: use smaller batches")
    return ready


def _check_stage(stage: pb.Stage, ready: Prepared, handles: dict[str, Type]) -> None:
    """The bindings fit the plan and what earlier stages left; `handles` is brought up to date."""
    if not stage.name or len(stage.name) > 64:
        raise InputError("a stage needs a name of 1 to 64 characters")
    if not stage.arguments:
        raise InputError("a stage needs an entry of arguments for every repetition, at least one")
    for entry in stage.arguments:
        Execution(ready, 0, stage.load, stage.store, (arguments_from_message(entry),)).check()
    for index, node in ready.plan.with_operation("load"):
        handle = stage.load[node.text("slot")]
        if handle not in handles:
            raise PlanError(f"loads the handle {handle!r}, under which nothing is kept then", index, node.line)
        _check_fits(handles[handle], node.type, handle, index)
    for _, node in ready.plan.with_operation("store"):
        handles[stage.store[node.text("slot")]] = node.type
    if len(stage.arguments) > 1:
        for index, node in ready.plan.with_operation("load"):
            handle = stage.load[node.text("slot")]
            _check_fits(handles[handle], node.type, handle, index)
    for handle in stage.release:
        if handles.pop(handle, None) is None:
            raise InputError(f"releases the handle {handle!r}, under which nothing is kept then")
    if len(handles) > MAXIMUM_HANDLES:
        raise InputError(f"{len(handles)} values would be kept at once, allowed are {MAXIMUM_HANDLES}")


def _check_fits(kept: Type, expected: Type, handle: str, index: int) -> None:
    alike = (kept.kind, kept.shape, kept.scale, kept.planes) == (
        expected.kind,
        expected.shape,
        expected.scale,
        expected.planes,
    )
    if not alike or kept.bound > expected.bound:
        raise PlanError(f"the value kept under {handle!r} is of another type than the plan loads", index)
