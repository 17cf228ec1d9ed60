"""Follows a job on standard error: bars at a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from coordinator.client import CoordinatorClient
from coordinator.jobs import ENDED, state_name
from parley.errors import Unreachable
from services.protocol import coordinator_pb2 as pb

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 10.0
RETRY_SECONDS = 60.0
"""For how long a coordinator that cannot be reached is asked again."""


def follow(client: CoordinatorClient, id: str, timeout: float | None = None, output: TextIO | None = None) -> pb.Job:
    """Show a job's progress until it has ended, and return it.

    Raises TimeoutError after `timeout` seconds; the job goes on then. A coordinator that is gone for a while is asked
    again, since the job is kept there.
    """
    end = None if timeout is None else time.monotonic() + timeout
    lost: float | None = None
    with shown(output or sys.stderr) as display:
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"job {id} has not ended after {timeout:g} s")
            try:
                for job in client.watch(id, left):
                    lost = None
                    display.show(job)
                    if job.state in ENDED:
                        return job
            except Unreachable:
                if end is not None and time.monotonic() >= end:
                    continue
                lost = lost or time.monotonic()
                if time.monotonic() - lost > RETRY_SECONDS:
                    raise
                time.sleep(1.0)


def shown(output: TextIO) -> _Display:
    """The display that fits where it is shown."""
    return _Bars(output) if output.isatty() else _Lines(output)


class _Display:
    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._current = ""

    def __enter__(self) -> _Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, job: pb.Job) -> None:
        """The job has changed."""

    def close(self) -> None:
        """Nothing more comes."""

    def _moving(self, job: pb.Job) -> pb.Progress | None:
        """The stage that made progress last: stages of one name come again, as an evaluation after every epoch."""
        entries = {entry.stage: entry for entry in job.progress}
        for entry in job.progress:
            if entry.done != self._done.get(entry.stage, 0):
                self._done[entry.stage] = entry.done
                self._current = entry.stage
        return entries.get(self._current)


class _Lines(_Display):
    def __init__(self, output: TextIO) -> None:
        super().__init__()
        self._output, self._state, self._last = output, -1, 0.0

    def show(self, job: pb.Job) -> None:
        """A line when the state changes, and every ten seconds."""
        now = time.monotonic()
        current = self._moving(job)
        if job.state == self._state and now - self._last < LINE_SECONDS:
            return
        self._state, self._last = job.state, now
        line = f"job {job.id} {state_name(job.state)}"
        if job.state == pb.RUNNING:
            if current is not None:
                line += f": {current.stage} {current.done}/{current.total}{_rates(current)}"
        elif job.reason:
            line += f": {' '.join(job.reason.split())}"
        print(line, file=self._output, flush=True)


class _Bars(_Display):
    def __init__(self, output: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        super().__init__()
        self._progress: Progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=32),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rates]}"),
            TimeElapsedColumn(),
            console=Console(file=output),
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, job: pb.Job) -> None:
        """A bar for each stage that has begun."""
        for entry in job.progress:
            if not entry.done:
                continue
            if entry.stage not in self._tasks:
                self._tasks[entry.stage] = self._progress.add_task(entry.stage, total=entry.total, rates="")
            self._progress.update(self._tasks[entry.stage], completed=entry.done, rates=_rates(entry).lstrip(", "))
            if entry.done == entry.total:
                self._progress.stop_task(self._tasks[entry.stage])

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()


def _rates(entry: Any) -> str:
    if not entry.done or not entry.seconds:
        return ""
    return (
        f", {entry.done / entry.seconds:.1f}/s, {entry.rounds / entry.done:.0f} rounds and "
        f"{size(entry.bytes_sent / entry.done)} each"
    )


def size(number: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"
