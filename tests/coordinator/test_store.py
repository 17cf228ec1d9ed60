"""What the coordinator remembers of jobs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from coordinator.jobs import ENDED
from coordinator.store import FOLLOWING, Conflict, JobStore
from parley.errors import InputError, NotFound
from services.protocol import coordinator_pb2 as pb
from services.protocol import session_pb2


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "state" / "jobs.sqlite")


def add(
    store: JobStore, id: str = "one", key: str = "key", digest: bytes = b"digest", submitter: str = "ann"
) -> pb.Job:
    request = pb.SubmitJobRequest(
        job_file="kind: train",
        stages=[pb.Stage(name="train", plan=b"plan", arguments=[session_pb2.Arguments()])],
        idempotency_key=key,
        identity_bundle=b"bundle",
    )
    progress = [pb.Progress(stage="train", total=7)]
    return store.add(id, "name", submitter, request, ["alice", "bob"], progress, digest)


def test_a_job_is_kept_as_it_came_and_after_the_process_has_ended(store: JobStore, tmp_path: Path) -> None:
    job = add(store)
    assert (job.id, job.state, list(job.parties)) == ("one", pb.QUEUED, ["alice", "bob"])
    assert job.progress[0].total == 7
    store.close()
    again = JobStore(tmp_path / "state" / "jobs.sqlite")
    assert again.get("one") == job
    stages, bundle = again.work("one")
    assert (stages[0].plan, bundle) == (b"plan", b"bundle")
    assert (tmp_path / "state" / "jobs.sqlite").stat().st_mode & 0o077 == 0


def test_one_key_is_one_job(store: JobStore) -> None:
    job = add(store)
    assert add(store, id="two") == job
    assert store.repeated("ann", "key", b"digest") == job
    assert store.repeated("bob", "key", b"digest") is None
    with pytest.raises(Conflict, match="job one"):
        add(store, id="three", digest=b"another")
    assert add(store, id="four", submitter="bob").id == "four"
    assert [each.id for each in store.jobs()] == ["four", "one"]


def test_many_at_once_with_one_key_are_one_job(store: JobStore) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda number=number: found.append(add(store, id=f"job-{number}").id))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert len(store.jobs()) == 1


def test_states_change_only_along_their_ways(store: JobStore) -> None:
    add(store)
    assert not store.move("one", pb.SUCCEEDED)
    assert store.move("one", pb.SCHEDULED)
    assert store.move("one", pb.RUNNING)
    assert store.move("one", pb.FAILED, "because", "party bob")
    job = store.get("one")
    assert (job.reason, job.node, job.attempt) == ("because", "party bob", 1)
    assert 0 < job.submitted_at <= job.started_at <= job.ended_at
    for state in pb.JobState.values():
        assert not store.move("one", state)
    assert not set(FOLLOWING) & ENDED


def test_cancelling(store: JobStore) -> None:
    add(store)
    assert store.request_cancel("one", "no need").state == pb.CANCELLED
    assert store.request_cancel("one", "again").state == pb.CANCELLED
    assert not store.move("one", pb.SCHEDULED)
    add(store, id="two", key="2")
    store.move("two", pb.SCHEDULED)
    store.move("two", pb.RUNNING)
    assert store.cancel_reason("two") is None
    assert store.request_cancel("two", "first").state == pb.RUNNING
    store.request_cancel("two", "second")
    assert store.cancel_reason("two") == "first"
    store.move("two", pb.SUCCEEDED)
    with pytest.raises(Conflict, match="ended already: SUCCEEDED"):
        store.request_cancel("two", "late")


def test_what_was_under_way_when_the_coordinator_ended_has_failed(store: JobStore) -> None:
    for id in ("queued", "scheduled", "running", "unwanted"):
        add(store, id=id, key=id)
    for id in ("scheduled", "running", "unwanted"):
        store.move(id, pb.SCHEDULED)
    store.move("running", pb.RUNNING)
    store.request_cancel("unwanted", "cancelled by ann")
    assert set(store.fail_interrupted("stopped")) == {"scheduled", "running", "unwanted"}
    states = {job.id: (job.state, job.reason) for job in store.jobs()}
    assert states == {
        "queued": (pb.QUEUED, ""),
        "scheduled": (pb.FAILED, "stopped"),
        "running": (pb.FAILED, "stopped"),
        "unwanted": (pb.CANCELLED, "cancelled by ann"),
    }
    assert store.next_queued() == "queued"


def test_parts_of_results_are_found_by_their_receiver_only(store: JobStore) -> None:
    add(store)
    parts = [
        pb.ResultPart(party=party, reveal=session_pb2.Reveal(name="x", receiver=receiver))
        for receiver in ("submitter", "alice")
        for party in ("alice", "bob")
    ]
    store.add_parts("one", parts)
    assert store.parts("one", "submitter") == parts[:2]
    assert store.parts("one", "alice") == parts[2:]
    assert store.parts("one", "mallory") == []
    store.set_bundles("one", {"alice": b"a"})
    store.set_bundles("one", {"alice": b"b", "bob": b"c"})
    assert store.bundles("one") == {"alice": b"b", "bob": b"c"}


def test_a_change_wakes_who_waits_for_it(store: JobStore) -> None:
    add(store)
    version = store.version("one")
    assert store.wait_for_change("one", version, 0.01) == version
    threading.Timer(0.05, store.set_progress, ("one", 0, pb.Progress(stage="train", done=3, total=7))).start()
    assert store.wait_for_change("one", version, 10) != version
    assert store.get("one").progress[0].done == 3


def test_jobs_that_are_none(store: JobStore) -> None:
    for call in (store.get, store.work, store.cancel_reason, store.bundles):
        with pytest.raises(NotFound, match="parley job list"):
            call("none")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_text("something else, and long enough to be looked at" * 100)
    with pytest.raises(InputError, match="cannot be used"):
        JobStore(tmp_path / "jobs.sqlite")
