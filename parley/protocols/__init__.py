"""All protocols, registered by importing them."""

from parley.protocols import (
    bits,
    comparison,
    linear,
    opening,
    periodic,
    product,
    randomness,
    reveal,
    selection,
    slots,
    truncation,
)
from parley.protocols.base import PROTOCOLS, infer_type

__all__ = [
    "PROTOCOLS",
    "bits",
    "comparison",
    "infer_type",
    "linear",
    "opening",
    "periodic",
    "product",
    "randomness",
    "reveal",
    "selection",
    "slots",
    "truncation",
]
