"""Parley trains and runs PyTorch models on data that no one shares."""

from parley.cluster import Cluster, current, flush, local, private
from parley.plan.builder import Precision
from parley.pytorch.module import batches, reveal
from parley.pytorch.tensor import SecretTensor

__all__ = [
    "Cluster",
    "Precision",
    "SecretTensor",
    "batches",
    "current",
    "flush",
    "local",
    "private",
    "reveal",
]
