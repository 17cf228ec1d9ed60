"""A submitter's side of the coordinator: where it is, and the calls on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from parley.errors import IdentityError, InputError, NotFound
from services.client import Connection
from services.identity import Identity
from services.parts import join, split
from services.protocol import coordinator_pb2 as pb
from services.protocol import coordinator_pb2_grpc, session_pb2
from services.settings import split_address

DEFAULT_NAME = "coordinator"
IN_CONTAINER = Path("/etc/parley/identity")
"""Where a container of the image has its identity; the coordinator is `coordinator:7700` there."""
SUBMIT_SECONDS, RESULT_SECONDS = 300.0, 300.0
MAXIMUM_RESULT_BYTES = 4 << 30
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Address:
    """Where the coordinator is, its name, and the identity to show it."""

    address: str
    name: str
    identity: Path
    source: str
    """Where this is written, for messages."""


def cluster_directory(given: Path | None = None) -> Path:
    """The directory of the local cluster: `given`, or PARLEY_LOCAL_CLUSTER, or one below the user's state directory."""
    if given is not None:
        return given
    if os.environ.get("PARLEY_LOCAL_CLUSTER"):
        return Path(os.environ["PARLEY_LOCAL_CLUSTER"])
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "parley" / "cluster"


def find_coordinator(
    coordinator: str | None = None, identity: Path | None = None, cluster: Path | None = None
) -> Address:
    """The coordinator to talk to: as given, or PARLEY_COORDINATOR and PARLEY_IDENTITY, or the local cluster.

    `coordinator` is `host:port`, or `name@host:port` where its name is not `coordinator`. `cluster`: a directory of
    `parley up`. Raises InputError, NotFound.
    """
    if cluster is None:
        coordinator = coordinator or os.environ.get("PARLEY_COORDINATOR") or None
        if identity is None and os.environ.get("PARLEY_IDENTITY"):
            identity = Path(os.environ["PARLEY_IDENTITY"])
    if coordinator is not None and identity is not None:
        return _address(coordinator, identity, "the options or the environment")
    directory = cluster_directory(cluster)
    file = directory / "client.yaml"
    if file.is_file():
        found = _from_file(file)
        if coordinator is not None:
            found = _address(coordinator, found.identity, str(file))
        return found if identity is None else Address(found.address, found.name, identity, found.source)
    if cluster is None and (IN_CONTAINER / "certificate.pem").is_file():
        return _address(coordinator or f"{DEFAULT_NAME}:7700", identity or IN_CONTAINER, "the container's defaults")
    if cluster is not None:
        raise NotFound(f"there is no cluster in {directory}: `parley up --dir {directory}` makes one")
    missing = (
        "the coordinator is not known: give --coordinator host:port (PARLEY_COORDINATOR)"
        if coordinator is None
        else "the identity is not known: give --identity DIR (PARLEY_IDENTITY)"
    )
    raise NoConnection(f"{missing}, or start a local cluster with `parley up`")


class NoConnection(IdentityError):
    """Nothing says where the coordinator is, or who is asking."""


def _address(coordinator: str, identity: Path, source: str) -> Address:
    name, at, address = coordinator.rpartition("@")
    split_address(address, "the coordinator")
    return Address(address, name if at else DEFAULT_NAME, identity, source)


def _from_file(path: Path) -> Address:
    try:
        values = yaml.safe_load(path.read_text())
        return Address(
            str(values["coordinator"]), str(values["name"]), path.parent / str(values["identity"]), str(path)
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not say where the coordinator is ({error}): `parley up` writes it") from error


class CoordinatorClient:
    """The calls of a submitter. Each raises the error of ours that a failure stands for."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.identity = Identity.load(address.identity)
        if self.identity.role not in ("submitter", "party"):
            raise IdentityError(
                f"{address.identity} is the identity of a {self.identity.role}: jobs are for a submitter's"
            )
        self._connection = Connection(address.address, "coordinator", address.name, self.identity)
        self._stub = coordinator_pb2_grpc.CoordinatorStub(self._connection.channel)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> CoordinatorClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def datasets(self) -> list[session_pb2.Dataset]:
        """What the parties offer."""
        return list(self._call(self._stub.ListDatasets, session_pb2.ListDatasetsRequest(), 30.0).datasets)

    def nodes(self) -> list[pb.NodeStatus]:
        """Every node that the coordinator knows."""
        return list(self._call(self._stub.ListNodes, pb.ListNodesRequest(), 30.0).nodes)

    def submit(self, request: pb.SubmitJobRequest) -> pb.Job:
        """Queue a job. With the same key it may be repeated."""
        with self._connection.explained():
            job: pb.Job = self._stub.SubmitJob(
                split(request), timeout=SUBMIT_SECONDS, metadata=self._connection.metadata
            )
        return job

    def jobs(self, states: list[pb.JobState.ValueType], limit: int) -> list[pb.Job]:
        """The caller's jobs, the newest first."""
        return list(self._call(self._stub.ListJobs, pb.ListJobsRequest(states=states, limit=limit)).jobs)

    def job(self, id: str) -> pb.Job:
        """One job."""
        return self._call(self._stub.GetJob, pb.GetJobRequest(id=id))

    def watch(self, id: str, timeout: float | None = None) -> Iterator[pb.Job]:
        """The job now and at every change, until it has ended."""
        with self._connection.explained():
            yield from self._stub.WatchJob(pb.GetJobRequest(id=id), timeout=timeout, metadata=self._connection.metadata)

    def cancel(self, id: str, reason: str) -> pb.Job:
        """Ask for the end of a job."""
        return self._call(self._stub.CancelJob, pb.CancelJobRequest(id=id, reason=reason))

    def result(self, id: str) -> pb.Result:
        """What an ended job reveals to the caller, sealed."""
        with self._connection.explained():
            answers = self._stub.GetResult(
                pb.GetJobRequest(id=id), timeout=RESULT_SECONDS, metadata=self._connection.metadata
            )
            return next(join(answers, MAXIMUM_RESULT_BYTES))

    def _call(self, method: Callable[..., Answer], request: Any, timeout: float = 15.0) -> Answer:
        return self._connection.call(method, request, timeout)
