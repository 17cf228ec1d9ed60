"""Registered datasets: every format, every treatment, and the refusal of everything else."""

import gzip
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parley.errors import InputError, NotFound
from party_node import datasets
from party_node.datasets import DatasetStore, Registration
from party_node.readers import Source, read_table
from services.yamlfile import build

X = np.array([[1.5, -2.0], [0.25, 4.0], [3.0, -4.0]], np.float32)
Y = np.array([0, 2, 1], np.uint8)
IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(values: np.ndarray) -> bytes:
    code = IDX_CODES[values.dtype.str[1:]]
    header = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "node" / "datasets")


def registration(path: Path | str, **fields: Any) -> Registration:
    return build({"name": "d", "path": str(path), "bound": 100.0, **fields}, "spec", Registration)


def write(path: Path, values: np.ndarray) -> Path:
    """`values` in the format that the name of `path` tells."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, x=values, other=values[:1])
    elif path.suffix == ".csv":
        np.savetxt(path, values, delimiter=",", header="a,b", comments="", fmt="%.9g")
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.table({"a": values[:, 0], "b": values[:, 1]}), path)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file({"x": np.ascontiguousarray(values), "other": values[:1].copy()}, path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(idx(values)))
    else:
        path.write_bytes(idx(values))
    return path


FORMATS = ["f.npy", "f.npz", "f.csv", "f.parquet", "f.safetensors", "f.idx", "f-idx2-ubyte", "f-idx2-ubyte.gz"]


def key_for(name: str) -> dict[str, str]:
    return {"key": "x"} if name.endswith(("npz", "safetensors")) else {}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_array(tmp_path: Path, store: DatasetStore, name: str) -> None:
    path = write(tmp_path / name, X)
    labels = write(tmp_path / "labels.idx", Y)
    fields = {"labels": {"path": str(labels), "treat": "class_index", "classes": 3}}
    described = store.add(registration(path, **key_for(name), **fields))
    x, y = store.load("d_x"), store.load("d_y")
    assert np.array_equal(x, X)
    assert x.dtype == (np.float64 if name == "f.csv" else np.float64 if name == "f.parquet" else np.float32)
    assert x.flags.c_contiguous
    assert y.dtype == np.int64
    assert list(y) == [0, 2, 1]
    assert [(d.name, d.dataset, d.shape, d.kind, d.classes, d.bound) for d in described] == [
        ("d_x", "d", (3, 2), "real", None, 100.0),
        ("d_y", "d", (3,), "integer", 3, 2.0),
    ]
    assert described[0].columns == (["a", "b"] if name in ("f.csv", "f.parquet") else None)
    assert store.list() == described
    assert store.describe("d_y") == described[1]
    assert store.tensors("d") == ["d_x", "d_y"]
    assert store.tensors("d_y") == ["d_y"]


@given(values=hnp.arrays(np.dtype(">i2"), hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)), packed=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_idx_array_comes_back(tmp_path: Path, values: np.ndarray, packed: bool) -> None:
    path = tmp_path / "v.idx"
    data = idx(values)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert np.array_equal(read_table(Source(path)).values, values)
    path.write_bytes(gzip.compress(data[:-1]) if packed else data[:-1])
    with pytest.raises(InputError, match=r"v.idx: truncated"):
        read_table(Source(path))
    path.write_bytes(gzip.compress(data + b"\0") if packed else data + b"\0")
    with pytest.raises(InputError, match="has bytes after its end"):
        read_table(Source(path))


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = write(tmp_path / name, X)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        values = read_table(Source(path, **key_for(name)), maximum_bytes=1 << 20).values  # type: ignore[arg-type]
    except InputError as error:
        assert name in str(error)  # noqa: PT017 (either outcome is right)
    else:
        assert values.dtype.kind in "buif"
        assert values.nbytes <= 1 << 20


def test_columns_labels_and_rows_of_one_table(tmp_path: Path, store: DatasetStore) -> None:
    path = tmp_path / "t.csv"
    path.write_text('age,name,income,ill\n30,Ann,1e3,1\n40,"Bo, B",2e3,0\n50,Cy,3e3,1\n')
    labels = {"columns": ["ill"], "treat": "one_hot", "classes": 2}
    store.add(registration(path, columns=["income", "age"], bound=5e3, rows=[1, 3], labels=labels))
    assert store.load("d_x").tolist() == [[2e3, 40], [3e3, 50]]
    assert store.describe("d_x").columns == ["income", "age"]
    assert store.load("d_y").tolist() == [[1, 0], [0, 1]]
    assert store.load("d_y").dtype == np.float32
    assert store.describe("d_y").kind == "one_hot"
    path.write_text("age,ill,income\n30,1,2\n")
    store.add(registration(path, labels={"columns": ["ill"], "treat": "real", "bound": 2.0}))
    assert store.describe("d_x").columns == ["age", "income"]
    assert store.load("d_y").tolist() == [[1.0]]


def test_normalisation_is_column_by_column(tmp_path: Path, store: DatasetStore) -> None:
    values = np.array([[1, 7, 3], [2, 7, 5], [6, 7, 4]], np.uint8)
    path = write(tmp_path / "f.idx", values)
    store.add(registration(path, normalise={"scale": 2.0}))
    assert store.load("d").tolist() == (values / 2).tolist()
    store.add(registration(path, normalise="minmax", bound=None))
    assert np.allclose(store.load("d"), [[0, 0, 0], [0.2, 0, 1], [1, 0, 0.5]])
    assert store.describe("d").bound == 1.0
    store.add(registration(path, normalise="standardise"))
    loaded = store.load("d")
    assert np.allclose(loaded.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(loaded.std(axis=0), [1, 0, 1])
    store.add(registration(path, normalise="standardise", rows=[0, 2]))
    assert np.allclose(store.load("d"), [[-1, 0, -1], [1, 0, 1]])


def test_a_constant_column_of_awkward_numbers_becomes_zero(tmp_path: Path, store: DatasetStore) -> None:
    path = write(tmp_path / "f.npy", np.full((1000, 1), 0.1))
    store.add(registration(path, normalise="standardise"))
    assert not store.load("d").any()


def test_shape_and_integers(tmp_path: Path, store: DatasetStore) -> None:
    images = np.arange(2 * 28 * 28, dtype=np.int32).reshape(2, 28, 28)
    path = write(tmp_path / "f.idx", images)
    store.add(registration(path, kind="integer", shape=[784], bound=2000.0))
    assert store.load("d").dtype == np.int64
    assert np.array_equal(store.load("d"), images.reshape(2, 784))
    store.add(registration(path, shape=[1, 28, 28], bound=2000.0))
    assert store.describe("d").shape == (2, 1, 28, 28)
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "f.npy", fortran)
    store.add(registration(tmp_path / "f.npy"))
    assert store.load("d").flags.c_contiguous
    assert np.array_equal(store.load("d"), fortran)


def contents(store: DatasetStore) -> list[Path]:
    return sorted(path for path in store._directory.rglob("*") if path.name != "fingerprint.key")


def refused(store: DatasetStore, path: Path, message: str, **fields: Any) -> None:
    """Adding is refused with `message`, and leaves no trace of the dataset."""
    before = contents(store)
    with pytest.raises(InputError) as caught:
        store.add(registration(path, **fields))
    assert message in str(caught.value)
    assert contents(store) == before
    assert store.list() == []


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("", {}, "t.csv: the file is empty"),
        ("a,b\n", {}, "t.csv: the table is empty: it has a header but no rows"),
        ("a,b\n1,2\n3,four\n", {}, "t.csv: column `b`, row 1: 'four', not a number"),
        ("a,b\n1,2\n3,1_0\n", {}, "t.csv: column `b`, row 1: '1_0', not a number"),
        ("a,b\n1,2\n,4\n", {}, "t.csv: column `a`, row 1: empty"),
        ("a,b\n1,2\n3,nan\n", {}, "t.csv: column `b`, row 1: nan, not a finite number"),
        ("a,b\n1,2\n3,-inf\n", {}, "t.csv: column `b`, row 1: -inf, not a finite number"),
        ("a,b\n1,2\nNA,3\n", {}, "t.csv: column `a`, row 1: 'NA', not a number"),
        ("a,b\n1,2\n3\n", {}, "Row #3: Expected 2 columns, got 1"),
        ("a,b\n1,2,3\n4,5,6\n", {}, "Row #2: Expected 2 columns, got 3"),
        ("a,a\n1,2\n", {}, "t.csv: the column `a` is there twice"),
        ("a,b\n1,2\n", {"columns": ["a", "c"]}, "t.csv: no column `c`; its columns are: a, b"),
        ("a,b\n1,2\n3,101\n", {}, "t.csv: column `b`, row 1: 101.0 is beyond the declared bound 100"),
        ("a,b\n1,2\n3,40000\n", {}, "t.csv: column `b`, row 1: 40000.0: every |value| must be below 32768"),
        ("a,b\n1,2\n3,-32768\n", {}, "t.csv: column `b`, row 1: -32768.0: every |value| must be below 32768"),
        ("a,b\n1,2\n", {"bound": 32768.0}, "bound 32768: it must be below 32768"),
        ("a,b\n1,2\n3,4.5\n", {"kind": "integer"}, "t.csv: column `b`, row 1: 4.5 is not a whole number"),
        ("a,b\n1,2\n", {"shape": [3]}, "shape [3] was declared for a row, but a row of the file is [2]"),
        ("a,b\n1,2\n", {"rows": [0, 2]}, "rows [0, 2] were asked for, but there are 1"),
        ("a,b\n1,2\n", {"key": "x"}, "`key` is for NPZ and safetensors"),
        ("a,b\n1,3\n", {"labels": {"columns": ["b"], "treat": "one_hot", "classes": 3}},
         "t.csv: column `b`, row 0: label 3 is outside 0 … 2"),
        ("a,b\n1,-1\n", {"labels": {"columns": ["b"], "treat": "class_index", "classes": 3}}, "label -1 is outside"),
        ("a,b\n1,0.5\n", {"labels": {"columns": ["b"], "treat": "one_hot", "classes": 3}}, "0.5 is not a whole number"),
        ("a,b\n1,9\n", {"labels": {"columns": ["b"], "treat": "real", "bound": 3.0}}, "9.0 is beyond the declared"),
        ("a,b,c\n1,1,1\n", {"columns": ["a"], "labels": {"columns": ["b", "c"], "treat": "one_hot", "classes": 3}},
         "class labels are one number a row"),
        ("b\n1\n", {"labels": {"columns": ["b"], "treat": "one_hot", "classes": 3}}, "no column is left to read"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(
    tmp_path: Path, store: DatasetStore, text: str, fields: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    refused(store, tmp_path / "t.csv", message, **fields)


def test_rows_are_numbered_as_in_the_file(tmp_path: Path, store: DatasetStore) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n2\n3\n500\n")
    refused(store, tmp_path / "t.csv", "column `a`, row 3: 500.0", rows=[2, 4])
    np.save(tmp_path / "f.npy", np.array([[[1.0, 2], [3, 4]], [[5, np.nan], [7, 8]]]))
    refused(store, tmp_path / "f.npy", "f.npy: element (0, 1), row 1: nan")


def test_bad_arrays_are_refused(tmp_path: Path, store: DatasetStore) -> None:
    np.save(tmp_path / "o.npy", np.array([[1], [None]], dtype=object), allow_pickle=True)
    refused(store, tmp_path / "o.npy", "o.npy: holds Python objects, which are never loaded")
    np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
    refused(store, tmp_path / "o.npz", "o.npz: holds Python objects")
    for name, values, message in (
        ("c.npy", np.ones((2, 2), complex), "holds complex128"),
        ("s.npy", np.array([["a"]]), "holds <U1"),
        ("t.npy", np.array(["2020-01-01"], "datetime64[D]"), "holds datetime64"),
        ("r.npy", np.zeros(2, [("a", "f4")]), "holds [('a', '<f4')]"),
        ("e.npy", np.zeros((0, 3)), "the array is empty"),
        ("n.npy", np.float64(3), "the array is empty"),
        ("u.npy", np.array([[2**64 - 1]], np.uint64), "every |value| must be below 32768"),
    ):
        np.save(tmp_path / name, values)
        refused(store, tmp_path / name, message)
    np.save(tmp_path / "w.npy", X)
    (tmp_path / "w.npy").write_bytes((tmp_path / "w.npy").read_bytes()[:-1])
    refused(store, tmp_path / "w.npy", "truncated")
    header = b"{'descr': '<f4', 'shape': (3, 2), 'fortran_order': False,"
    (tmp_path / "h.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    refused(store, tmp_path / "h.npy", "not an NPY file, or a damaged one")
    np.savez(tmp_path / "k.npz", a=X, b=X)
    refused(store, tmp_path / "k.npz", "which array is meant? Set `key` to one of: a, b")
    refused(store, tmp_path / "k.npz", "no array `c`. Set `key` to one of: a, b", key="c")
    refused(store, tmp_path / "none.npy", "no")
    refused(store, tmp_path, "cannot be read")
    (tmp_path / "x.dat").write_bytes(b"1")
    refused(store, tmp_path / "x.dat", "its name does not tell the format: set `format`")
    refused(store, tmp_path / "x.dat", "not an NPY file", format="npy")
    refused(store, tmp_path / "x.dat", "not an IDX file: it begins with 31", format="idx")
    pa.parquet.write_table(pa.table({"a": ["x"], "b": [1]}), tmp_path / "p.parquet")
    refused(store, tmp_path / "p.parquet", "column `a`, rows 0 on: it holds string, not numbers")
    pa.parquet.write_table(pa.table({"a": [1.0, None], "b": [1, 2]}), tmp_path / "p.parquet")
    refused(store, tmp_path / "p.parquet", "column `a`, row 1: empty")


def test_more_rows_of_labels_than_of_features(tmp_path: Path, store: DatasetStore) -> None:
    path, labels = write(tmp_path / "f.npy", X), write(tmp_path / "y.idx", Y[:2])
    fields = {"labels": {"path": str(labels), "treat": "one_hot", "classes": 3}}
    refused(store, path, "y.idx: 2 rows of labels for 3 rows of features", **fields)


def test_bombs_are_refused_before_they_unfold(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "node", maximum_bytes=1 << 20)
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (1 << 24,)}
        with archive.open("x.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(128):
                file.write(bytes(1 << 20))
    refused(store, tmp_path / "b.npz", "over the limit of 1048576: split the file")
    (tmp_path / "b.idx.gz").write_bytes(gzip.compress(idx(np.zeros((2048, 1024), np.uint8))))
    refused(store, tmp_path / "b.idx.gz", "over the limit of 1048576")
    (tmp_path / "lie.idx.gz").write_bytes(gzip.compress(struct.pack(">HBB2I", 0, 8, 2, 1000, 1000)))
    refused(store, tmp_path / "lie.idx.gz", "truncated")
    (tmp_path / "lie.idx").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    refused(store, tmp_path / "lie.idx", "over the limit")
    (tmp_path / "y.csv").write_text("a,y\n1,1\n2,2\n")
    labels = {"columns": ["y"], "treat": "one_hot", "classes": 1_000_000}
    refused(store, tmp_path / "y.csv", "1000000 classes one-hot are too large", labels=labels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Train"}, "name: 'Train': use only lower-case letters"),
        ({"name": "../x"}, "name: '../x'"),
        ({"name": ""}, "name: ''"),
        ({"bound": None}, "bound: is missing: declare the largest absolute value"),
        ({"bound": 0.0}, "bound: input should be greater than 0"),
        ({"rows": [3, 3]}, "rows: [3, 3] is empty"),
        ({"rows": [3]}, "rows: list should have at least 2 items"),
        ({"normalise": {"scale": 0.0}}, "normalise.scale: input should be greater than 0, not 0.0"),
        ({"normalise": "std"}, "normalise: 'std' is not one of none, standardise or minmax"),
        ({"normalise": {"skale": 2.0}}, "normalise.skale: unknown key: did you mean `scale`?"),
        ({"kind": "integer", "normalise": "minmax"}, "normalise: integers stay as they are"),
        ({"columns": ["a", "a"]}, "columns: a column is named twice"),
        ({"labels": {"path": "y", "treat": "one_hot"}}, "labels.classes: is missing"),
        ({"labels": {"path": "y", "treat": "real"}}, "labels.bound: is missing"),
        (
            {"labels": {"path": "y", "treat": "real", "bound": 1.0, "classes": 2}},
            "labels.classes: real targets have no",
        ),
        ({"labels": {"treat": "one_hot", "classes": 2}}, "labels: name the labels' own file with `path`"),
        ({"columns": ["a", "y"], "labels": {"columns": ["y"], "treat": "one_hot", "classes": 2}}, "`y` is a label too"),
        ({"colums": ["a"]}, "colums: unknown key: did you mean `columns`?"),
    ],
)
def test_registrations_that_are_not_consistent(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        registration("f.csv", **fields)
    assert message in str(caught.value)


def test_a_registration_file_beside_its_data(tmp_path: Path, store: DatasetStore) -> None:
    write(tmp_path / "f.npy", X)
    (tmp_path / "r.yaml").write_text("name: pair\npath: f.npy\nbound: 1e2\nnormalise: none\n")
    assert [tensor.name for tensor in store.add(tmp_path / "r.yaml")] == ["pair"]
    (tmp_path / "r.yaml").write_text("name: pair\npath: f.npy\nbuond: 1e2\n")
    with pytest.raises(InputError, match=r"r.yaml:3: buond: unknown key: did you mean `bound`"):
        store.add(tmp_path / "r.yaml")


def test_what_is_registered_survives_and_can_be_removed(tmp_path: Path, store: DatasetStore) -> None:
    path = write(tmp_path / "f.npy", X)
    store.add(registration(path, name="one"))
    store.add(registration(path, name="two", labels={"path": str(write(tmp_path / "y.idx", Y)), "treat": "class_index",
                                                     "classes": 3}))  # fmt: skip
    again = DatasetStore(store._directory)
    assert [tensor.name for tensor in again.list()] == ["one", "two_x", "two_y"]
    with pytest.raises(NotFound, match="`two` is a dataset of two tensors: ask for `two_x` and `two_y`"):
        again.load("two")
    again.remove("two")
    assert [tensor.name for tensor in store.list()] == ["one"]
    assert [path.name.split(".")[0] for path in (store._directory / "copies").iterdir()] == ["one"]
    for call in (again.remove, again.load, again.describe, again.tensors):
        with pytest.raises(NotFound, match=r"no .* `two.?.?` is registered; registered: one"):
            call("two" if call == again.remove else "two_x")
    with pytest.raises(NotFound):
        again.remove("../one")
    assert path.exists()


def test_names_that_clash(tmp_path: Path, store: DatasetStore) -> None:
    path, labels = write(tmp_path / "f.npy", X), write(tmp_path / "y.idx", Y)
    store.add(registration(path, name="d_x"))
    with pytest.raises(InputError, match="`d_x` already belongs to the dataset `d_x`: choose another name"):
        store.add(registration(path, labels={"path": str(labels), "treat": "one_hot", "classes": 3}))
    assert [tensor.name for tensor in store.list()] == ["d_x"]


def test_data_that_changed_after_registration_is_refused(tmp_path: Path, store: DatasetStore) -> None:
    path = write(tmp_path / "f.npy", X)
    store.add(registration(path))
    os.utime(path, (1, 1))  # another date, the same contents
    assert np.array_equal(store.load("d"), X)
    write(path, X + 1)
    with pytest.raises(InputError, match="changed since it was registered: put it back, or register `d` again"):
        store.load("d")
    store.add(registration(path))
    assert np.array_equal(store.load("d"), X + 1)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        store.load("d")


def test_a_damaged_copy_is_made_anew(tmp_path: Path, store: DatasetStore) -> None:
    store.add(registration(write(tmp_path / "f.npy", X)))
    (copy,) = (store._directory / "copies").iterdir()
    for damage in (b"", copy.read_bytes()[:-4], b"rubbish"):
        copy.write_bytes(damage)
        assert np.array_equal(store.load("d"), X)


def test_a_failed_write_leaves_the_dataset_before(
    tmp_path: Path, store: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "f.npy", X)
    store.add(registration(path))
    before = sorted(store._directory.rglob("*"))

    def full(source: str, target: Path) -> None:
        if Path(target).suffix == ".yaml":
            raise OSError(28, "No space left on device")
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(datasets.os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        store.add(registration(path, normalise={"scale": 2.0}))
    monkeypatch.undo()
    assert sorted(store._directory.rglob("*")) == before
    assert np.array_equal(store.load("d"), X)


def test_the_content_hash_follows_contents_and_registration_and_is_keyed(tmp_path: Path, store: DatasetStore) -> None:
    path = write(tmp_path / "f.npy", X)
    (first,) = store.add(registration(path))
    moved = write(tmp_path / "g.npy", X)
    assert store.add(registration(moved))[0].content_hash == first.content_hash
    assert store.add(registration(path, rows=[0, 2]))[0].content_hash != first.content_hash
    assert store.add(registration(write(path, X + 1)))[0].content_hash != first.content_hash
    # Whoever guesses the data learns nothing from the hash: at another node the same data has another one.
    elsewhere = DatasetStore(tmp_path / "elsewhere")
    assert elsewhere.add(registration(moved))[0].content_hash != first.content_hash
    assert (elsewhere._directory / "fingerprint.key").stat().st_mode & 0o077 == 0


def test_a_description_says_what_was_declared_and_not_what_was_measured(tmp_path: Path) -> None:
    described = []
    for node, values in (("a", X), ("b", X / 2)):
        store = DatasetStore(tmp_path / node)
        (description,) = store.add(registration(write(tmp_path / "f.npy", values)))
        described.append(description.model_dump(exclude={"content_hash"}))
    assert described[0] == described[1]


column_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)


@given(names=st.lists(column_names, min_size=1, max_size=4, unique=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_columns_of_any_name_are_kept(tmp_path: Path, names: list[str]) -> None:
    store = DatasetStore(tmp_path / "node")
    pa.parquet.write_table(pa.table([pa.array([1.0])] * len(names), names=names), tmp_path / "f.parquet")
    store.add(registration(tmp_path / "f.parquet", columns=list(reversed(names))))
    assert store.describe("d").columns == list(reversed(names))


def test_twenty_thousand_images(tmp_path: Path, store: DatasetStore) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20_000, 28, 28), np.uint8)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump({"name": "d", "path": "f.idx", "shape": [784], "normalise": {"scale": 255}, "bound": 1})
    )
    write(tmp_path / "f.idx", images)
    store.add(tmp_path / "r.yaml")
    start = time.perf_counter()
    loaded = store.load("d")
    assert time.perf_counter() - start < 5  # mapped: takes milliseconds
    assert loaded.dtype == np.float32
    assert np.array_equal(np.rint(loaded[17] * 255), images[17].reshape(784))
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 0
