"""The datasets that a party registers: which file, which columns, how normalised, how large its values may be.

A registration is a small YAML file. With labels it yields two tensors, `<name>_x` and `<name>_y`; without, one tensor
`<name>`. What others may learn of a tensor is its `Description`; statistics of the values, as normalisation uses them,
stay here.

    name: train
    path: train-images-idx3-ubyte.gz      # beside the registration, or absolute
    shape: [784]                          # of one row; default: as in the file
    normalise: {scale: 255}               # none | standardise | minmax | {scale: s}; from this party's rows alone
    bound: 1                              # declared: every |value| stays within it after normalisation
    labels: {path: train-labels-idx1-ubyte.gz, treat: one_hot, classes: 10}

A registration is read, checked and normalised once, when it is added, and kept as a memory-mapped copy (0600). If a
file changes afterwards, loading refuses it: whoever approved a job approved the data as registered.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from parley.errors import InputError, NotFound
from party_node.readers import MAXIMUM_BYTES, Array, Format, Source, read_table
from services.yamlfile import StrictModel, dump, problem, read

LIMIT = 2.0**15
"""Fixed-point values stay below this in absolute value, unless a store is told otherwise."""

Kind = Literal["real", "integer", "one_hot"]

_NAME = re.compile(r"[a-z0-9_-]+")
Columns = Annotated[list[str], Field(min_length=1)]


class Scale(StrictModel):
    """Normalisation by dividing by `scale`."""

    scale: float = Field(gt=0)


class Labels(StrictModel):
    """What is to be predicted, and how it is given to the computation.

    class_index: int64 (rows,), each in [0, classes). one_hot: float32 (rows, classes) of 0 and 1, made from class
    indices. real: float targets (rows, columns), always of two dimensions, as a linear layer's outputs are.
    """

    path: str | None = None
    """Default: the file of the features."""
    format: Format | None = None
    key: str | None = None
    columns: Columns | None = None
    treat: Literal["class_index", "one_hot", "real"]
    classes: int | None = Field(default=None, ge=2, le=1_000_000)
    bound: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Labels:
        if self.treat == "real" and self.bound is None:
            raise problem(("bound",), "is missing: declare the largest absolute value that a target may have")
        if self.treat == "real" and self.classes is not None:
            raise problem(("classes",), "real targets have no classes: remove it")
        if self.treat != "real" and self.classes is None:
            raise problem(("classes",), "is missing: declare how many classes there are")
        if self.treat != "real" and self.bound is not None:
            raise problem(("bound",), "class labels are bounded by `classes`: remove it")
        return self


class Registration(StrictModel):
    """One registered dataset; see the module's text for the fields."""

    name: str
    path: str
    format: Format | None = None
    key: str | None = None
    columns: Columns | None = None
    """Default: every column but the labels'."""
    kind: Literal["real", "integer"] = "real"
    shape: list[Annotated[int, Field(ge=1)]] | None = None
    normalise: Literal["none", "standardise", "minmax"] | Scale = "none"
    bound: float | None = Field(default=None, gt=0)
    """Required, except after minmax, where it is 1."""
    rows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = None
    labels: Labels | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Registration:
        if not _NAME.fullmatch(self.name):
            raise problem(("name",), f"{self.name!r}: use only lower-case letters, digits, `_` and `-`")
        if self.bound is None and self.normalise != "minmax":
            message = "is missing: declare the largest absolute value that the data may have (after normalisation)"
            raise problem(("bound",), message)
        if self.kind == "integer" and self.normalise != "none":
            raise problem(("normalise",), "integers stay as they are: use `none`, or `kind: real`")
        if self.rows is not None and self.rows[0] >= self.rows[1]:
            raise problem(("rows",), f"{self.rows} is empty: [start, stop] takes the rows start ≤ row < stop")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise problem(("columns",), "a column is named twice")
        if self.labels is not None and self.labels.path is None:
            ours, own = (self.key, self.columns), (self.labels.key, self.labels.columns)
            if own == (None, None):
                message = "name the labels' own file with `path`, or their `columns` or `key` in the features' file"
                raise problem(("labels",), message)
            if ours[0] is not None and ours[0] == own[0]:
                raise problem(("labels", "key"), f"`{own[0]}` holds the features")
            both = sorted(set(ours[1] or ()) & set(own[1] or ()))
            if both:
                raise problem(("columns",), f"`{both[0]}` is a label too: it cannot predict itself")
        return self


class Description(StrictModel):
    """What a party says about one tensor in public. Nothing in it is measured from the values.

    `shape` is (rows, features...). `bound` is the declared largest absolute value. `columns` are the names of the
    features where the file has names. `content_hash` (hex) changes when the file or its registration changes; it is
    keyed with a secret of this node, since a plain hash of a small dataset would tell the data to whoever guesses it.
    """

    name: str
    dataset: str
    shape: tuple[int, ...] = Field(strict=False)
    kind: Kind
    dtype: Literal["float32", "float64", "int64"]
    classes: int | None
    bound: float
    columns: list[str] | None
    content_hash: str


class _FileState(StrictModel):
    """A file as it was when it was registered. The state tells that it may have changed, the digest that it has."""

    path: str
    size: int
    modified_ns: int
    digest: str


class _Record(StrictModel):
    registration: Registration
    files: list[_FileState]
    tensors: list[Description]


Descriptions = list[Description]
Names = list[str]
_Records = list[_Record]
_Files = list[_FileState]


class DatasetStore:
    """The registered datasets in one directory of a node.

    `limit`: every |value| is below it (default 2^15, what fixed point holds). `maximum_bytes`: of one array in memory.
    Several processes may read a store at once; adding and removing is for one at a time.
    """

    def __init__(self, directory: Path, *, limit: float = LIMIT, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._directory = directory
        self._copies = directory / "copies"
        self._limit = limit
        self._maximum_bytes = maximum_bytes
        self._copies.mkdir(parents=True, exist_ok=True, mode=0o700)

    def add(self, spec: Registration | Path) -> Descriptions:
        """Reads, checks and registers a dataset, given as a model or as its YAML file; returns its tensors.

        Paths are relative to the YAML file, or to the working directory for a model. A dataset of the same name is
        replaced. InputError names file, column and row (from 0) of what cannot be used; then nothing has changed.
        """
        base, registration = (spec.parent, read(spec, Registration)) if isinstance(spec, Path) else (Path(), spec)
        registration = _absolute(registration, base)
        names = _tensor_names(registration)
        for other in self._records():
            if other.registration.name != registration.name:
                taken = {*_tensor_names(other.registration), other.registration.name}
                clash = sorted(taken & {*names, registration.name})
                if clash:
                    message = f"`{clash[0]}` already belongs to the dataset `{other.registration.name}`"
                    raise InputError(f"dataset `{registration.name}`: {message}: choose another name")
        files = [_state(path) for path in _paths(registration)]
        fingerprint = self._fingerprint(registration, files)
        arrays = _prepare(registration, self._limit, self._maximum_bytes)
        if [_state(path) for path in _paths(registration)] != files:
            raise InputError(f"dataset `{registration.name}`: a file changed while it was read: add it again")
        tensors = [
            Description(
                name=name,
                dataset=registration.name,
                shape=array.values.shape,
                kind=array.kind,
                dtype=array.values.dtype.name,  # type: ignore[arg-type]
                classes=array.classes,
                bound=array.bound,
                columns=array.columns,
                content_hash=fingerprint,
            )
            for name, array in zip(names, arrays, strict=True)
        ]
        record = _Record(registration=registration, files=files, tensors=tensors)
        try:
            for tensor, array in zip(tensors, arrays, strict=True):
                _save(self._copy_path(tensor), array.values)
            _write_atomically(self._record_path(registration.name), lambda file: file.write(dump(record).encode()))
        finally:  # the copies of the registration that now holds, the new one or, after an error, the one before
            self._drop_copies(registration.name)
        return tensors

    def remove(self, name: str) -> None:
        """Forgets the dataset `name`; its own files stay. NotFound if there is none."""
        if not _NAME.fullmatch(name) or not self._record_path(name).exists():
            raise NotFound(f"no dataset `{name}` is registered; registered: {self._registered()}")
        self._record_path(name).unlink()
        self._drop_copies(name)

    def list(self) -> Descriptions:
        """The descriptions of all tensors, by name of the dataset."""
        return [tensor for record in self._records() for tensor in record.tensors]

    def tensors(self, name: str) -> Names:
        """The tensors that `name` means: of a dataset `train` both `train_x` and `train_y`; of a tensor itself."""
        for record in self._records():
            names = [tensor.name for tensor in record.tensors]
            if name == record.registration.name:
                return names
            if name in names:
                return [name]
        raise NotFound(f"no dataset `{name}` is registered; registered: {self._registered()}")

    def describe(self, tensor_name: str) -> Description:
        """The description of one tensor. NotFound if there is none of that name."""
        return self._find(tensor_name)[1]

    def load(self, tensor_name: str) -> Array:
        """One tensor of shape (rows, features...), C-contiguous, read-only and memory-mapped: float32 or float64 for
        real, float32 for one-hot, int64 for integer.

        NotFound if there is none of that name; InputError if its file is gone or changed since it was registered.
        """
        record, description = self._find(tensor_name)
        for file in record.files:
            _check_unchanged(file, record.registration.name)
        path = self._copy_path(description)
        if not _is_whole(path, description):
            index = record.tensors.index(description)
            array = _prepare(record.registration, self._limit, self._maximum_bytes)[index]
            _save(path, array.values)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))

    def _find(self, tensor_name: str) -> tuple[_Record, Description]:
        for record in self._records():
            for tensor in record.tensors:
                if tensor.name == tensor_name:
                    return record, tensor
            if record.registration.name == tensor_name:
                names = " and ".join(f"`{tensor.name}`" for tensor in record.tensors)
                raise NotFound(f"`{tensor_name}` is a dataset of two tensors: ask for {names}")
        raise NotFound(f"no tensor `{tensor_name}` is registered; registered: {self._registered()}")

    def _registered(self) -> str:
        return ", ".join(tensor.name for tensor in self.list()) or "nothing yet (`parley data add`)"

    def _records(self) -> _Records:
        return [read(path, _Record) for path in sorted(self._directory.glob("*.yaml"))]

    def _record_path(self, name: str) -> Path:
        return self._directory / f"{name}.yaml"

    def _copy_path(self, tensor: Description) -> Path:
        return self._copies / f"{tensor.dataset}.{tensor.name}.{tensor.content_hash[:16]}.npy"

    def _drop_copies(self, name: str) -> None:
        """Removes the copies of the dataset `name` that its record does not name."""
        record = self._record_path(name)
        keep = {self._copy_path(tensor) for tensor in read(record, _Record).tensors} if record.exists() else set()
        for path in self._copies.glob(f"{name}.*.npy"):
            if path not in keep:
                path.unlink(missing_ok=True)

    def _fingerprint(self, registration: Registration, files: _Files) -> str:
        digest = hmac.new(self._secret(), digestmod=hashlib.sha256)
        for file in files:
            digest.update(bytes.fromhex(file.digest))
        # Where the file lies is not part of what it says.
        where: Any = {"path": True, "labels": {"path": True}}
        digest.update(registration.model_dump_json(exclude=where).encode())
        return digest.hexdigest()

    def _secret(self) -> bytes:
        path = self._directory / "fingerprint.key"
        if not path.exists():
            _write_atomically(path, lambda file: file.write(secrets.token_bytes(32)))
        return path.read_bytes()


class _Prepared:
    """An array as a computation gets it, with what is public about it."""

    def __init__(self, values: Array, kind: Kind, bound: float, classes: int | None, columns: list[str] | None) -> None:
        self.values, self.kind, self.bound, self.classes, self.columns = values, kind, bound, classes, columns


def _tensor_names(registration: Registration) -> list[str]:
    name = registration.name
    return [name] if registration.labels is None else [f"{name}_x", f"{name}_y"]


def _absolute(registration: Registration, base: Path) -> Registration:
    labels = registration.labels
    if labels is not None:
        path = base / (registration.path if labels.path is None else labels.path)
        form = registration.format if labels.path is None and labels.format is None else labels.format
        labels = labels.model_copy(update={"path": os.path.abspath(path), "format": form})
    path = os.path.abspath(base / registration.path)  # type: ignore[assignment]
    return registration.model_copy(update={"path": path, "labels": labels})


def _paths(registration: Registration) -> list[Path]:
    paths = [Path(registration.path)]
    if registration.labels is not None and registration.labels.path not in (None, registration.path):
        paths.append(Path(str(registration.labels.path)))
    return paths


def _state(path: Path) -> _FileState:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from error
    return _FileState(path=str(path), size=status.st_size, modified_ns=status.st_mtime_ns, digest=digest)


def _check_unchanged(file: _FileState, name: str) -> None:
    path = Path(file.path)
    mend = f"put it back, or register `{name}` again with `parley data add`"
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read any more ({error.strerror}): {mend}") from error
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified_ns) and _state(path).digest != file.digest:
        raise InputError(f"{path}: changed since it was registered: {mend}")


def _is_whole(path: Path, description: Description) -> bool:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(values.shape == description.shape and values.dtype == description.dtype)


def _save(path: Path, values: Array) -> None:
    _write_atomically(path, lambda file: np.save(file, values))


def _write_atomically(path: Path, write: Any) -> None:
    """A new file (0600) under a temporary name, then renamed: after a crash there is the old file or the new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        file: IO[bytes]
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}): free or mend the disk, then again"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _prepare(registration: Registration, limit: float, maximum_bytes: int) -> list[_Prepared]:
    """Reads, checks and normalises; the tensors of the registration in order."""
    labels = registration.labels
    path = Path(registration.path)
    columns = None if registration.columns is None else tuple(registration.columns)
    shared = labels is not None and labels.path == registration.path and labels.columns
    features = read_table(
        Source(path, registration.format, registration.key, columns), tuple(shared or ()), maximum_bytes
    )
    x = _features(registration, path, features.values, features.columns, limit)
    if labels is None:
        return [x]
    label_path = Path(str(labels.path))
    label_columns = None if labels.columns is None else tuple(labels.columns)
    targets = read_table(Source(label_path, labels.format, labels.key, label_columns), (), maximum_bytes)
    if len(targets.values) != len(features.values):
        message = f"{len(targets.values)} rows of labels for {len(features.values)} rows of features in {path}"
        raise InputError(f"{label_path}: {message}: one label a row is needed")
    return [x, _targets(registration, labels, label_path, targets.values, targets.columns, limit, maximum_bytes)]


def _selected(registration: Registration, path: Path, values: Array) -> tuple[Array, int]:
    """The rows asked for, and the number of the first."""
    if values.ndim == 0 or values.size == 0:
        raise InputError(f"{path}: the array is empty or a single number: shape (rows, ...) is needed")
    if registration.rows is None:
        return values, 0
    start, stop = registration.rows
    if stop > len(values):
        raise InputError(f"{path}: rows [{start}, {stop}] were asked for, but there are {len(values)}: mend `rows`")
    return values[start:stop], start


class _Place:
    """Names the file, column and row of an element for messages. `first`: the number of row 0 in the file."""

    def __init__(self, path: Path, columns: tuple[str, ...] | None, first: int) -> None:
        self.path, self.columns, self.first = path, columns, first

    def __call__(self, values: Array, wrong: Array) -> tuple[str, Any]:
        """Where the first true element of `wrong` stands, and its value in `values` (both (rows, ...))."""
        index = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        column = ""
        if self.columns is not None:
            column = f"column `{self.columns[index[1]]}`, "
        elif len(index) == 2:
            column = f"column {index[1]}, "
        elif len(index) > 2:
            column = f"element {tuple(int(i) for i in index[1:])}, "
        return f"{self.path}: {column}row {self.first + int(index[0])}", values[index]


def _check_values(place: _Place, values: Array, bound: float | None, limit: float) -> None:
    """InputError for NaN, infinity, |value| ≥ limit, |value| > bound. Quick where nothing is wrong."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
        where, value = place(values, ~np.isfinite(values))
        raise InputError(f"{where}: {value}, not a finite number: fill it in, or leave the row out")
    if max(-float(low), float(high)) >= limit:
        where, value = place(values, np.abs(values.astype(np.float64)) >= limit)
        message = f"every |value| must be below {limit:g} (the fixed-point range)"
        raise InputError(f"{where}: {value}: {message}: normalise the data")
    if bound is not None and max(-float(low), float(high)) > bound:
        where, value = place(values, np.abs(values.astype(np.float64)) > bound)
        raise InputError(
            f"{where}: {value} is beyond the declared bound {bound:g}: normalise, or declare a larger bound"
        )


def _features(
    registration: Registration, path: Path, values: Array, columns: tuple[str, ...] | None, limit: float
) -> _Prepared:
    values, first = _selected(registration, path, values)
    place = _Place(path, columns, first)
    bound = 1.0 if registration.bound is None else registration.bound
    if bound >= limit:
        raise InputError(
            f"dataset `{registration.name}`: bound {bound:g}: it must be below {limit:g}: normalise the data"
        )
    values = _as_integer(place, values) if registration.kind == "integer" else _as_real(values)
    # Before normalisation only what is not a number is refused: that is where the file's own numbers can be named.
    _check_values(place, values, None, math.inf)
    if registration.normalise != "none":
        values = _normalised(values, registration.normalise)
    _check_values(place, values, bound, limit)
    if registration.shape is not None:
        wanted = tuple(registration.shape)
        if math.prod(wanted) != math.prod(values.shape[1:]):
            message = f"shape {list(wanted)} was declared for a row, but a row of the file is {list(values.shape[1:])}"
            raise InputError(f"{path}: {message}: mend `shape`")
        values = values.reshape(len(values), *wanted)
    names = None if columns is None else list(columns)
    return _Prepared(np.ascontiguousarray(values), registration.kind, bound, None, names)


def _as_real(values: Array) -> Array:
    """float32 where that is exact, else float64."""
    small = values.dtype.kind == "b" or (values.dtype.kind in "iu" and values.dtype.itemsize <= 2)
    return values.astype(np.float32 if small or values.dtype.newbyteorder("=") in ("f2", "f4") else np.float64)


def _as_integer(place: _Place, values: Array) -> Array:
    if values.dtype.kind == "f":
        _check_values(place, values, None, 2.0**53)
        if np.any(values != np.trunc(values)):
            where, value = place(values, values != np.trunc(values))
            raise InputError(f"{where}: {value} is not a whole number: mend it, or declare it real")
    elif values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
        where, value = place(values, values > np.iinfo(np.int64).max)
        raise InputError(f"{where}: {value} does not fit into 64 bits with a sign")
    return values.astype(np.int64)


def _normalised(values: Array, how: Literal["none", "standardise", "minmax"] | Scale) -> Array:
    """Column by column over these rows; a constant column becomes 0."""
    if isinstance(how, Scale):
        return np.asarray(values / values.dtype.type(how.scale))
    exact = values.astype(np.float64)
    if how == "standardise":
        centre, width = exact.mean(axis=0), exact.std(axis=0)
    else:
        centre, width = exact.min(axis=0), exact.max(axis=0) - exact.min(axis=0)
    # A column of one value has, after rounding, a deviation of nearly 0.
    constant = exact.max(axis=0) == exact.min(axis=0)
    result = np.where(constant, 0.0, (exact - centre) / np.where(constant | (width == 0), 1.0, width))
    return np.asarray(result, dtype=values.dtype)


def _targets(
    registration: Registration,
    labels: Labels,
    path: Path,
    values: Array,
    columns: tuple[str, ...] | None,
    limit: float,
    maximum_bytes: int,
) -> _Prepared:
    values, first = _selected(registration, path, values)
    place = _Place(path, columns, first)
    if labels.treat == "real":
        bound = float(labels.bound or 0.0)
        if bound >= limit:
            message = f"labels.bound {bound:g}: it must be below {limit:g}: scale the targets"
            raise InputError(f"dataset `{registration.name}`: {message}")
        targets = _as_real(values)
        _check_values(place, targets, bound, limit)
        names = None if columns is None else list(columns)
        return _Prepared(np.ascontiguousarray(targets.reshape(len(targets), -1)), "real", bound, None, names)
    if values.size != len(values):
        message = f"shape {values.shape}: class labels are one number a row"
        raise InputError(f"{path}: {message}: name one column, or use `treat: real`")
    classes = int(labels.classes or 0)
    indices = _as_integer(place, values)
    if indices.min() < 0 or indices.max() >= classes:
        where, value = place(indices, (indices < 0) | (indices >= classes))
        raise InputError(f"{where}: label {value} is outside 0 … {classes - 1}: mend it, or declare more `classes`")
    indices = np.ascontiguousarray(indices.reshape(-1))
    if labels.treat == "class_index":
        if classes - 1 >= limit:
            raise InputError(
                f"dataset `{registration.name}`: {classes} classes do not fit below {limit:g}: use one_hot"
            )
        return _Prepared(indices, "integer", float(classes - 1), classes, None)
    if indices.size * classes * 4 > maximum_bytes:
        raise InputError(f"dataset `{registration.name}`: {classes} classes one-hot are too large: use class_index")
    encoded = np.zeros((len(indices), classes), np.float32)
    encoded[np.arange(len(indices)), indices] = 1
    return _Prepared(encoded, "one_hot", 1.0, classes, None)
