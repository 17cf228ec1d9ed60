"""The order of training rows."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.errors import InputError
from parley.pytorch.batches import batch_count, batch_rows

GOLDEN_TEN = [6, 3, 4, 9, 0, 2, 8, 7, 5, 1]
GOLDEN_DIGEST = "d25965de7d000ac6c830a5b083ec89c117e7375ac5d6c908d5c980a435385f6f"


@given(
    rows=st.integers(1, 200),
    size=st.integers(1, 250),
    epochs=st.integers(0, 4),
    seed=st.integers(0, 2**63 - 1),
    shuffle=st.booleans(),
)
def test_every_epoch_visits_every_row_once(rows: int, size: int, epochs: int, seed: int, shuffle: bool) -> None:
    batches = list(batch_rows(rows, size, epochs, seed, shuffle))
    assert len(batches) == batch_count(rows, size, epochs)
    per_epoch = batch_count(rows, size, 1)
    for epoch in range(epochs):
        order = np.concatenate(batches[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert order.dtype == np.int64
        assert sorted(order) == list(range(rows))
        assert shuffle or list(order) == list(range(rows))


@given(rows=st.integers(1, 200), size=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_drop_last_leaves_out_the_short_batch_and_changes_no_other(rows: int, size: int, seed: int) -> None:
    if size > rows:
        with pytest.raises(InputError, match="make the batch smaller"):
            batch_rows(rows, size, 1, seed, drop_last=True)
        return
    kept = list(batch_rows(rows, size, 1, seed, drop_last=True))
    whole = [batch for batch in batch_rows(rows, size, 1, seed) if len(batch) == size]
    assert len(kept) == batch_count(rows, size, 1, drop_last=True) == rows // size
    assert all((a == b).all() for a, b in zip(kept, whole, strict=True))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epochs: int = 2, size: int = 100) -> np.ndarray:
        return np.concatenate(list(batch_rows(1000, size, epochs, seed)))

    assert (order(5) == order(5)).all()
    assert (order(5) == order(5, size=7)).all()
    assert (order(5, epochs=3)[:2000] == order(5)).all()
    assert (order(5) != order(6)).any()
    assert (order(5)[:1000] != order(5)[1000:]).any()


def test_the_order_is_the_same_in_every_version() -> None:
    assert list(np.concatenate(list(batch_rows(10, 4, 1, seed=7)))) == GOLDEN_TEN
    rows = np.concatenate(list(batch_rows(60_000, 128, 2, seed=7))).astype("<i8")
    assert hashlib.sha256(rows.tobytes()).hexdigest() == GOLDEN_DIGEST


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 1, 1, 0), "rows"), ((5, 0, 1, 0), "size"), ((5, 1, -1, 0), "epochs"), ((5, 1, 1, -1), "seed"),
     ((5, 1.5, 1, 0), "size"), ((True, 1, 1, 0), "rows")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_at_once(arguments: tuple[int, int, int, int], name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} is "):
        batch_rows(*arguments)
