"""A party's own results on its disk: in their forms, whole, for its operator only, and never outside their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from parley.errors import InputError, ParleyError
from parley.ring import fixed
from parley.runtime.session import Revealed
from party_node.results import ResultStore


def revealed(name: str, values: object, execution: int = 0, scale: int = 16) -> Revealed:
    return Revealed(name, execution, "alice", fixed.encode(np.asarray(values), scale), scale, True)


def test_a_model_loads_into_a_plain_module(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    plain = nn.Linear(3, 2)
    for execution in (4, 5):
        state = {name: value.detach().numpy() * execution for name, value in plain.state_dict().items()}
        store.write("job1", [revealed(f"model.{name}", value, execution) for name, value in state.items()])
    loaded = load_file(store.folder("job1") / "model.safetensors")
    target = nn.Linear(3, 2)
    target.load_state_dict(loaded)
    assert torch.allclose(target.weight, plain.weight * 5, atol=1e-4)
    assert all(value.dtype == torch.float32 for value in loaded.values())


def test_metrics_are_collected_and_a_scalar_parameter_keeps_its_shape(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("job1", [revealed("metrics.accuracy.0", 0.5), revealed("metrics.loss.0", 1.25)])
    store.write("job1", [revealed("metrics.accuracy.1", 0.75), revealed("model.scale", 2.0)])
    metrics = json.loads((store.folder("job1") / "metrics.json").read_text())
    assert metrics == {"accuracy": {"0": 0.5, "1": 0.75}, "loss": {"0": 1.25}}
    assert load_file(store.folder("job1") / "model.safetensors")["scale"].shape == ()


def test_other_results_are_arrays_or_numbers_for_the_operator_only(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    store.write("job1", [revealed("total", 10.0), revealed("../../etc/x", [1.0, 2.0]), revealed("..", [3.0])])
    folder = store.folder("job1")
    assert json.loads((folder / "values.json").read_text()) == {"total": 10.0}
    assert np.load(folder / "..%2F..%2Fetc%2Fx.npy").tolist() == [1.0, 2.0]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.parent for path in written) == [folder] * 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *written])


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden"])
def test_a_job_has_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        ResultStore(tmp_path).folder(name)
    assert ResultStore(tmp_path).folder("a/../../b").parent == tmp_path


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(tmp_path)
    store.write("job1", [revealed("total", 10.0)])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ParleyError, match="No space left"):
        store.write("job1", [revealed("total", 11.0)])
    monkeypatch.undo()
    assert [path.name for path in store.folder("job1").iterdir()] == ["values.json"]
    assert json.loads((store.folder("job1") / "values.json").read_text()) == {"total": 10.0}
