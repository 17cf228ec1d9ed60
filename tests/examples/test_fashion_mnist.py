"""The Fashion-MNIST example: how the images are got, split and registered, the plain baseline and the picture."""

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coordinator.jobfile import load_job
from examples.fashion_mnist import prepare as preparation
from examples.fashion_mnist import source
from examples.fashion_mnist.curves import draw_curves
from examples.fashion_mnist.plain import Curve, plain_curve, plain_model, pool, train_plain
from examples.fashion_mnist.prepare import party_names, prepare
from parley.errors import InputError
from parley.pytorch.batches import batch_rows
from party_node.datasets import DatasetStore


def small(rows: int = 120, tests: int = 30) -> source.Images:
    """Digits under another name: as many as asked for."""
    images = source.digits(lambda line: None)
    return source.Images(
        "small",
        "test",
        images.train_x[:rows],
        images.train_y[:rows],
        images.test_x[:tests],
        images.test_y[:tests],
        10,
        16,
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A small stand-in for the four files, with its checksums in force: its folder and its local address."""
    folder = tmp_path / "served"
    folder.mkdir()
    images = small()
    arrays = (images.train_x, images.train_y, images.test_x, images.test_y)
    sums = {}
    for name, values in zip(source.CHECKSUMS, arrays, strict=True):
        preparation.write_idx(folder / "plain", values)
        contents = (folder / "plain").read_bytes()
        sums[name] = hashlib.sha256(contents).hexdigest()
        (folder / f"{name}.gz").write_bytes(gzip.compress(contents))
    monkeypatch.setattr(source, "CHECKSUMS", sums)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_installed_images_are_taken_first(tiny: tuple[Path, str], tmp_path: Path) -> None:
    lines: list[str] = []
    images = source.find_images(tmp_path / "cache", lines.append, installed=tiny[0])
    assert images.name == "fashion-mnist"
    assert lines == ["Fashion-MNIST: the installed package dataset-fashion-mnist"]
    assert np.array_equal(images.train_x, small().train_x)
    assert np.array_equal(images.test_y, small().test_y)


def test_a_download_is_checked_and_kept(
    tiny: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    source._download(cache, lambda line: None, tiny[1])
    monkeypatch.setattr(source, "_from_debian", lambda *_: pytest.fail("the cache comes first"))
    images = source.find_images(cache, lambda line: None, installed=tmp_path / "none")
    assert images.origin == "the copy of an earlier run"
    assert len(list(cache.iterdir())) == 4


def test_other_bytes_than_fashion_mnist_are_refused(
    tiny: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = tiny
    name = "t10k-labels-idx1-ubyte"
    contents = bytearray(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    contents[-1] ^= 1
    (folder / f"{name}.gz").write_bytes(gzip.compress(contents))
    with pytest.raises(InputError, match="its checksum differs"):
        source._download(tmp_path / "cache", lambda line: None, address)
    assert not (tmp_path / "cache" / f"{name}.gz").exists()
    assert not list((tmp_path / "cache").glob("*.part"))
    lines: list[str] = []

    def nowhere(*_: object) -> Path:
        raise InputError("no network")

    monkeypatch.setattr(source, "_from_debian", nowhere)
    monkeypatch.setattr(source, "_download", nowhere)
    images = source.find_images(tmp_path / "cache", lines.append, installed=folder)
    assert images.name == "digits"
    assert "using scikit-learn's digits" in lines[-1]
    assert any("its checksum differs" in line for line in lines)
    assert (len(images.train_x), len(images.test_x), images.largest) == (1497, 300, 16)


@pytest.mark.parametrize(("parties", "rows"), [(2, None), (3, 100), (5, 7)])
def test_the_parties_slices_stacked_are_the_data(tmp_path: Path, parties: int, rows: int | None) -> None:
    images = small()
    described = prepare(tmp_path, parties=parties, rows=rows, images=images, report=lambda line: None)
    count = rows or len(images.train_x)
    assert described["train_rows"] == count
    for name in ("softmax", "mlp"):
        job = load_job(tmp_path / f"{name}.yaml")
        assert job.parties == party_names(parties)
        data = pool(tmp_path, job)
        assert np.allclose(data.train_x, images.train_x[:count].reshape(count, 64) / 16)
        assert np.array_equal(data.train_y.argmax(axis=1), images.train_y[:count])
        assert len(data.test_x) == described["test_rows"] == max(parties, 30 * count // 120)


def test_registrations_are_what_a_party_takes(tmp_path: Path) -> None:
    prepare(tmp_path / "out", images=small(), report=lambda line: None)
    store = DatasetStore(tmp_path / "node")
    x, y = store.add(tmp_path / "out" / "bob" / "train.yaml")
    assert (x.name, x.shape, x.kind, x.bound) == ("train_x", (40, 64), "real", 1.0)
    assert (y.name, y.shape, y.kind, y.classes) == ("train_y", (40, 10), "one_hot", 10)


def test_numbers_of_parties_and_rows() -> None:
    assert party_names(3) == ["alice", "bob", "carol"]
    assert party_names(10)[7:] == ["heidi", "party-9", "party-10"]
    with pytest.raises(InputError, match="at least 2"):
        party_names(1)
    for rows in (2, 121):
        with pytest.raises(InputError, match="choose 3 to 120"):
            prepare(Path("unused"), rows=rows, images=small(), report=lambda line: None)


def test_the_plain_baseline_learns_and_measures_where_it_should(tmp_path: Path) -> None:
    prepare(tmp_path, images=source.digits(lambda line: None), report=lambda line: None)
    curve = plain_curve(tmp_path, tmp_path / "softmax.yaml", measurements=2)
    # 1497 rows in batches of 128 are 12 steps an epoch.
    assert curve.steps == [0, 6, 12, 18, 24, 30, 36]
    assert curve.loss[-1] < curve.loss[0] - 0.3
    assert curve.accuracy[-1] > 0.7
    assert curve == plain_curve(tmp_path, tmp_path / "softmax.yaml", measurements=2)


def test_the_plain_baseline_follows_the_given_batches(tmp_path: Path) -> None:
    prepare(tmp_path, images=small(), report=lambda line: None)
    job = load_job(tmp_path / "softmax.yaml")
    data = pool(tmp_path, job)
    model = plain_model(job, data)
    weight, bias = (parameter.detach().double() for parameter in model.parameters())
    curve = train_plain(model, data, batch_rows(120, 50, 1, seed=3), job, at=())
    assert curve.steps == [0, 3]
    # The same by hand, from the gradient's formula.
    x, y = torch.from_numpy(data.train_x).double(), torch.from_numpy(data.train_y).double()
    for rows in batch_rows(120, 50, 1, seed=3):
        error = torch.softmax(x[rows] @ weight.T + bias, dim=1) - y[rows]
        weight = weight - 0.1 * error.T @ x[rows] / len(rows)
        bias = bias - 0.1 * error.mean(dim=0)
    assert torch.allclose(next(model.parameters()).double(), weight, atol=1e-5)


@pytest.mark.parametrize("points", [3, 40])
def test_the_picture(tmp_path: Path, points: int) -> None:
    def curve(count: int) -> Curve:
        at = np.linspace(0, 1, count)
        return Curve([round(300 * x) for x in at], list(2 - at), list(0.5 + at / 3))

    path = tmp_path / "out" / "curves.png"
    draw_curves(curve(points), curve(30), path, title="Title", steps_per_epoch=100)
    with Image.open(path) as image:
        assert image.size == (1600, 720)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    assert {(0xC2, 0x41, 0x0C), (0x47, 0x55, 0x69)} <= colours


def test_curves_of_unequal_lists_are_refused(tmp_path: Path) -> None:
    for broken in (Curve(), Curve([1], [1.0], [])):
        with pytest.raises(InputError, match="the secure curve needs as many"):
            draw_curves(broken, Curve([1], [1.0], [1.0]), tmp_path / "c.png", title="", steps_per_epoch=1)
