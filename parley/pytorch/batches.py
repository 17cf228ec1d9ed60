"""The order in which rows are trained on: one function for jobs, for the Python interface and for plain baselines.

Epoch e visits the rows in the order of 64-bit random numbers, one a row, of PCG64 seeded with SeedSequence([seed, e]).
NumPy promises that these two streams never change; of `Generator.permutation` it promises nothing (NEP 19), and an
order that depends on a version would make a resumed job, or its plain baseline, train on other batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from parley.errors import InputError

Rows = npt.NDArray[np.int64]


def batch_rows(
    rows: int, size: int, epochs: int, seed: int, shuffle: bool = True, drop_last: bool = False
) -> Iterator[Rows]:
    """The row numbers (int64, `size` of them) of each batch, epoch after epoch.

    The last batch of an epoch is shorter where `size` does not divide `rows`, or left out with `drop_last`.
    InputError (at once, not at the first batch) if a number is out of range or no batch would be left.
    """
    for name, value, least in (("rows", rows, 1), ("size", size, 1), ("epochs", epochs, 0), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}: it must be a whole number of at least {least}")
    if drop_last and size > rows:
        raise InputError(f"a batch of {size} rows and only {rows} rows: make the batch smaller, or keep the last batch")
    return _batches(rows, size, epochs, seed, shuffle, drop_last)


def batch_count(rows: int, size: int, epochs: int, drop_last: bool = False) -> int:
    """How many batches `batch_rows` gives."""
    return epochs * (rows // size if drop_last else -(-rows // size))


def _batches(rows: int, size: int, epochs: int, seed: int, shuffle: bool, drop_last: bool) -> Iterator[Rows]:
    for epoch in range(epochs):
        order = _order(rows, seed, epoch) if shuffle else np.arange(rows, dtype=np.int64)
        for start in range(0, rows - size + 1 if drop_last else rows, size):
            yield order[start : start + size]


def _order(rows: int, seed: int, epoch: int) -> Rows:
    draws = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(rows)
    return np.argsort(draws, kind="stable").astype(np.int64, copy=False)
