"""Fixtures of the services' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services import streams
from services.identity import create_authority
from tests.services.harness import Bob, Office, start_bob


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    directory = tmp_path_factory.mktemp("identities")
    return Office(directory, create_authority(directory / "authority"))


@pytest.fixture(params=["direct", "iterator"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to use gRPC (see services/streams.py)."""
    monkeypatch.setattr(streams, "DIRECT", request.param == "direct")
    return str(request.param)


@pytest.fixture
def bob(office: Office) -> Iterator[Bob]:
    yield from start_bob(lambda role, name: office.identity(role, name))
