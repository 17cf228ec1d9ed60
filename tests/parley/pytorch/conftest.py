from __future__ import annotations

from collections.abc import Iterator

import pytest

import parley
from parley.cluster import Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for all tests of a file: they share nothing but its parties."""
    with parley.local(2) as opened:
        yield opened
