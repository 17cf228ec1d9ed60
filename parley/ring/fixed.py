"""Fixed point: a real v is the integer round(v * 2^scale) in the ring of integers modulo 2^64 (two's complement)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from parley.errors import InputError

Array = npt.NDArray[Any]


def encode(values: npt.ArrayLike, scale: int, bound: int = 62) -> npt.NDArray[np.int64]:
    """Encode real or integer `values` (any shape) with `scale` fractional bits, rounding to nearest.

    Raises InputError when a value is not finite or its encoding does not stay below 2^bound in magnitude.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"values of dtype {array.dtype} cannot be encoded; give numbers")
    if array.dtype.kind in "iub" and scale == 0:
        if array.dtype.kind == "u" and array.size and int(array.max()) >= 1 << 63:
            raise InputError("an unsigned integer does not fit 64-bit two's complement")
        encoded = array.astype(np.int64)
        _check_bound(encoded, array, scale, bound)
        return encoded
    real = array.astype(np.float64)
    if not np.isfinite(real).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(real))[0])
        raise InputError(f"value at {where} is {real[where]}; only finite numbers can be encoded")
    with np.errstate(over="ignore"):  # what overflows is refused below
        scaled = np.rint(np.ldexp(real, scale))
    if real.size and float(np.abs(scaled).max()) >= 2.0**bound:
        where = tuple(int(i) for i in np.argwhere(np.abs(scaled) >= 2.0**bound)[0])
        raise InputError(
            f"value at {where} is {real[where]:g}, beyond the fixed-point range of ±{2.0 ** (bound - scale):g} "
            f"({scale} fractional bits); scale the data down"
        )
    return np.asarray(scaled, dtype=np.int64)  # also of a scalar, an array


def _check_bound(encoded: npt.NDArray[np.int64], original: Array, scale: int, bound: int) -> None:
    if encoded.size and bound < 63:
        low, high = int(encoded.min()), int(encoded.max())
        if max(-low, high) >= 1 << bound:
            raise InputError(f"integer {low if -low > high else high} is beyond the range of ±2^{bound}")


def decode(ring: npt.NDArray[np.int64], scale: int) -> npt.NDArray[np.float64]:
    """The reals (float64, same shape) that ring elements with `scale` fractional bits stand for."""
    return np.ldexp(ring.astype(np.float64), -scale)
