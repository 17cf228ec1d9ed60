"""The command line within the test's process, and a local cluster for tests that need one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.local_cluster import LocalCluster
from examples.fashion_mnist.prepare import prepare
from examples.fashion_mnist.source import digits

PARTIES = ("alice", "bob", "carol", "dave")
ROWS = 320
"""Training images of the cluster's data."""


@dataclass(frozen=True)
class Done:
    """What a command has come to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]

    @property
    def record(self) -> Any:
        """The last line of standard output, which is JSON."""
        return json.loads(self.out.strip().splitlines()[-1])


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of whoever runs the tests counts."""
    for variable in os.environ:
        if variable.startswith("PARLEY_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "no-state"))


@pytest.fixture
def parley(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command of `parley` and returns its exit code and outputs."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run


@dataclass(frozen=True)
class Running:
    """A cluster of four parties with data, and the job files for it."""

    cluster: LocalCluster
    jobs: Path

    @property
    def options(self) -> Sequence[object]:
        """What a command needs to find it."""
        return ("--dir", self.cluster.directory)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Real processes, once for all tests of the job's life."""
    from coordinator.demo import register

    folder = tmp_path_factory.mktemp("cluster")
    images = digits(lambda _: None)
    prepare(folder / "jobs", parties=4, rows=ROWS, images=images, report=lambda _: None)
    for number, party in enumerate(PARTIES, start=1):
        (folder / "jobs" / party / "salary.csv").write_text(f"salary,children\n{1111.5 * number},{number}\n")
        (folder / "jobs" / party / "salary.yaml").write_text("name: salary\npath: salary.csv\nbound: 10000\n")
    cluster = LocalCluster(folder / "cluster")
    try:
        cluster.make(len(PARTIES), lambda _: None)
        cluster.start(lambda _: None)
        register(cluster, folder / "jobs", ("train", "test", "salary"), lambda _: None)
        yield Running(cluster, folder / "jobs")
    finally:
        if cluster.exists:
            cluster.stop(lambda _: None)
