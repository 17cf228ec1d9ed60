"""The plain PyTorch module of a job: a built-in one, or a class in a file beside the job file.

It is built on the submitter's machine, where the job is recorded as a plan; no other machine runs a user's Python.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import torch
from torch import nn

from coordinator.jobfile import Job, ModelChoice
from parley.errors import InputError


def build_model(job: Job, *, features: tuple[int, ...], outputs: int, directory: Path | None = None) -> nn.Module:
    """The model of `job`, float32 on the CPU, with initial weights that only `train.seed` decides.

    `features` is the shape of one row of the data (without the rows), `outputs` the number of classes, or of targets.
    A built-in maps (rows, features) to logits (rows, classes), to one logit (rows, 1) for logistic regression, or to
    (rows, outputs) for linear regression. `directory` is that of the job file, where `entry` is looked for. PyTorch's
    global random state is left as it was.

    InputError if the job has no model, its declared sizes are not those of the data, or `entry` cannot be used.
    """
    if job.model is None:
        raise InputError(f"job `{job.name}`: it has no model: add `model`")
    seed = 0 if job.train is None else job.train.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if job.model.entry is None:
            return _builtin(job.model, features, outputs)
        if directory is None:
            raise InputError(f"model.entry: {job.model.entry}: the directory of the job file is not known")
        return _from_entry(job.model, directory)


def _builtin(choice: ModelChoice, features: tuple[int, ...], outputs: int) -> nn.Module:
    if not features:
        raise InputError(f"model.builtin: {choice.builtin}: a row of the data is a single number without dimension")
    size = math.prod(features)
    if choice.features is not None and choice.features != size:
        raise InputError(f"model.features: {choice.features}, but a row of the data has {size}: mend or remove it")
    if choice.builtin == "logistic_regression":
        if outputs > 2:
            raise InputError(f"model.builtin: logistic_regression, but the data has {outputs} classes")
        outputs = 1
    elif choice.classes is not None and choice.classes != outputs:
        raise InputError(f"model.classes: {choice.classes}, but the data has {outputs}: mend or remove it")
    sizes = [size, *(choice.hidden or ()), outputs]
    layers: list[nn.Module] = [] if len(features) == 1 else [nn.Flatten()]
    for index, (inside, outside) in enumerate(itertools.pairwise(sizes)):
        if index > 0:
            layers.append(nn.ReLU())
        layers.append(nn.Linear(inside, outside))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _from_entry(choice: ModelChoice, directory: Path) -> nn.Module:
    entry = str(choice.entry)
    file_name, class_name = entry.rsplit(":", 1)
    root = directory.resolve()
    path = (root / file_name).resolve()
    if not path.is_relative_to(root):
        raise InputError(
            f"model.entry: {entry}: leads out of the job file's directory: put the file beside the job file"
        )
    if not path.is_file():
        raise InputError(f"model.entry: {entry}: there is no file {path}: put it beside the job file")
    # A name of its own, so that it hides no other module; registered while it runs, as dataclasses need it.
    name = f"parley_job_entry_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"model.entry: {entry}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        found = getattr(module, class_name, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise InputError(f"model.entry: {entry}: {path} has no class `{class_name}` derived from torch.nn.Module")
        built = found(**(choice.args or {}))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise InputError(f"model.entry: {entry}: {type(error).__name__}: {error}") from error
    finally:
        sys.modules.pop(name, None)
    doubles = [key for key, value in built.named_parameters() if value.dtype != torch.float32]
    if doubles:
        raise InputError(f"model.entry: {entry}: the parameter `{doubles[0]}` is not float32: leave the default type")
    return built
