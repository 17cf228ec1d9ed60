"""A cluster of real processes on loopback, with certificates of its own: coordinator, dealer and parties."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from party_node.datasets import DatasetStore, Registration
from party_node.service import DATASETS
from services.client import Connection
from services.identity import Identity, Role, create_authority, issue

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")
PROGRAM = """
import sys
from pathlib import Path
from {module} import serve
from services.settings import {settings}, load_settings
serve(load_settings({settings}, Path(sys.argv[1])))
"""
MODULES = {
    "coordinator": ("coordinator.service", "CoordinatorSettings"),
    "dealer": ("dealer.service", "DealerSettings"),
    "party": ("party_node.service", "PartySettings"),
}
START_SECONDS = 90.0


class Processes:
    """Starts when entered, and ends every process it started when left, by its pid.

    `data`: arrays by "party/name", registered before the start. `settings`: further settings by node.
    """

    def __init__(
        self,
        directory: Path,
        parties: int = 3,
        data: Mapping[str, Any] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        insecure: bool = False,
    ) -> None:
        self.directory = directory
        self.parties = NAMES[:parties]
        self.insecure = insecure
        self._data = data or {}
        self._extra = settings or {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        roles: list[tuple[Role, str]] = [("dealer", "dealer"), *(("party", name) for name in self.parties)]
        roles.append(("coordinator", "coordinator"))
        self.roles: dict[str, Role] = {name: role for role, name in roles}
        ports = _free_ports(len(roles))
        self.addresses = {name: f"127.0.0.1:{port}" for (_, name), port in zip(roles, ports, strict=True)}
        if not insecure:
            authority = create_authority(directory / "authority")
            for role, name in [*roles, ("submitter", "ann")]:
                issue(authority, directory / "identities" / name, role, name)

    @property
    def address(self) -> str:
        """The coordinator's."""
        return self.addresses["coordinator"]

    @property
    def submitter(self) -> Path:
        """The directory of the submitter's identity."""
        return self.directory / "identities" / "ann"

    def folder(self, name: str) -> Path:
        """A node's data directory."""
        return self.directory / "data" / name

    def log(self, name: str) -> str:
        """What a node has logged."""
        return (self.directory / f"{name}.log").read_text()

    def connect(self, **options: Any) -> Any:
        """A `Cluster` of these processes."""
        from parley.remote import connect

        if self.insecure:
            return connect(self.address, insecure=True, **options)
        return connect(self.address, self.submitter, **options)

    def __enter__(self) -> Processes:
        for name, values in self._data.items():
            party, _, tensor = name.partition("/")
            self._register(party, tensor, np.asarray(values))
        try:
            for name in self.roles:
                self.start(name)
            for name in self.roles:
                self.wait(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        """Start one node."""
        role = self.roles[name]
        values: dict[str, Any] = {
            "name": name,
            "listen": self.addresses[name],
            "data_directory": str(self.folder(name)),
            "log": {"level": "info"},
            "grace_seconds": 2.0,
            **self._extra.get(name, {}),
        }
        if self.insecure:
            values["insecure"] = True
        else:
            values["tls"] = {"directory": str(self.directory / "identities" / name)}
        if role == "coordinator":
            values["parties"] = [{"name": party, "address": self.addresses[party]} for party in self.parties]
            values["dealer"] = {"name": "dealer", "address": self.addresses["dealer"]}
        path = self.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        module, kind = MODULES[role]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(module=module, settings=kind), str(path)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, "OMP_NUM_THREADS": "1"},
            )

    def wait(self, name: str, timeout: float = START_SECONDS) -> None:
        """Wait until a node serves."""
        deadline = time.monotonic() + timeout
        while True:
            process = self.processes[name]
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with status {process.returncode}:\n{self.log(name)[-4000:]}")
            if _listens(self.addresses[name]) and self.healthy(name):
                return
            assert time.monotonic() < deadline, f"{name} does not serve:\n{self.log(name)[-4000:]}"
            time.sleep(0.05)

    def healthy(self, name: str) -> bool:
        """Whether the node's health service says that it serves."""
        from services.identity import Caller

        identity = None if self.insecure else Identity.load(self.submitter)
        claimed = Caller("submitter", "ann") if self.insecure else None
        with Connection(self.addresses[name], self.roles[name], name, identity, claimed=claimed) as connection:
            stub = health_pb2_grpc.HealthStub(connection.channel)
            answer = connection.call(stub.Check, health_pb2.HealthCheckRequest(), timeout=5.0)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send one process a signal."""
        self.processes[name].send_signal(number)

    def stop(self) -> None:
        """End all processes: asked first, then by force."""
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _register(self, party: str, name: str, values: Any) -> None:
        folder = self.folder(party)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.npy"
        np.save(path, values)
        kind = "integer" if values.dtype.kind in "iu" else "real"
        bound = float(max(np.abs(values).max(), 1.0))
        DatasetStore(folder / DATASETS).add(Registration(name=name, path=str(path), kind=kind, bound=bound))  # type: ignore[arg-type]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 0.5).close()
    except OSError:
        return False
    return True
