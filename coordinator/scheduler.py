"""Runs the queued jobs, one after another, each in a session of its own.

The stages are handed to the session ahead of time, so that no node waits for the coordinator. What the nodes report
becomes the job's progress; what they reveal to the submitter is kept as it comes, sealed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from coordinator.jobs import plans_of, progress_of, state_name
from coordinator.session import ClusterSession, Outcome, SessionManager
from coordinator.store import JobStore
from parley.errors import ParleyError, SessionClosed
from services.logs import get_logger
from services.metrics import Metrics
from services.protocol import coordinator_pb2 as pb
from services.protocol import session_pb2

_log = get_logger(__name__)

STAGES_AHEAD = 16
"""Stages that wait in the session to be sent."""
PROGRESS_SECONDS = 0.25
"""Progress is written down at most this often, and at the end of a stage."""
_NODE = re.compile(r"\b(?:party|dealer) [a-z0-9-]+")


class Scheduler:
    """Threads that run jobs; `wake` tells them that one was queued, `cancel` that one is to end."""

    def __init__(self, store: JobStore, sessions: SessionManager, metrics: Metrics, jobs_at_once: int = 1) -> None:
        self._store, self._sessions, self._metrics = store, sessions, metrics
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, ClusterSession] = {}
        self._wakes = [threading.Event() for _ in range(jobs_at_once)]
        self._threads = [
            threading.Thread(target=self._work, args=(wake,), name=f"scheduler-{number}", daemon=True)
            for number, wake in enumerate(self._wakes)
        ]

    def start(self) -> None:
        """Fail what an earlier process left half done, and begin."""
        for id in self._store.fail_interrupted("the coordinator stopped while the job was under way: submit it again"):
            _log.warning("job failed", job=id, cause="the coordinator stopped")
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look for work now."""
        for event in self._wakes:
            event.set()

    def cancel(self, id: str, reason: str) -> None:
        """End the job's session now, if it has one; its state follows."""
        with self._lock:
            session = self._running.get(id)
        if session is not None:
            session.close(reason)

    def stop(self, timeout: float = 10.0) -> None:
        """End the jobs that run, as failed, and the threads."""
        self._stopping.set()
        self.wake()
        with self._lock:
            sessions = list(self._running.values())
        for session in sessions:
            session.close("the coordinator stops")
        end = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self, wake: threading.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()
            id = self._claim()
            if id is None:
                wake.wait(5.0)
                continue
            try:
                self._run(id)
            except Exception as error:  # whatever happens to one job, the next one has its turn
                _log.error("job failed", job=id, exc_info=error)
                self._end(id, pb.FAILED, "internal error: the coordinator's log says more", "coordinator")

    def _claim(self) -> str | None:
        with self._lock:
            id = self._store.next_queued()
            return id if id is not None and self._store.move(id, pb.SCHEDULED) else None

    def _run(self, id: str) -> None:
        """Run one job to its end, whatever that is."""
        job = self._store.get(id)
        _log.info("job scheduled", job=id, name=job.name)
        session: ClusterSession | None = None
        try:
            stages, bundle = self._store.work(id)
            session = self._sessions.open(list(job.parties), job.submitter, bundle, id, job.attempt)
            with self._lock:
                self._running[id] = session
            self._raise_if_unwanted(id)
            self._store.set_bundles(id, session.party_identity_bundles)
            self._store.move(id, pb.RUNNING)
            _Run(self._store, id, session, stages).run()
            self._end(id, pb.SUCCEEDED)
        except ParleyError as error:
            cancelled = self._store.cancel_reason(id)
            if cancelled is not None:
                self._end(id, pb.CANCELLED, cancelled)
            elif self._stopping.is_set():
                self._end(
                    id, pb.FAILED, "the coordinator was stopped while the job ran: submit it again", "coordinator"
                )
            else:
                self._end(id, pb.FAILED, str(error), _node(error, session))
        finally:
            with self._lock:
                self._running.pop(id, None)
            if session is not None:
                session.close()

    def _raise_if_unwanted(self, id: str) -> None:
        """For what was asked while the session was being opened."""
        reason = self._store.cancel_reason(id)
        if reason is not None or self._stopping.is_set():
            raise SessionClosed(reason or "the coordinator stops")

    def _end(self, id: str, state: pb.JobState.ValueType, reason: str = "", node: str = "") -> None:
        if self._store.move(id, state, reason, node):
            self._metrics.jobs.labels(state_name(state)).inc()
            _log.info("job ended", job=id, state=state_name(state), cause=reason, node=node)


def _node(error: ParleyError, session: ClusterSession | None) -> str:
    """The node that a failure came from, as far as it is known."""
    if session is not None and session.failure is not None and session.failure.node:
        return session.failure.node
    named = _NODE.search(str(error))
    return named[0] if named else ""


@dataclass(frozen=True)
class _Report:
    """Repetitions of a stage that all nodes have done."""

    stage: str
    statistics: Mapping[str, session_pb2.Executed]


class _Run:
    """One job in its session."""

    def __init__(self, store: JobStore, id: str, session: ClusterSession, stages: Sequence[pb.Stage]) -> None:
        self._store, self._id, self._session, self._stages = store, id, session, stages
        self._progress = {entry.stage: (place, entry) for place, entry in enumerate(progress_of(stages))}
        self._reports: SimpleQueue[_Report] = SimpleQueue()
        self._reported = time.monotonic()
        self._written: dict[str, float] = {}

    def run(self) -> None:
        """Run all stages; raises what ended the session early."""
        session = self._session
        plans = plans_of(self._stages)
        loading = {plan: session.load_plan_later(plan) for plan in dict.fromkeys(plans)}
        hashes = {plan: future.result() for plan, future in loading.items()}
        executions: list[tuple[pb.Stage, Future[Outcome]]] = []
        others: list[Future[None]] = []
        self._reported = time.monotonic()
        collected = 0
        for stage, plan in zip(self._stages, plans, strict=True):
            session.wait_for_room(STAGES_AHEAD)
            executions.append((stage, self._start(stage, hashes[plan])))
            if stage.release:
                others.append(session.release(list(stage.release)))
            while collected < len(executions) and executions[collected][1].done():
                self._collect(*executions[collected])
                collected += 1
            self._take_reports(0.0)
        for stage, future in executions[collected:]:
            while not future.done():
                self._take_reports(0.2)
            self._collect(stage, future)
        for other in others:
            other.result()
        self._take_reports(0.0)

    def _start(self, stage: pb.Stage, plan: bytes) -> Future[Outcome]:
        def progress(_done: int, statistics: Mapping[str, session_pb2.Executed]) -> None:
            self._reports.put(_Report(stage.name, dict(statistics)))  # in a thread of the session, which must not wait

        return self._session.execute(plan, stage.load, stage.store, list(stage.arguments), progress)

    def _collect(self, stage: pb.Stage, future: Future[Outcome]) -> None:
        """Keep what a stage has revealed; raises its error."""
        parts = future.result().parts
        for part in parts:
            part.stage, part.session = stage.name, self._session.id
        self._store.add_parts(self._id, parts)

    def _take_reports(self, timeout: float) -> None:
        """Write down what the nodes have reported; wait for that as long as `timeout` seconds."""
        while True:
            try:
                report = self._reports.get(timeout=timeout) if timeout else self._reports.get_nowait()
            except Empty:
                return
            timeout = 0.0
            now = time.monotonic()
            place, entry = self._progress[report.stage]
            parties = [report.statistics[name] for name in self._session.parties]
            entry.done += parties[0].repetitions
            # What has passed since the report before, whatever stage that was of: the sum is the time of the job.
            entry.seconds += now - self._reported
            self._reported = now
            entry.rounds += max(each.rounds for each in parties)
            entry.bytes_sent += sum(each.bytes_sent for each in parties)
            entry.dealer_bytes += report.statistics[self._session.dealer].bytes_sent
            waits = [each.seconds_waiting_for_peers + each.seconds_waiting_for_dealer for each in parties]
            entry.wait_seconds += sum(waits) / len(waits)
            if entry.done == entry.total or now - self._written.get(report.stage, 0.0) >= PROGRESS_SECONDS:
                self._written[report.stage] = now
                self._store.set_progress(self._id, place, entry)
