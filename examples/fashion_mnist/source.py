"""Finds Fashion-MNIST: installed, from Debian, or from its authors; where none can be had, scikit-learn's digits.

From Debian the package `dataset-fashion-mnist` (of main) is fetched with APT, which checks its signature, and unpacked
into the cache with `dpkg-deb`: nothing is installed, no rights are needed, and APT's lists are private ones, so that it
works on a machine where `apt-get update` never ran. Every file is compared with the SHA-256 of its contents, whatever
it was got from. (Of the contents, not of the archive: Debian packs the same bytes anew.)
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from parley.errors import InputError
from party_node.readers import Source, read_table

Array = npt.NDArray[Any]

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CHECKSUMS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Images:
    """Images uint8 (rows, height, width) and labels uint8 (rows,), for training and for testing."""

    name: str
    """`fashion-mnist` or `digits`."""
    origin: str
    """Where they came from, in words."""
    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    classes: int
    largest: int
    """The largest value of a pixel."""


def find_images(cache: Path, report: Callable[[str], None], installed: Path = INSTALLED) -> Images:
    """Fashion-MNIST, or the digits, as said above. What is fetched is kept in `cache`; `report` gets a line a step."""
    ways: list[tuple[str, Callable[[], Path]]] = [
        (f"the installed package {PACKAGE}", lambda: installed),
        ("the copy of an earlier run", lambda: cache),
        (f"Debian's package {PACKAGE}", lambda: _from_debian(cache, report)),
        (f"a download from {ADDRESS}", lambda: _download(cache, report)),
    ]
    for origin, way in ways:
        try:
            folder = way()
            if not folder.is_dir() or not all((folder / f"{name}.gz").is_file() for name in CHECKSUMS):
                continue
            files = {name: _checked(folder / f"{name}.gz", name) for name in CHECKSUMS}
        except (InputError, OSError, subprocess.SubprocessError) as error:
            report(f"{origin}: {' '.join(str(error).split())}")
            continue
        report(f"Fashion-MNIST: {origin}")
        return Images(
            "fashion-mnist",
            origin,
            files["train-images-idx3-ubyte"],
            files["train-labels-idx1-ubyte"],
            files["t10k-images-idx3-ubyte"],
            files["t10k-labels-idx1-ubyte"],
            classes=10,
            largest=255,
        )
    return digits(report)


def digits(report: Callable[[str], None]) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,497 to train on, 300 to test on, in a fixed order."""
    from sklearn.datasets import load_digits  # only where Fashion-MNIST cannot be had

    report("Fashion-MNIST could not be had: using scikit-learn's digits (1,797 images of 8x8 pixels) instead")
    loaded = load_digits()
    x, y = loaded.images.astype(np.uint8), loaded.target.astype(np.uint8)
    order = np.argsort(np.random.PCG64(0).random_raw(len(x)), kind="stable")  # the file is in order of the writers
    x, y = x[order], y[order]
    return Images("digits", "scikit-learn", x[:-300], y[:-300], x[-300:], y[-300:], classes=10, largest=16)


def _checked(path: Path, name: str) -> Array:
    """The array in `path` (IDX, gzipped), if its contents are those of Fashion-MNIST."""
    try:
        with gzip.open(path, "rb") as file:
            contents = file.read(_MOST_BYTES)
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}): remove it") from error
    if hashlib.sha256(contents).hexdigest() != CHECKSUMS[name]:
        raise InputError(f"{path}: not the {name} of Fashion-MNIST (its checksum differs): remove it")
    return read_table(Source(path, "idx")).values


def _from_debian(cache: Path, report: Callable[[str], None]) -> Path:
    """Fetches and unpacks the Debian package into `cache`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError("this is not a Debian system")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="apt-") as scratch:
        work = Path(scratch).resolve()
        for folder in ("state/lists/partial", "cache/archives/partial", "files"):
            (work / folder).mkdir(parents=True)
        options = [
            f"Dir::State={work / 'state'}",
            f"Dir::Cache={work / 'cache'}",
            "Dir::State::status=/var/lib/dpkg/status",
            "APT::Sandbox::User=",  # as root, APT would else turn into a user who may not write here
            "Acquire::http::Timeout=20",
            "Acquire::https::Timeout=20",
            "Acquire::Retries=1",
            "Acquire::Languages=none",
        ]
        apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
        report(f"fetching Debian's package {PACKAGE} (31 MB)")
        # An update may fail for an unrelated source and still bring the list that is needed.
        _run([*apt, "update"], work, seconds=180, must=False)
        _run([*apt, "download", PACKAGE], work, seconds=600)
        packages = list(work.glob(f"{PACKAGE}_*.deb"))
        if not packages:
            raise InputError("APT brought no package")
        _run(["dpkg-deb", "-x", str(packages[0]), str(work / "files")], work, seconds=60)
        for name in CHECKSUMS:
            shutil.move(work / "files" / INSTALLED.relative_to("/") / f"{name}.gz", cache / f"{name}.gz")
    return cache


def _run(command: list[str], folder: Path, seconds: float, must: bool = True) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    if must and result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("E:")] or result.stderr.splitlines()
        said = lines[0] if lines else "without a word"
        raise InputError(f"`{command[0]} … {command[-1]}` failed: {said}")


def _download(cache: Path, report: Callable[[str], None], address: str = ADDRESS) -> Path:
    """Fetches the four files from the authors' address into `cache`; each is checked before it gets its name."""
    cache.mkdir(parents=True, exist_ok=True)
    for name in CHECKSUMS:
        report(f"downloading {name}.gz")
        partial = cache / f"{name}.gz.part"
        try:
            with urllib.request.urlopen(f"{address}{name}.gz", timeout=20) as answer:  # noqa: S310 (a fixed address)
                data = answer.read(_MOST_BYTES)
            partial.write_bytes(data)
            _checked(partial, name)
            partial.rename(cache / f"{name}.gz")
        finally:
            partial.unlink(missing_ok=True)
    return cache


def to_stderr(line: str) -> None:
    """Progress of the example's commands."""
    print(line, file=sys.stderr, flush=True)
