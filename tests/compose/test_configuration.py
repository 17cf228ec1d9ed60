"""The files of the compose cluster fit together; no engine is needed to see that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.jobfile import load_job
from party_node.datasets import DatasetStore
from services.settings import CoordinatorSettings, DealerSettings, PartySettings, ServiceSettings, load_settings

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "deploy" / "compose"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PARTIES = ("alice", "bob", "carol")
SETTINGS: dict[str, type[ServiceSettings]] = {
    "coordinator": CoordinatorSettings,
    "dealer": DealerSettings,
    **dict.fromkeys(PARTIES, PartySettings),
}


@pytest.fixture(autouse=True)
def only_the_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set in the environment for another purpose does not reach the settings."""
    for variable in ("PARLEY_LISTEN", "PARLEY_ADVERTISE", "PARLEY_INSECURE", "PARLEY_NAME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("node", SETTINGS)
def test_a_node_listens_where_the_others_look_for_it(node: str) -> None:
    settings = load_settings(SETTINGS[node], FOLDER / f"{node}.yaml")
    assert settings.name == node
    assert settings.advertise == f"{node}:7700"
    assert settings.listen == "0.0.0.0:7700"
    assert not settings.insecure
    mounts = [mount.split(":")[1] for mount in SERVICES[node]["volumes"]]
    assert str(settings.tls.directory) in mounts
    assert str(settings.data_directory) in mounts


def test_the_coordinator_knows_every_node() -> None:
    settings = load_settings(CoordinatorSettings, FOLDER / "coordinator.yaml")
    assert settings.dealer is not None
    known = {node.name: node.address for node in [*settings.parties, settings.dealer]}
    assert known == {node: f"{node}:7700" for node in SETTINGS if node != "coordinator"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_hardened(service: str) -> None:
    definition = SERVICES[service]
    assert definition["read_only"] is True
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition["user"] == "10001:10001"
    assert not {"privileged", "cap_add", "ports", "devices", "pid", "ipc"} & set(definition)
    if service in SETTINGS:
        assert "test" in definition["healthcheck"]
        writable = [mount for mount in definition["volumes"] if not mount.endswith(":ro")]
        assert writable == [f"state-{service}:/var/lib/parley"]


@pytest.mark.parametrize("party", PARTIES)
def test_the_sample_data_can_be_registered(party: str, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path)
    rows = {
        tensor.name: tensor.shape
        for split in ("train", "test")
        for tensor in store.add(FOLDER / "sample" / party / f"{split}.yaml")
    }
    assert rows == {"train_x": (499, 64), "train_y": (499, 10), "test_x": (100, 64), "test_y": (100, 10)}


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_the_sample_jobs_are_valid(name: str) -> None:
    assert load_job(FOLDER / "sample" / f"{name}.yaml").parties == list(PARTIES)
