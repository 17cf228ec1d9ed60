"""The same program on plain and on secret tensors, with equal results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from parley.cluster import Cluster
from parley.pytorch.module import reveal

Program = Callable[..., Any]


def tensors(result: Any) -> Iterator[torch.Tensor]:
    """All tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from tensors(item)


def same(
    cluster: Cluster, program: Program, *inputs: torch.Tensor, absolute: float = 3e-4, relative: float = 3e-4
) -> None:
    """Run `program` on plain and on secret inputs: shapes, strides, element types and values are the same."""
    expected = list(tensors(program(*[item.clone() for item in inputs])))
    found = list(tensors(program(*[cluster.secret(item) for item in inputs])))
    assert len(found) == len(expected)
    for mine, right in zip(found, expected, strict=True):
        assert mine.shape == right.shape
        assert mine.dtype == right.dtype
    for shown, right in zip(reveal(found), expected, strict=True):
        close(shown, right, absolute, relative)


def close(found: torch.Tensor, expected: torch.Tensor, absolute: float = 3e-4, relative: float = 3e-4) -> None:
    assert type(found) is torch.Tensor
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.is_floating_point:
        torch.testing.assert_close(found, expected.detach(), atol=absolute, rtol=relative)
    else:
        assert torch.equal(found, expected)


def reals(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normally distributed numbers on the fixed-point grid, so that comparisons are the same on both sides."""
    values = np.random.default_rng([seed, *shape]).normal(size=shape) * scale
    return on_grid(values)


def on_grid(values: npt.ArrayLike) -> torch.Tensor:
    return torch.tensor(np.rint(np.asarray(values) * 2.0**12) / 2.0**12, dtype=torch.float32)


def whole(*shape: int, seed: int = 0, low: int = -5, high: int = 6) -> torch.Tensor:
    return torch.tensor(np.random.default_rng([seed, *shape]).integers(low, high, size=shape))


def truth(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng([seed, *shape]).integers(0, 2, size=shape).astype(bool))


def handles(cluster: Cluster) -> Sequence[int]:
    """How many values each party keeps."""
    return [len(list(runtime.vault)) for runtime in cluster._backend._session._runtimes]  # type: ignore[attr-defined]
