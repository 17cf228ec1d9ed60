"""Keyed randomness: the same bytes whoever expands them and in whatever pieces, other bytes everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.ring import prg
from parley.ring.prg import BLOCK, ExecutionStream, PrivateSource, derive_key, expand
from tests.parley.harness import quick

KEY = bytes(range(16))


def test_it_is_aes_in_counter_mode() -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    blocks = [(3).to_bytes(8, "big") + number.to_bytes(8, "big") for number in (5, 6)]
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    assert expand(KEY, 3, 5 * BLOCK, 2 * BLOCK) == encryptor.update(b"".join(blocks))


@quick
@given(st.integers(0, 2**63), st.integers(0, 500), st.integers(0, 2000))
def test_a_piece_is_a_piece_of_the_whole(execution: int, block: int, size: int) -> None:
    whole = expand(KEY, execution, 0, 500 * BLOCK + 2000)
    assert expand(KEY, execution, block * BLOCK, size) == whole[block * BLOCK : block * BLOCK + size]


def test_no_block_comes_twice() -> None:
    streams = [
        expand(key, execution, 0, 4096 * BLOCK)
        for key in (KEY, KEY[::-1])
        for execution in (0, 1, 2, 256, 2**32, 2**62)
    ]
    blocks = np.frombuffer(b"".join(streams), dtype="V16")
    assert len(set(blocks.tolist())) == len(blocks)


@quick
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 300)), max_size=12))
def test_windows_change_nothing(reads: list[tuple[int, int]]) -> None:
    total = 201 * BLOCK + 300
    whole = expand(KEY, 7, 0, total)
    normal = prg.WINDOW
    try:
        prg.WINDOW = 64
        stream = ExecutionStream(KEY, 7, total)
        for block, size in reads:
            assert bytes(stream.take(block * BLOCK, size)) == whole[block * BLOCK : block * BLOCK + size]
    finally:
        prg.WINDOW = normal


def test_a_read_beyond_the_window() -> None:
    size = prg.WINDOW + 5
    assert bytes(ExecutionStream(KEY, 0, size + BLOCK).take(BLOCK, size)) == expand(KEY, 0, BLOCK, size)


def test_an_earlier_read_stays_as_it_was() -> None:
    stream = ExecutionStream(KEY, 0, 3 * prg.WINDOW)
    first = stream.take(0, 64)
    stream.take(2 * prg.WINDOW, 64)
    assert bytes(first) == expand(KEY, 0, 0, 64)


def test_nothing_at_the_end() -> None:
    assert bytes(ExecutionStream(KEY, 0, 0).take(0, 0)) == b""
    assert bytes(ExecutionStream(KEY, 0, 32).take(32, 0)) == b""


def test_keys_depend_on_entropy_and_context() -> None:
    one, other = bytes(32), bytes(31) + b"\1"
    keys = {derive_key(entropy, context) for entropy in (one, other) for context in (b"a", b"b")}
    assert len(keys) == 4
    assert all(len(key) == 16 for key in keys)
    assert derive_key(one, b"a") == derive_key(one, b"a")
    with pytest.raises(ValueError, match="32 bytes"):
        derive_key(bytes(31), b"a")


def test_a_private_source_never_repeats() -> None:
    source, other = PrivateSource(), PrivateSource()
    draws = [source.ring((1000,)), source.ring((1000,)), other.ring((1000,))]
    assert len(set(np.concatenate(draws).tolist())) == 3000
    assert source.generator().random() != source.generator().random()
    assert source.ring(()).shape == ()
    assert source.ring((0, 3)).shape == (0, 3)
    draws[0][0] = 1  # one's own, to be written
