"""What the coordinator remembers of jobs: their states, progress and sealed results, in one SQLite file.

A job's stages are kept as the bytes they came in. Nothing here is secret: plans are for every node to read, and the
parts of results are sealed to their receivers. Every method is a transaction of its own; a state changes only along
`FOLLOWING`, so that a job which was cancelled can never succeed afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import ForeignKey, LargeBinary, UniqueConstraint, create_engine, event, func, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, deferred, mapped_column, sessionmaker

from coordinator.jobs import ENDED
from parley.errors import InputError, NotFound
from services.protocol import coordinator_pb2 as pb

State: TypeAlias = "pb.JobState.ValueType"

FOLLOWING: Mapping[State, frozenset[State]] = {
    pb.QUEUED: frozenset({pb.SCHEDULED, pb.CANCELLED, pb.FAILED}),
    pb.SCHEDULED: frozenset({pb.RUNNING, pb.FAILED, pb.CANCELLED}),
    pb.RUNNING: frozenset({pb.SUCCEEDED, pb.FAILED, pb.CANCELLED}),
}
MAXIMUM_LISTED = 1000
"""Jobs that one answer names."""


class _Base(DeclarativeBase):
    pass


class _Job(_Base):
    __tablename__ = "jobs"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    state: Mapped[int] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(default="")
    node: Mapped[str] = mapped_column(default="")
    submitter: Mapped[str] = mapped_column(index=True)
    submitter_bundle: Mapped[bytes] = deferred(mapped_column(LargeBinary))
    parties: Mapped[str]
    """Names, one a line: none of them can hold a newline."""
    job_file: Mapped[str]
    stages: Mapped[bytes] = deferred(mapped_column(LargeBinary))
    idempotency_key: Mapped[str]
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    """Of the whole submission: the same key with another job is a mistake of the submitter's."""
    attempt: Mapped[int] = mapped_column(default=0)
    cancel_reason: Mapped[str | None] = mapped_column(default=None)
    submitted_at: Mapped[float]
    started_at: Mapped[float] = mapped_column(default=0.0)
    ended_at: Mapped[float] = mapped_column(default=0.0)
    __table_args__ = (UniqueConstraint("submitter", "idempotency_key"),)


class _Progress(_Base):
    __tablename__ = "progress"
    job: Mapped[int] = mapped_column(ForeignKey("jobs.number"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    message: Mapped[bytes] = mapped_column(LargeBinary)


class _Part(_Base):
    __tablename__ = "parts"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[int] = mapped_column(ForeignKey("jobs.number"), index=True)
    receiver: Mapped[str]
    message: Mapped[bytes] = mapped_column(LargeBinary)


class _Bundle(_Base):
    __tablename__ = "bundles"
    job: Mapped[int] = mapped_column(ForeignKey("jobs.number"), primary_key=True)
    party: Mapped[str] = mapped_column(primary_key=True)
    bundle: Mapped[bytes] = mapped_column(LargeBinary)


def _state(job: _Job) -> State:
    return pb.JobState.ValueType(job.state)


class Conflict(InputError):
    """What is asked for contradicts what is there already."""


class JobStore:
    """The jobs in one file; to be used by one process, from any of its threads."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises InputError where it cannot be used."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

        @event.listens_for(self._engine, "connect")
        def configure(connection, _record) -> None:  # type: ignore[no-untyped-def]
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        try:
            _Base.metadata.create_all(self._engine)
        except DatabaseError as error:
            raise InputError(f"{path} cannot be used: {error.orig}: mend the disk, or move the file away") from error
        path.chmod(0o600)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)
        # SQLite has one writer at a time: waiting here is fair and needs no retries.
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._versions: dict[str, int] = {}

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def add(
        self,
        id: str,
        name: str,
        submitter: str,
        request: pb.SubmitJobRequest,
        parties: Sequence[str],
        progress: Sequence[pb.Progress],
        digest: bytes,
    ) -> pb.Job:
        """Queue a job; or return the one that the same submitter made with the same key.

        Raises Conflict where that one is another job.
        """
        with self._write() as session:
            known = self._by_key(session, submitter, request.idempotency_key)
            if known is not None:
                return self._repeated(session, known, digest)
            job = _Job(
                id=id,
                name=name,
                state=pb.QUEUED,
                submitter=submitter,
                submitter_bundle=request.identity_bundle,
                parties="\n".join(parties),
                job_file=request.job_file,
                stages=pb.SubmitJobRequest(stages=request.stages).SerializeToString(),
                idempotency_key=request.idempotency_key,
                digest=digest,
                submitted_at=time.time(),
            )
            session.add(job)
            session.flush()
            session.add_all(
                _Progress(job=job.number, position=position, message=entry.SerializeToString())
                for position, entry in enumerate(progress)
            )
            session.flush()
            message = self._message(session, job)
        self._notify(id)
        return message

    def repeated(self, submitter: str, key: str, digest: bytes) -> pb.Job | None:
        """The job that this submitter made with this key, if any. Raises Conflict where it is another one."""
        with self._sessions() as session:
            known = self._by_key(session, submitter, key)
            return None if known is None else self._repeated(session, known, digest)

    def get(self, id: str) -> pb.Job:
        """The job with its progress. Raises NotFound."""
        with self._sessions() as session:
            return self._message(session, self._find(session, id))

    def jobs(self, states: Collection[State] = (), limit: int = 0) -> list[pb.Job]:
        """The jobs, the newest first, without their files."""
        with self._sessions() as session:
            query = select(_Job).order_by(_Job.number.desc()).limit(min(limit or MAXIMUM_LISTED, MAXIMUM_LISTED))
            if states:
                query = query.where(_Job.state.in_(states))
            return [self._message(session, job, brief=True) for job in session.scalars(query)]

    def next_queued(self) -> str | None:
        """The job that has waited longest."""
        with self._sessions() as session:
            return session.scalars(
                select(_Job.id).where(_Job.state == pb.QUEUED).order_by(_Job.number).limit(1)
            ).first()

    def work(self, id: str) -> tuple[list[pb.Stage], bytes]:
        """The stages of a job, and its submitter's identity bundle."""
        with self._sessions() as session:
            job = self._find(session, id)
            return list(pb.SubmitJobRequest.FromString(job.stages).stages), job.submitter_bundle

    def move(self, id: str, state: State, reason: str = "", node: str = "") -> bool:
        """Change a job's state; False, and nothing changed, where the state it has does not lead there."""
        with self._write() as session:
            job = self._find(session, id)
            if state not in FOLLOWING.get(_state(job), frozenset()):
                return False
            job.state, job.reason, job.node = state, reason, node
            if state == pb.SCHEDULED:
                job.attempt += 1
            if state == pb.RUNNING:
                job.started_at = time.time()
            if state in ENDED:
                job.ended_at = time.time()
        self._notify(id)
        return True

    def request_cancel(self, id: str, reason: str) -> pb.Job:
        """Cancel a job that waits, or note that a running one is to be cancelled. Raises Conflict if it has ended."""
        with self._write() as session:
            job = self._find(session, id)
            if job.state == pb.QUEUED:
                job.state, job.reason, job.ended_at = pb.CANCELLED, reason, time.time()
            elif job.state in ENDED and job.state != pb.CANCELLED:
                raise Conflict(f"job {id} has ended already: {pb.JobState.Name(_state(job))}")
            if job.cancel_reason is None:
                job.cancel_reason = reason
            message = self._message(session, job)
        self._notify(id)
        return message

    def cancel_reason(self, id: str) -> str | None:
        """Why the job is to be cancelled; None where no one asked for it."""
        with self._sessions() as session:
            return self._find(session, id).cancel_reason

    def fail_interrupted(self, reason: str) -> list[str]:
        """Fail what was under way when the process before this one ended; returns the jobs."""
        with self._write() as session:
            jobs = list(session.scalars(select(_Job).where(_Job.state.in_([pb.SCHEDULED, pb.RUNNING]))))
            for job in jobs:
                asked = job.cancel_reason
                job.state = pb.FAILED if asked is None else pb.CANCELLED
                job.reason, job.node, job.ended_at = reason if asked is None else asked, "coordinator", time.time()
            found = [job.id for job in jobs]
        for id in found:
            self._notify(id)
        return found

    # ---- progress and results -------------------------------------------------------------------------------------

    def set_progress(self, id: str, position: int, entry: pb.Progress) -> None:
        """Replace one stage's progress."""
        with self._write() as session:
            row = session.get(_Progress, (self._find(session, id).number, position))
            assert row is not None
            row.message = entry.SerializeToString()
        self._notify(id)

    def add_parts(self, id: str, parts: Sequence[pb.ResultPart]) -> None:
        """Keep sealed parts of results."""
        if not parts:
            return
        with self._write() as session:
            job = self._find(session, id).number
            session.add_all(
                _Part(job=job, receiver=part.reveal.receiver, message=part.SerializeToString()) for part in parts
            )

    def set_bundles(self, id: str, bundles: Mapping[str, bytes]) -> None:
        """Keep the parties' identity bundles, as they were in the session that made the results."""
        with self._write() as session:
            job = self._find(session, id).number
            for party, bundle in bundles.items():
                session.merge(_Bundle(job=job, party=party, bundle=bundle))

    def parts(self, id: str, receiver: str) -> list[pb.ResultPart]:
        """The sealed parts for one receiver, in the order in which they were made."""
        with self._sessions() as session:
            job = self._find(session, id).number
            query = select(_Part.message).where(_Part.job == job, _Part.receiver == receiver).order_by(_Part.number)
            return [pb.ResultPart.FromString(message) for message in session.scalars(query)]

    def bundles(self, id: str) -> dict[str, bytes]:
        """The parties' identity bundles by name."""
        with self._sessions() as session:
            job = self._find(session, id).number
            return {row.party: row.bundle for row in session.scalars(select(_Bundle).where(_Bundle.job == job))}

    def count(self, states: Collection[State]) -> int:
        """How many jobs are in these states."""
        with self._sessions() as session:
            return session.scalar(select(func.count()).select_from(_Job).where(_Job.state.in_(states))) or 0

    # ---- changes --------------------------------------------------------------------------------------------------

    def version(self, id: str) -> int:
        """A number that grows with every change of the job."""
        with self._changed:
            return self._versions.get(id, 0)

    def wait_for_change(self, id: str, version: int, timeout: float) -> int:
        """Wait until the job's version is another one, `timeout` seconds at most; returns it."""
        with self._changed:
            self._changed.wait_for(lambda: self._versions.get(id, 0) != version, timeout)
            return self._versions.get(id, 0)

    def _notify(self, id: str) -> None:
        with self._changed:
            self._versions[id] = self._versions.get(id, 0) + 1
            self._changed.notify_all()

    # ---- inside a transaction -------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with self._lock, self._sessions.begin() as session:
            yield session

    @staticmethod
    def _find(session: Session, id: str) -> _Job:
        job = session.scalars(select(_Job).where(_Job.id == id)).first()
        if job is None:
            raise NotFound(f"there is no job {id!r}: `parley job list` names them")
        return job

    @staticmethod
    def _by_key(session: Session, submitter: str, key: str) -> _Job | None:
        return session.scalars(select(_Job).where(_Job.submitter == submitter, _Job.idempotency_key == key)).first()

    def _repeated(self, session: Session, job: _Job, digest: bytes) -> pb.Job:
        if job.digest != digest:
            raise Conflict(f"the idempotency key belongs to job {job.id}, which is another one: choose another key")
        return self._message(session, job)

    @staticmethod
    def _message(session: Session, job: _Job, brief: bool = False) -> pb.Job:
        rows = session.scalars(
            select(_Progress.message).where(_Progress.job == job.number).order_by(_Progress.position)
        )
        return pb.Job(
            id=job.id,
            name=job.name,
            state=_state(job),
            reason=job.reason,
            node=job.node,
            submitter=job.submitter,
            attempt=job.attempt,
            progress=[pb.Progress.FromString(row) for row in rows],
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            ended_at=job.ended_at,
            parties=job.parties.split("\n"),
            job_file="" if brief else job.job_file,
        )
