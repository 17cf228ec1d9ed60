"""Building a job's plain PyTorch module."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coordinator.jobfile import Job, parse_job
from coordinator.models import build_model
from parley.errors import InputError

TEMPLATE = """
kind: train
name: job
parties: [alice, bob]
data: {{train: {{stack: [alice/a, bob/b]}}}}
model: {model}
train: {{loss: {loss}, optimizer: {{sgd: {{lr: 0.1}}}}, epochs: 1, batch_size: 8, seed: {seed}}}
reveal: {{model: [alice]}}
"""


def job(model: str, loss: str = "cross_entropy", seed: int = 7) -> Job:
    return parse_job(TEMPLATE.format(model=model, loss=loss, seed=seed))


def entry(name: str, **arguments: Any) -> Job:
    return job(f"{{entry: '{name}', args: {arguments}}}" if arguments else f"{{entry: '{name}'}}")


@pytest.mark.parametrize(
    ("model", "loss", "features", "outputs", "shape", "layers"),
    [
        ("{builtin: softmax_regression, features: 784, classes: 10}", "cross_entropy", (784,), 10, (5, 10), 1),
        ("{builtin: softmax_regression}", "cross_entropy", (28, 28), 10, (5, 10), 1),
        ("{builtin: mlp, hidden: [128, 64]}", "cross_entropy", (784,), 10, (5, 10), 3),
        ("{builtin: mlp, hidden: [4]}", "mse", (3,), 2, (5, 2), 2),
        ("{builtin: logistic_regression, classes: 2}", "bce_with_logits", (9,), 2, (5, 1), 1),
        ("{builtin: logistic_regression}", "bce_with_logits", (9,), 1, (5, 1), 1),
        ("{builtin: linear_regression}", "mse", (9,), 1, (5, 1), 1),
    ],
)
def test_built_in_models(
    model: str, loss: str, features: tuple[int, ...], outputs: int, shape: tuple[int, ...], layers: int
) -> None:
    built = build_model(job(model, loss), features=features, outputs=outputs)
    assert built(torch.zeros(5, *features)).shape == shape
    assert sum(isinstance(module, nn.Linear) for module in built.modules()) == layers
    assert sum(isinstance(module, nn.ReLU) for module in built.modules()) == layers - 1


def test_the_seed_alone_decides_the_weights_and_the_global_state_stays() -> None:
    def weights(seed: int) -> torch.Tensor:
        built = build_model(job("{builtin: mlp, hidden: [4]}", seed=seed), features=(3,), outputs=2)
        return torch.cat([parameter.flatten() for parameter in built.parameters()])

    torch.manual_seed(1)
    first = weights(7)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(weights(7), first)
    assert not torch.equal(weights(8), first)


@pytest.mark.parametrize(
    ("model", "features", "outputs", "message"),
    [
        (
            "{builtin: softmax_regression, features: 783}",
            (784,),
            10,
            "model.features: 783, but a row of the data has 784",
        ),
        ("{builtin: softmax_regression, classes: 9}", (784,), 10, "model.classes: 9, but the data has 10"),
        ("{builtin: softmax_regression}", (), 10, "a single number without dimension"),
    ],
)
def test_sizes_that_are_not_the_data_s(model: str, features: tuple[int, ...], outputs: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(job(model), features=features, outputs=outputs)


def test_logistic_regression_tells_two_classes_apart() -> None:
    with pytest.raises(InputError, match="the data has 3 classes"):
        build_model(job("{builtin: logistic_regression}", "bce_with_logits"), features=(4,), outputs=3)


def test_an_entry_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from torch import nn\n"
        "@dataclasses.dataclass\n"
        "class Size:\n    width: int\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width=2):\n"
        "        super().__init__(nn.Linear(3, Size(width).width))\n"
    )
    built = build_model(entry("models.py:Net", width=5), features=(3,), outputs=5, directory=tmp_path)
    assert built(torch.zeros(1, 3)).shape == (1, 5)
    assert isinstance(built, nn.Sequential)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("class Net: pass", "models.py:Net", "no class `Net` derived from torch.nn.Module"),
        ("Net = 3", "models.py:Net", "no class `Net`"),
        ("", "models.py:Net", "no class `Net`"),
        ("1 / 0", "models.py:Net", "models.py:Net: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "models.py:Net", "SystemExit"),
        ("class Net(:", "models.py:Net", "SyntaxError"),
        ("", "other.py:Net", "there is no file .*other.py: put it beside the job file"),
        ("", "../outside.py:Net", "leads out of the job file's directory"),
        ("", "link.py:Net", "leads out of the job file's directory"),
        ("", "/etc/outside.py:Net", "leads out of the job file's directory"),
        ("from torch import nn\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(1, 1, dtype=__import__"
         "('torch').float64)", "models.py:Net", "`weight` is not float32"),
    ],
)  # fmt: skip
def test_entries_that_cannot_be_used(tmp_path: Path, source: str, name: str, message: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (tmp_path / "outside.py").write_text("from torch import nn\nclass Net(nn.Identity): pass\n")
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    (folder / "models.py").write_text(source)
    with pytest.raises(InputError, match=message):
        build_model(entry(name), features=(3,), outputs=5, directory=folder)


def test_a_job_without_a_directory_has_no_entry() -> None:
    with pytest.raises(InputError, match="the directory of the job file is not known"):
        build_model(entry("models.py:Net"), features=(3,), outputs=5)
