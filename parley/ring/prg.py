"""Keyed randomness: AES-128 in counter mode, addressed by (execution, position).

A party and the dealer hold the same key, so both can expand the same bytes in any order and nothing is sent. The
counter block is the execution number (8 bytes) followed by the position in blocks (8 bytes): no block is ever expanded
for two purposes as long as an execution number is used once under a key and every purpose has its own positions
(plan/schedule.py assigns them). AES comes from `cryptography` (OpenSSL), about 4 GB/s on one core with AES-NI.
"""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

BLOCK = 16
WINDOW = 1 << 22  # bytes expanded at once: a whole iteration of a small model, a piece of a large one

_ZEROS = bytes(WINDOW)


def derive_key(entropy: bytes, context: bytes) -> bytes:
    """A 128-bit key from at least 32 bytes of fresh entropy, bound to `context` (HKDF-SHA256)."""
    if len(entropy) < 32:
        raise ValueError("a session key needs at least 32 bytes of entropy")
    return HKDF(algorithm=hashes.SHA256(), length=16, salt=None, info=context).derive(entropy)


def expand(key: bytes, execution: int, position: int, size: int) -> bytes:
    """`size` bytes of the keystream of `execution` from byte `position` (a multiple of 16)."""
    counter = execution.to_bytes(8, "big") + (position // BLOCK).to_bytes(8, "big")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return encryptor.update(_ZEROS[:size] if size <= WINDOW else bytes(size))


class ExecutionStream:
    """The keystream of one execution, expanded in windows because positions are read in nearly ascending order."""

    def __init__(self, key: bytes, execution: int, total: int) -> None:
        self._key, self._execution, self._total = key, execution, total
        self._start, self._window = 0, b""

    def take(self, position: int, size: int) -> memoryview:
        """`size` bytes at `position` (a multiple of 16, position + size at most the total)."""
        end = self._start + len(self._window)
        if position < self._start or position + size > end:
            length = min(max(size, WINDOW), self._total - position)
            self._window = expand(self._key, self._execution, position, length)
            self._start = position
        offset = position - self._start
        return memoryview(self._window)[offset : offset + size]


class PrivateSource:
    """Randomness of one role alone: what the dealer samples for dropout or noise, a client for the shares it hands
    out."""

    def __init__(self) -> None:
        self._key, self._calls = secrets.token_bytes(16), 0

    def ring(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Uniform ring elements."""
        size = int(np.prod(shape, dtype=np.int64)) * 8
        self._calls += 1
        return np.frombuffer(bytearray(expand(self._key, self._calls, 0, size)), dtype=np.int64).reshape(shape)

    def generator(self) -> np.random.Generator:
        """A numpy generator freshly seeded from this source with 128 bits, for distributions."""
        self._calls += 1
        return np.random.Generator(np.random.PCG64(int.from_bytes(expand(self._key, self._calls, 0, 32), "big")))
