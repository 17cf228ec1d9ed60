"""A cluster on this machine: coordinator, dealer and parties as processes of their own, with mutual TLS among them.

    DIR/ca                        the development authority, which signs every node's certificate
    DIR/nodes/NAME/settings.yaml  of one node, with its identity, data, log and, while it runs, its pid beside it
    DIR/submitter                 the identity of whoever uses the cluster
    DIR/client.yaml               how the command line finds it

For development and trial: one machine plays every role here, so nothing is kept from whoever owns it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from parley.errors import InputError, NotFound, Unreachable
from services.identity import Authority, Identity, Role, create_authority, issue

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
COORDINATOR, DEALER, SUBMITTER = "coordinator", "dealer", "submitter"
START_SECONDS = 90.0
STOP_SECONDS = 12.0
MAXIMUM_PARTIES = 8

Report = Callable[[str], None]


class NodeFailed(Unreachable):
    """A process of the cluster ended by itself."""


@dataclass(frozen=True)
class LocalNode:
    """One node of a local cluster."""

    role: Role
    name: str
    directory: Path
    address: str

    @property
    def settings_path(self) -> Path:
        """Its settings, as `parley … serve --config` takes them."""
        return self.directory / "settings.yaml"

    @property
    def log_path(self) -> Path:
        """What its process writes."""
        return self.directory / "log.jsonl"

    @property
    def pid_path(self) -> Path:
        return self.directory / "pid"

    @property
    def identity_directory(self) -> Path:
        return self.directory / "identity"

    def pid(self) -> int | None:
        """The process that runs it, if it does: a process that got the number later is not taken for it."""
        try:
            number, _, started = self.pid_path.read_text().strip().partition(" ")
            pid = int(number)
        except (OSError, ValueError):
            return None
        return pid if started and _start_of(pid) == started else None


class LocalCluster:
    """The cluster in one directory. Several commands may use it at once; one at a time may start or stop it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.client_path.is_file()

    @property
    def client_path(self) -> Path:
        return self.directory / "client.yaml"

    @property
    def submitter_directory(self) -> Path:
        return self.directory / "submitter"

    @property
    def nodes(self) -> list[LocalNode]:
        """Dealer, parties, coordinator. Raises NotFound where there is no cluster."""
        if not self.exists:
            raise NotFound(f"there is no cluster in {self.directory}: `parley up` makes one")
        described = yaml.safe_load(self.client_path.read_text())["nodes"]
        return [
            LocalNode(entry["role"], entry["name"], self.directory / "nodes" / entry["name"], entry["address"])
            for entry in described
        ]

    @property
    def parties(self) -> list[str]:
        """Names of the parties."""
        return [node.name for node in self.nodes if node.role == "party"]

    def node(self, name: str) -> LocalNode:
        """The node of that name. Raises NotFound."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise NotFound(f"the cluster has no node {name!r}; it has {', '.join(node.name for node in self.nodes)}")

    def make(self, parties: int, report: Report) -> None:
        """Write certificates and settings, unless they are there. Raises InputError where another cluster is."""
        if self.exists:
            if len(self.parties) != parties:
                raise Occupied(
                    f"{self.directory} holds a cluster of {len(self.parties)} parties, not {parties}: "
                    "name another directory with --dir, or remove it after `parley down`"
                )
            return
        if not 2 <= parties <= MAXIMUM_PARTIES:
            raise InputError(f"--parties {parties}: a local cluster has 2 to {MAXIMUM_PARTIES}")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        roles: list[tuple[Role, str]] = [("dealer", DEALER)]
        roles += [("party", name) for name in NAMES[:parties]]
        roles.append(("coordinator", COORDINATOR))
        if (self.directory / "ca" / "ca_key.pem").exists():
            raise Occupied(f"{self.directory} holds half a cluster: remove it, or name another directory with --dir")
        authority = create_authority(self.directory / "ca")
        ports = free_ports(len(roles))
        nodes = []
        for (role, name), port in zip(roles, ports, strict=True):
            node = LocalNode(role, name, self.directory / "nodes" / name, f"127.0.0.1:{port}")
            issue(authority, node.identity_directory, role, name)
            nodes.append(node)
        issue(authority, self.submitter_directory, "submitter", SUBMITTER)
        for node in nodes:
            _write_yaml(node.settings_path, _settings(node, nodes))
        client = {
            "coordinator": nodes[-1].address,
            "name": COORDINATOR,
            "identity": "submitter",
            "nodes": [{"role": node.role, "name": node.name, "address": node.address} for node in nodes],
        }
        _write_yaml(self.client_path, client)
        report(f"made certificates and settings of {len(nodes)} nodes in {self.directory}")

    def start(self, report: Report, timeout: float = START_SECONDS) -> list[LocalNode]:
        """Start what does not run, and wait until every node answers that it serves; returns what was started.

        Raises NodeFailed with the end of its log where a process ends instead, Unreachable after `timeout` seconds.
        What this call started is stopped again then.
        """
        with self._one_at_a_time():
            started: dict[str, subprocess.Popen[bytes]] = {}
            try:
                for node in self.nodes:
                    if node.pid() is None:
                        started[node.name] = self._spawn(node)
                self._wait(started, timeout)
                if started:
                    self._wait_for_each_other(timeout)
            except BaseException:
                self._stop([node for node in self.nodes if node.name in started])
                raise
            for node in self.nodes:
                what = "started" if node.name in started else "runs already"
                report(f"{node.role} {node.name}: {what}, pid {node.pid()}, {node.address}")
            return [node for node in self.nodes if node.name in started]

    def stop(self, report: Report) -> list[LocalNode]:
        """Stop every process of the cluster that runs; returns their nodes."""
        with self._one_at_a_time():
            running = [node for node in self.nodes if node.pid() is not None]
            self._stop(running)
            for node in running:
                report(f"{node.role} {node.name}: stopped")
            return running

    def healthy(self, node: LocalNode, timeout: float = 1.0) -> str:
        """`serving`, or what is wrong instead."""
        from services.client import Connection

        identity = Identity.load(self.submitter_directory)
        try:
            with Connection(node.address, node.role, node.name, identity) as connection:
                return health(connection, timeout)
        except Unreachable:
            return "unreachable"

    @staticmethod
    def signal(node: LocalNode, number: signal.Signals) -> None:
        """Send a signal to a node's process, if it runs."""
        pid = node.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _spawn(self, node: LocalNode) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "coordinator.cli", node.role, "serve", "--config", str(node.settings_path)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
        environment["PYTHONUNBUFFERED"] = "1"
        with node.log_path.open("ab") as log:
            # A session of its own, so that Ctrl-C at the terminal does not reach it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        self._processes.append(process)
        node.pid_path.write_text(f"{process.pid} {_start_of(process.pid)}\n")
        return process

    def _wait(self, started: dict[str, subprocess.Popen[bytes]], timeout: float) -> None:
        end = time.monotonic() + timeout
        waiting = list(self.nodes)
        while waiting:
            for node in list(waiting):
                process = started.get(node.name)
                if process is not None and process.poll() is not None:
                    raise NodeFailed(
                        f"{node.role} {node.name} ended with status {process.returncode}: {_last_line(node.log_path)}; "
                        f"all that it said is in {node.log_path}"
                    )
                if _listens(node.address) and self.healthy(node) == "serving":
                    waiting.remove(node)
            if waiting and time.monotonic() > end:
                names = ", ".join(node.name for node in waiting)
                raise Unreachable(f"{names} did not serve within {timeout:g} s; see {waiting[0].log_path}")
            if waiting:
                time.sleep(0.1)

    def _wait_for_each_other(self, timeout: float) -> None:
        """Wait until the coordinator reaches every node: of one that was started again it learns after a moment."""
        from coordinator.client import CoordinatorClient, find_coordinator

        end = time.monotonic() + timeout
        with CoordinatorClient(find_coordinator(cluster=self.directory)) as client:
            while missing := [status for status in client.nodes() if not status.reachable]:
                if time.monotonic() > end:
                    raise Unreachable(f"the coordinator does not reach {missing[0].node.name}: {missing[0].reason}")
                time.sleep(0.2)

    def _stop(self, nodes: list[LocalNode]) -> None:
        """Ask, wait, and end by force what has not ended; only processes that `pid` knows to be ours."""
        # The coordinator first, so that it ends its sessions, and not a session that lost its parties.
        for node in sorted(nodes, key=lambda node: node.role != "coordinator"):
            self.signal(node, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while any(node.pid() is not None for node in nodes) and time.monotonic() < end:
            time.sleep(0.05)
        for node in nodes:
            self.signal(node, signal.SIGKILL)
        end = time.monotonic() + 5
        while any(node.pid() is not None for node in nodes) and time.monotonic() < end:
            time.sleep(0.05)
        for node in nodes:
            if node.pid() is None:
                node.pid_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        self.nodes  # noqa: B018 - raises where there is no cluster
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Occupied(f"another command starts or stops the cluster in {self.directory}: wait") from error
            yield


class Occupied(InputError):
    """What is there stands in the way."""


def health(connection: Any, timeout: float) -> str:
    """What a node's health service says: `serving` or `not serving`. Raises what the call raises."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(connection.channel)
    answer = connection.call(stub.Check, health_pb2.HealthCheckRequest(), timeout=timeout)
    return "serving" if answer.status == health_pb2.HealthCheckResponse.SERVING else "not serving"


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def load_authority(directory: Path) -> Authority:
    """The authority of a cluster."""
    return Authority.load(directory / "ca")


def _settings(node: LocalNode, nodes: list[LocalNode]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": node.name,
        "listen": node.address,
        "tls": {"directory": "identity"},
        "data_directory": "data",
    }
    if node.role == "coordinator":
        addresses = {role: [other for other in nodes if other.role == role] for role in ("party", "dealer")}
        values["parties"] = [{"name": other.name, "address": other.address} for other in addresses["party"]]
        values["dealer"] = {"name": DEALER, "address": addresses["dealer"][0].address}
    return values


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110))
    temporary.replace(path)


def _start_of(pid: int) -> str:
    """When a process started, as the system counts it; empty where there is none, or it has ended and waits for us."""
    try:
        # After the name, which may hold anything but is in parentheses: state (3rd field), …, start time (22nd).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else "-".join(started.split())


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 0.5):
        return True
    return False


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return lines[-1][:500] if lines else "it said nothing"
