"""What is revealed to a party itself: written to its disk, for its operator only (files 0600), never half.

A job has a folder. Results named `model.<parameter>` of one execution become `model.safetensors` (float32, with the
names of a state_dict: `load_state_dict` of a plain module takes them); `metrics.<name>.<epoch>` are collected in
`metrics.json` ({name: {epoch: value}}); any other result is `<name>.npy`, or, where it is a single number, an entry of
`values.json`.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from safetensors.numpy import save

from parley.errors import InputError, ParleyError
from parley.ring import fixed
from parley.runtime.session import Revealed

MODEL = "model.safetensors"
METRICS = "metrics.json"
VALUES = "values.json"

_MODEL_PREFIX = "model."
_METRIC = re.compile(r"metrics\.([A-Za-z0-9_-]+)\.([0-9]+)")


class ResultStore:
    """The results of one party, a folder for each job in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def folder(self, job: str) -> Path:
        """Where a job's results are; raises InputError where the job's name could leave the directory."""
        name = quote(job, safe="")
        if not name or name.startswith("."):
            raise InputError(f"{job!r} is no name of a job")
        return self.directory / name

    def write(self, job: str, results: Sequence[Revealed]) -> None:
        """Keep what one command has revealed to this party; raises ParleyError where the disk does not take it."""
        folder = self.folder(job)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            models: dict[int, dict[str, Any]] = {}
            for result in results:
                values = np.asarray(fixed.decode(result.values, result.scale))
                metric = _METRIC.fullmatch(result.name)
                if result.name.startswith(_MODEL_PREFIX):
                    model = models.setdefault(result.execution, {})
                    model[result.name.removeprefix(_MODEL_PREFIX)] = np.array(values, dtype=np.float32, order="C")
                elif metric is not None and values.size == 1:
                    _update(folder / METRICS, metric[1], {metric[2]: float(values.reshape(()))})
                elif values.ndim == 0:
                    _update(folder / VALUES, result.name, float(values))
                else:
                    buffer = io.BytesIO()
                    np.save(buffer, values, allow_pickle=False)
                    _write(folder / f"{quote(result.name, safe='')}.npy", buffer.getvalue())
            for execution in sorted(models):
                _write(folder / MODEL, save(models[execution], {"format": "pt"}))
        except OSError as error:
            raise ParleyError(f"results cannot be written to {folder}: {error.strerror or error}") from error


def _update(path: Path, key: str, value: Any) -> None:
    """Set an entry of a JSON object; an object is merged with the one that is there."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    _write(path, (json.dumps(content, indent=1) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Replace a file by one that is whole and readable by its owner only."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
