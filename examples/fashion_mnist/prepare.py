"""Splits Fashion-MNIST among parties, and writes each one's registrations and the job files.

    python -m examples.fashion_mnist.prepare --out DIR [--parties 3] [--rows N] [--cache DIR] [--digits]

writes

    DIR/alice/train.yaml, test.yaml       registrations, for `parley data add`, with the IDX files they name
    DIR/bob/ …                            the same for every party, with other rows
    DIR/softmax.yaml, DIR/mlp.yaml        job files: softmax regression, and 784-128-128-10 with ReLU
    DIR/source.json                       what the images are and where they came from
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from examples.fashion_mnist.source import Images, digits, find_images, to_stderr
from parley.errors import InputError

Array = npt.NDArray[Any]

PARTIES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED = 3, 128, 0.1, 7


def party_names(count: int) -> list[str]:
    """alice, bob, carol, …; after the eighth, party-9 and so on. InputError below two."""
    if count < 2:
        raise InputError(f"{count} parties: secret sharing needs at least 2")
    return [PARTIES[index] if index < len(PARTIES) else f"party-{index + 1}" for index in range(count)]


def prepare(
    out: Path,
    *,
    parties: int = 3,
    rows: int | None = None,
    cache: Path = Path("data/fashion-mnist"),
    images: Images | None = None,
    report: Callable[[str], None] = to_stderr,
) -> dict[str, Any]:
    """Writes everything named above below `out`; returns the contents of source.json.

    `rows`: training images in all (default: all); of the test images as large a part is kept. The parties' slices are
    contiguous and in order, so that stacked they are the data in its own order. InputError if there are too few rows.
    """
    names = party_names(parties)
    if images is None:
        images = find_images(cache, report)
    total = len(images.train_x)
    train_rows = total if rows is None else rows
    if not parties <= train_rows <= total:
        raise InputError(f"--rows {train_rows}: choose {parties} to {total}, at least one a party")
    test_rows = max(parties, len(images.test_x) * train_rows // total)
    pixels = int(np.prod(images.train_x.shape[1:]))
    for split, x, y, count in (
        ("train", images.train_x, images.train_y, train_rows),
        ("test", images.test_x, images.test_y, test_rows),
    ):
        edges = [count * index // parties for index in range(parties + 1)]
        for party, start, stop in zip(names, edges[:-1], edges[1:], strict=True):
            folder = out / party
            folder.mkdir(parents=True, exist_ok=True)
            write_idx(folder / f"{split}-images.idx", x[start:stop])
            write_idx(folder / f"{split}-labels.idx", y[start:stop])
            _write_yaml(folder / f"{split}.yaml", _registration(split, pixels, images.largest, images.classes))
    for name, model in (
        ("softmax", {"builtin": "softmax_regression"}),
        ("mlp", {"builtin": "mlp", "hidden": [128, 128]}),
    ):
        _write_yaml(out / f"{name}.yaml", _job(f"{images.name}-{name}", names, model))
    source = {
        "images": images.name,
        "origin": images.origin,
        "parties": names,
        "train_rows": train_rows,
        "test_rows": test_rows,
        "features": pixels,
        "classes": images.classes,
    }
    (out / "source.json").write_text(json.dumps(source, indent=2) + "\n")
    report(f"{train_rows} training and {test_rows} test images for {', '.join(names)} in {out}")
    return source


def write_idx(path: Path, values: Array) -> None:
    """Bytes as an IDX file, which `party_node` reads."""
    if values.dtype != np.uint8:
        raise InputError(f"{path}: {values.dtype}, not uint8")
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + np.ascontiguousarray(values).tobytes())


def _registration(split: str, pixels: int, largest: int, classes: int) -> dict[str, Any]:
    return {
        "name": split,
        "path": f"{split}-images.idx",
        "shape": [pixels],
        "normalise": {"scale": largest},
        "bound": 1,
        "labels": {"path": f"{split}-labels.idx", "treat": "one_hot", "classes": classes},
    }


def _job(name: str, parties: list[str], model: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "train",
        "name": name,
        "parties": parties,
        "data": {split: {"stack": [f"{party}/{split}" for party in parties]} for split in ("train", "test")},
        "model": model,
        "train": {
            "loss": "cross_entropy",
            "optimizer": {"sgd": {"lr": LEARNING_RATE}},
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "seed": SEED,
        },
        "evaluate": {"metrics": ["accuracy", "loss"], "every": "epoch"},
        "reveal": {"model": [parties[0], "submitter"], "metrics": [*parties, "submitter"]},
    }


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=110))


def main() -> None:
    """The command line named above; prints source.json."""
    parser = argparse.ArgumentParser(description="Split Fashion-MNIST among parties and write the job files.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--parties", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training images in all (default: every one)")
    parser.add_argument("--cache", type=Path, default=Path("data/fashion-mnist"), help="where fetched images are kept")
    parser.add_argument("--digits", action="store_true", help="take scikit-learn's digits, without looking further")
    options = parser.parse_args()
    try:
        images = digits(lambda line: None) if options.digits else None
        source = prepare(options.out, parties=options.parties, rows=options.rows, cache=options.cache, images=images)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    print(json.dumps(source))


if __name__ == "__main__":
    main()
