"""The coordinator's service: jobs for the command line, and interactive sessions (coordinator/session_service.py)."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator

import grpc

from coordinator.jobfile import SUBMITTER
from coordinator.jobs import ENDED, MAXIMUM_SUBMISSION_BYTES, check_key, check_submission, request_digest
from coordinator.scheduler import Scheduler
from coordinator.session import SessionManager
from coordinator.session_service import SessionServicer
from coordinator.store import JobStore
from parley.errors import Denied, InputError, NotFound
from services.identity import Caller, Identity, verify_bundle
from services.logs import configure_logs, get_logger
from services.metrics import Metrics
from services.parts import join, split
from services.process import prepare_process
from services.protocol import coordinator_pb2 as pb
from services.protocol import coordinator_pb2_grpc
from services.server import Server
from services.settings import CoordinatorSettings
from services.status import caller

_log = get_logger(__name__)

JOBS_FILE = "jobs.sqlite"
MAXIMUM_QUEUED = 1000
MAXIMUM_WATCHERS = 48
"""Calls of WatchJob at once: each holds a thread."""
_WATCH_SECONDS = 2.0
"""How often a watcher is looked after that waits for a change."""
_REASON_CHARACTERS = 500


class CoordinatorService(SessionServicer):
    """The methods of coordinator.proto."""

    def __init__(self, settings: CoordinatorSettings, identity: Identity | None) -> None:
        self.metrics = Metrics()
        self.store = JobStore(settings.data_directory / JOBS_FILE)
        super().__init__(SessionManager(settings, identity))
        self.scheduler = Scheduler(self.store, self.sessions, self.metrics)
        self._settings, self._identity = settings, identity
        self._watchers = threading.BoundedSemaphore(MAXIMUM_WATCHERS)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to run jobs."""
        self.scheduler.start()

    def drain(self) -> None:
        """Take no more jobs, end those that run and the interactive sessions, and let the watchers go."""
        self._stopping.set()
        self.scheduler.stop()
        self.sessions.close()

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()

    def SubmitJob(self, request_iterator: Iterator[pb.SubmitJobRequest], context: grpc.ServicerContext) -> pb.Job:
        """Check a job and queue it; the same key gives the job that was made first."""
        who = caller(context)
        request = next(join(request_iterator, MAXIMUM_SUBMISSION_BYTES), None)
        if request is None:
            raise InputError("no job was sent")
        check_key(request.idempotency_key)
        authority = None if self._identity is None else self._identity.authority_pem
        verify_bundle(request.identity_bundle, authority, who.role, who.name)
        known = self.store.repeated(who.name, request.idempotency_key, request_digest(request))
        if known is not None:
            return known
        if self._stopping.is_set():
            raise Denied("the coordinator is stopping: submit again when it is back")
        if self.store.count([pb.QUEUED]) >= MAXIMUM_QUEUED:
            raise Denied(f"{MAXIMUM_QUEUED} jobs wait already: submit again when some have run")
        parties = [party.name for party in self._settings.parties]
        checked = check_submission(request, parties, self._settings.limits)
        job = self.store.add(
            _new_id(), checked.job.name, who.name, request, checked.job.parties, checked.progress, checked.digest
        )
        _log.info("job queued", job=job.id, name=job.name, submitter=who.name)
        self.scheduler.wake()
        return job

    def ListJobs(self, request: pb.ListJobsRequest, context: grpc.ServicerContext) -> pb.ListJobsResponse:
        """The jobs that the caller submitted or takes part in, the newest first."""
        who = caller(context)
        jobs = [job for job in self.store.jobs(request.states) if _concerns(job, who)]
        return pb.ListJobsResponse(jobs=jobs[: request.limit or None])

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.Job:
        """One job."""
        return self._find(request.id, caller(context))

    def WatchJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> Iterator[pb.Job]:
        """The job now and at every change, until it has ended."""
        who = caller(context)
        if not self._watchers.acquire(blocking=False):
            raise Denied(f"{MAXIMUM_WATCHERS} callers watch jobs already: ask again later, or use `parley job show`")
        try:
            while True:
                version = self.store.version(request.id)
                job = self._find(request.id, who)
                yield job
                if job.state in ENDED:
                    return
                while self.store.wait_for_change(request.id, version, _WATCH_SECONDS) == version:
                    if not context.is_active() or self._stopping.is_set():
                        return
        finally:
            self._watchers.release()

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.Job:
        """Cancel a job that waits, or ask for the end of one that runs."""
        who = caller(context)
        self._find(request.id, who)
        if len(request.reason) > _REASON_CHARACTERS:
            raise InputError(f"the reason is longer than {_REASON_CHARACTERS} characters")
        told = f": {request.reason}" if request.reason else ""
        reason = f"cancelled by {who}{told}"
        job = self.store.request_cancel(request.id, reason)
        _log.info("job cancelled", job=job.id, by=str(who))
        self.scheduler.cancel(job.id, reason)
        return job

    def GetResult(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> Iterator[pb.Result]:
        """What an ended job reveals to the caller, sealed."""
        who = caller(context)
        job = self._find(request.id, who)
        if job.state not in ENDED:
            yield pb.Result(job=job)
            return
        receiver = SUBMITTER if who.role == "submitter" else who.name
        result = pb.Result(
            job=job,
            parts=self.store.parts(request.id, receiver),
            party_identity_bundles=self.store.bundles(request.id),
        )
        yield from split(result)

    def _find(self, id: str, who: Caller) -> pb.Job:
        """The job, if it concerns the caller. Raises NotFound, as for one that is none: others need not know of it."""
        job = self.store.get(id)
        if not _concerns(job, who):
            raise NotFound(f"there is no job {id!r}: `parley job list` names them")
        return job


def _concerns(job: pb.Job, who: Caller) -> bool:
    return job.submitter == who.name if who.role == "submitter" else who.name in job.parties


def _new_id() -> str:
    """Twelve letters and digits: short enough to type, and not to be guessed."""
    return secrets.token_hex(6)


def serve(settings: CoordinatorSettings) -> None:
    """Serve until the process is told to stop (SIGTERM or SIGINT), and stop gracefully."""
    prepare_process()
    configure_logs(settings.log.level, settings.log.format, role="coordinator", name=settings.name)
    identity = None
    if not settings.insecure and settings.tls.directory is not None:
        identity = Identity.load(settings.tls.directory)
    if identity is not None and (identity.role, identity.name) != ("coordinator", settings.name):
        raise InputError(f"the settings name coordinator {settings.name}, the certificate {identity!r}")
    service = CoordinatorService(settings, identity)
    server = Server(
        settings.listen,
        identity,
        metrics=service.metrics,
        streams=settings.limits.sessions + MAXIMUM_WATCHERS,
        keepalive=settings.keepalive,
    )
    server.add_service(coordinator_pb2_grpc.add_CoordinatorServicer_to_server, service)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    page = service.metrics.serve(settings.metrics_listen) if settings.metrics_listen else None
    service.start()
    server.start()
    stop.wait()
    _log.info("stopping")
    server.drain()
    service.drain()
    server.stop(settings.grace_seconds)
    service.close()
    if page is not None:
        page.stop()
