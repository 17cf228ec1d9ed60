"""Reads a column, image or table file into one numeric array, and refuses what is not plainly that.

Every reader returns an array with the rows first, of a real or integer dtype of numpy, without checking the values:
`party_node.datasets` does that for all formats alike. Sizes are read from the file's own header and compared with
`maximum_bytes` before anything is allocated or decompressed. Nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import safetensors

from parley.errors import InputError

Array = npt.NDArray[Any]
Format = Literal["idx", "npy", "npz", "csv", "parquet", "safetensors"]

MAXIMUM_BYTES = 8 << 30

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_EXTENSIONS: dict[str, Format] = {
    ".idx": "idx",
    ".npy": "npy",
    ".npz": "npz",
    ".csv": "csv",
    ".parquet": "parquet",
    ".safetensors": "safetensors",
}


@dataclass(frozen=True)
class Source:
    """Where in which file an array stands: `key` in NPZ and safetensors, `columns` in CSV and Parquet."""

    path: Path
    format: Format | None = None
    key: str | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    """What was read: `values` (rows, ...) and, for CSV and Parquet, the names of its columns."""

    values: Array
    columns: tuple[str, ...] | None = None


def format_of(path: Path) -> Format:
    """The format that the file's name tells. InputError if it tells none."""
    name = path.name.lower()
    if re.search(r"idx\d?(-ubyte)?(\.gz)?$", name):
        return "idx"
    if path.suffix.lower() in _EXTENSIONS:
        return _EXTENSIONS[path.suffix.lower()]
    known = ", ".join(_EXTENSIONS)
    raise InputError(f"{path}: its name does not tell the format: set `format` (known extensions: {known}, .idx.gz)")


def read_table(source: Source, without: tuple[str, ...] = (), maximum_bytes: int = MAXIMUM_BYTES) -> Table:
    """The array that `source` names, rows first; at most `maximum_bytes` in memory.

    `without` names columns to leave out where `source.columns` is None (the labels of the same file).
    InputError names the file, and where known the column and the row (from 0, the header not counted).
    """
    path, kind = source.path, source.format or format_of(source.path)
    if source.columns is not None and kind not in ("csv", "parquet"):
        raise InputError(f"{path}: `columns` is for CSV and Parquet, not for {kind}: remove it")
    if source.key is not None and kind not in ("npz", "safetensors"):
        raise InputError(f"{path}: `key` is for NPZ and safetensors, not for {kind}: remove it")
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file: check the path")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty")
        if kind == "csv":
            return _read_csv(path, source.columns, without, maximum_bytes)
        if kind == "parquet":
            return _read_parquet(path, source.columns, without, maximum_bytes)
        if kind == "idx":
            values = _read_idx(path, maximum_bytes)
        elif kind == "npy":
            values = _read_npy(path, maximum_bytes)
        elif kind == "npz":
            values = _read_npz(path, source.key, maximum_bytes)
        else:
            values = _read_safetensors(path, source.key, maximum_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check it and its permissions") from error
    return Table(values)


def _check_size(path: Path, items: int, itemsize: int, maximum_bytes: int) -> None:
    if items * itemsize > maximum_bytes:
        raise InputError(f"{path}: {items * itemsize} bytes of data, over the limit of {maximum_bytes}: split the file")


def _check_dtype(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise InputError(f"{path}: holds Python objects, which are never loaded: save it as an array of numbers")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise InputError(f"{path}: holds {dtype}, not real numbers or integers of at most 64 bits")


def _read_idx(path: Path, maximum_bytes: int) -> Array:
    """IDX, plain or gzipped: two zero bytes, type, number of dimensions, big-endian sizes, data."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    if not packed:
        with path.open("rb") as file:
            dtype, shape, start = _idx_header(path, file)
        size = start + math.prod(shape) * dtype.itemsize
        _check_idx_end(path, shape, dtype, path.stat().st_size, size, maximum_bytes)
        mapped: Array = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)
        return mapped
    try:
        with gzip.open(path, "rb") as file:
            dtype, shape, start = _idx_header(path, file)
            count = math.prod(shape) * dtype.itemsize
            _check_size(path, count, 1, maximum_bytes)
            # A gzip byte holds at most 1032 bytes: a header that promises more is refused before it is allocated.
            if count > 1040 * path.stat().st_size:
                _check_idx_end(path, shape, dtype, 0, start + count, maximum_bytes)
            data = file.read(count)
            rest = file.read(1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip data is damaged or cut off ({error}): fetch the file again") from error
    _check_idx_end(path, shape, dtype, start + len(data) + len(rest), start + count, maximum_bytes)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _idx_header(path: Path, file: IO[bytes] | gzip.GzipFile) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in _IDX_DTYPES or not 1 <= magic[3] <= 8:
        raise InputError(f"{path}: not an IDX file: it begins with {magic.hex() or 'nothing'}")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise InputError(f"{path}: truncated: the IDX header ends early; fetch the file again")
    return np.dtype(_IDX_DTYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes), 4 + 4 * magic[3]


def _check_idx_end(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], found: int, expected: int, maximum_bytes: int
) -> None:
    _check_size(path, expected, 1, maximum_bytes)
    if math.prod(shape) == 0:
        raise InputError(f"{path}: the file is empty: its shape is {shape}")
    if found != expected:
        fault = "truncated" if found < expected else "has bytes after its end"
        raise InputError(f"{path}: {fault}: shape {shape} of {dtype.name} needs {expected} bytes; fetch the file again")


def _npy_header(path: Path, file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Type, shape and whether the columns come first, from the header of NPY data; leaves `file` at the data."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version}")
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # the header is a Python literal
        raise InputError(
            f"{path}: not an NPY file, or a damaged one ({_one_line(error)}): write it with numpy.save"
        ) from error
    _check_dtype(path, dtype)
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: the array is empty: its shape is {tuple(shape)}")
    return dtype, shape, fortran


def _read_npy(path: Path, maximum_bytes: int) -> Array:
    with path.open("rb") as file:
        dtype, shape, fortran = _npy_header(path, file)
        start = file.tell()
    count = math.prod(shape) * dtype.itemsize
    _check_size(path, count, 1, maximum_bytes)
    if path.stat().st_size != start + count:
        raise InputError(f"{path}: truncated, or longer than its header says: {start + count} bytes were expected")
    order: Literal["F", "C"] = "F" if fortran else "C"
    mapped: Array = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order=order)
    return mapped


def _read_npz(path: Path, key: str | None, maximum_bytes: int) -> Array:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            chosen = _choose_key(path, key, names)
            info = archive.getinfo(archive.namelist()[names.index(chosen)])
            _check_size(path, info.file_size, 1, maximum_bytes)
            with archive.open(info) as file:
                dtype, shape, fortran = _npy_header(path, file)
                count = math.prod(shape) * dtype.itemsize
                if file.tell() + count != info.file_size:
                    raise InputError(f"{path}: `{chosen}` has {info.file_size} bytes, but its header says otherwise")
                data = file.read(count)
                file.read(1)  # to the end, where the checksum is compared
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: not an NPZ file, or a damaged one ({error}): write it with numpy.savez") from error
    if len(data) != count:
        raise InputError(f"{path}: `{chosen}` is truncated: write the file again")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _read_safetensors(path: Path, key: str | None, maximum_bytes: int) -> Array:
    _check_size(path, path.stat().st_size, 1, maximum_bytes)
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            chosen = _choose_key(path, key, list(file.keys()))
            values: Array = file.get_tensor(chosen)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file, or a damaged one ({error}): write it again") from error
    except (TypeError, AttributeError) as error:  # numpy has no such type
        raise InputError(f"{path}: `{chosen}` is of a type that numpy lacks: save it as float32") from error
    _check_dtype(path, values.dtype)
    return values


def _choose_key(path: Path, key: str | None, names: list[str]) -> str:
    if not names:
        raise InputError(f"{path}: the file is empty: it holds no array")
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        asked = "which array is meant?" if key is None else f"no array `{key}`."
        raise InputError(f"{path}: {asked} Set `key` to one of: {', '.join(sorted(names)[:20])}")
    return key


def _choose_columns(
    path: Path, names: list[str], columns: tuple[str, ...] | None, without: tuple[str, ...]
) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the column `{twice[0]}` is there twice: rename one of them")
    missing = [name for name in columns or () if name not in names]
    if missing:
        raise InputError(f"{path}: no column `{missing[0]}`; its columns are: {', '.join(names[:50])}")
    chosen = tuple(name for name in names if name not in without) if columns is None else columns
    if not chosen:
        raise InputError(f"{path}: no column is left to read: name some in `columns`")
    return chosen


def _read_csv(path: Path, columns: tuple[str, ...] | None, without: tuple[str, ...], maximum_bytes: int) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path}: the header is not CSV ({error})") from error
    chosen = _choose_columns(path, names, columns, without)
    _check_size(path, path.stat().st_size, 1, maximum_bytes)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=list(chosen), column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        table = pyarrow.csv.read_csv(
            path, pyarrow.csv.ReadOptions(use_threads=False), parse_options=parse, convert_options=convert
        )
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path}: not a regular table ({_one_line(error)}): mend the row, or quote its text"
        ) from error
    return _table(
        path, chosen, table.num_rows, (_csv_column(path, name, table[name]) for name in chosen), maximum_bytes
    )


def _csv_column(path: Path, name: str, column: Any) -> Array:
    """Text to float64; refuses the first cell that is not a number, by row."""
    try:
        values: Array = column.cast(pa.float64()).to_numpy()
        return values
    except pa.ArrowInvalid:
        pass
    converted = np.empty(len(column))
    for row, cell in enumerate(column.to_pylist()):
        try:
            converted[row] = float(cell.replace("_", "?"))  # Python reads 1_000 as a number; a table does not
        except ValueError:
            what = "empty" if not cell.strip() else f"{cell[:40]!r}, not a number"
            raise InputError(
                f"{path}: column `{name}`, row {row}: {what}: mend the cell, or leave the column out of `columns`"
            ) from None
    return converted


def _read_parquet(path: Path, columns: tuple[str, ...] | None, without: tuple[str, ...], maximum_bytes: int) -> Table:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            chosen = _choose_columns(path, list(schema.names), columns, without)
            for name in chosen:
                kind = schema.field(name).type
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                    message = "not numbers: convert it, or leave it out of `columns`"
                    raise InputError(f"{path}: column `{name}`, rows 0 on: it holds {kind}, {message}")
            _check_size(path, file.metadata.num_rows * len(chosen), 8, maximum_bytes)
            table = file.read(columns=list(chosen), use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{path}: not a Parquet file, or a damaged one ({_one_line(error)})") from error
    return _table(path, chosen, table.num_rows, (_parquet_column(path, n, table[n]) for n in chosen), maximum_bytes)


def _parquet_column(path: Path, name: str, column: Any) -> Array:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError(f"{path}: column `{name}`, row {row}: empty: fill it in, or leave the row out")
    values: Array = column.to_numpy()
    return values


def _table(path: Path, names: tuple[str, ...], rows: int, columns: Any, maximum_bytes: int) -> Table:
    """Columns side by side, as float64; as int64 where every one is of integers."""
    if rows == 0:
        raise InputError(f"{path}: the table is empty: it has a header but no rows")
    _check_size(path, rows * len(names), 8, maximum_bytes)
    arrays = list(columns)
    whole = all(array.dtype.kind in "biu" and array.dtype != np.uint64 for array in arrays)
    values = np.empty((rows, len(names)), np.int64 if whole else np.float64)
    for index, array in enumerate(arrays):
        values[:, index] = array
    return Table(values, names)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
