"""Parley trains and runs PyTorch models on data that no one shares.

The names below are imported when they are first used, because most programs that touch the package need no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parley.cluster import Cluster, current, flush, local, private
    from parley.plan.builder import Precision
    from parley.pytorch.metrics import correct
    from parley.pytorch.module import batches, reveal
    from parley.pytorch.tensor import SecretTensor
    from parley.remote import connect

__all__ = [
    "Cluster",
    "Precision",
    "SecretTensor",
    "batches",
    "connect",
    "correct",
    "current",
    "flush",
    "local",
    "private",
    "reveal",
]

_HOME = {
    "Cluster": "parley.cluster",
    "Precision": "parley.plan.builder",
    "SecretTensor": "parley.pytorch.tensor",
    "batches": "parley.pytorch.module",
    "connect": "parley.remote",
    "correct": "parley.pytorch.metrics",
    "current": "parley.cluster",
    "flush": "parley.cluster",
    "local": "parley.cluster",
    "private": "parley.cluster",
    "reveal": "parley.pytorch.module",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'parley' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
