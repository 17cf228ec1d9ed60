"""The way in for Python: clusters in this process, what they keep, and loops that repeat one plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import parley
from parley.cluster import Cluster
from parley.errors import InputError, NotFound, ParleyError
from tests.parley.pytorch.compare import close, handles, reals, whole


def plans(cluster: Cluster) -> int:
    """How many plans the cluster has made ready, lately."""
    prepared = cluster._backend._prepared  # type: ignore[attr-defined]
    assert len({plan.hash for plan in prepared}) == len(prepared)
    return len(prepared)


def loop(
    cluster: Cluster, module: nn.Module, *data: torch.Tensor, epochs: int = 2, size: int = 8, **options: Any
) -> Any:
    """A training loop, with plans and kept values counted after every step."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, **options)
    counted = []
    for xb, yb in parley.batches(*data, size=size, epochs=epochs):
        counted.append((plans(cluster), handles(cluster)))
        loss = F.cross_entropy(module(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return counted


@pytest.mark.parametrize("labels", ["one-hot", "class indices"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_training_loop_repeats_one_plan_and_keeps_no_more(labels: str, momentum: float) -> None:
    x, classes = reals(32, 5), whole(32, low=0, high=3)
    with parley.local(2) as cluster:
        y = cluster.secret(classes if labels == "class indices" else F.one_hot(classes, 3).float())
        module = parley.private(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
        counted = loop(cluster, module, cluster.secret(x), y, epochs=3, momentum=momentum)
    assert len(counted) == 12
    # Momentum exists from the first step on, and is updated from the second.
    settled = counted[3:]
    assert all(entry == settled[0] for entry in settled), counted
    assert settled[0][0] <= 4


@pytest.mark.parametrize("size", [1, 3, 5])
def test_batches_of_any_size_repeat_their_plans(size: int) -> None:
    x, y = reals(7, 3), F.one_hot(whole(7, low=0, high=2), 2).float()
    with parley.local(2) as cluster:
        module = parley.private(nn.Linear(3, 2))
        counted = loop(cluster, module, cluster.secret(x), cluster.secret(y), epochs=3, size=size)
        first = len(counted) // 3
    assert counted[-1][0] == counted[first + 2][0]
    assert counted[-1][0] <= 4


def test_evaluation_in_a_loop_repeats_one_plan() -> None:
    with parley.local(2) as cluster:
        module = parley.private(nn.Linear(4, 3))
        x, y = cluster.secret(reals(20, 4)), cluster.secret(whole(20, low=0, high=3))
        total, counted = 0, []
        with torch.no_grad():
            for xb, yb in parley.batches(x, y, size=5, shuffle=False):
                total += int(parley.correct(module(xb), yb).reveal())
                counted.append((plans(cluster), handles(cluster)))
            expected = int((module(x).argmax(1) == y).sum().reveal())
    assert total == expected
    assert all(entry == counted[1] for entry in counted[1:])


def test_a_loop_that_looks_at_its_loss() -> None:
    torch.manual_seed(0)
    x = reals(16, 3)
    target = x @ torch.tensor([[1.0], [-1.0], [0.5]])
    with parley.local(2) as cluster:
        xs, ys = cluster.secret(x), cluster.secret(target)
        module = parley.private(nn.Linear(3, 1))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
        losses, kept, made = [], [], []
        for _ in range(40):
            loss = F.mse_loss(module(xs), ys)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach().reveal()))
            kept.append(handles(cluster))
            made.append(plans(cluster))
            if losses[-1] < 0.02:
                break
        assert losses[-1] < 0.02
        assert len(losses) < 40
        assert losses == sorted(losses, reverse=True)
        assert all(entry == kept[2] for entry in kept[2:])
        assert made[-1] == made[2]


def test_values_that_nobody_refers_to_are_released() -> None:
    with parley.local(2) as cluster:
        x = cluster.secret(reals(4))
        cluster.flush()
        before = handles(cluster)
        results = [x * k for k in range(2, 5)]
        cluster.flush()
        assert handles(cluster) == [count + 3 for count in before]
        del results
        cluster.flush()
        x.add_(1)
        cluster.flush()
        assert handles(cluster) == before


def test_names_of_parties_and_datasets() -> None:
    data = {
        "anna/x": reals(3, 2),
        "ben/y": np.arange(3),
        "ben/hot": np.eye(3, dtype=np.float32),
        "anna/b": [True, False],
    }
    with parley.local(["anna", "ben"], data=data) as cluster:
        assert cluster.parties == ("anna", "ben")
        x, y = cluster.dataset("anna/x"), cluster.dataset("ben/y")
        assert (x.shape, x.dtype, y.dtype) == ((3, 2), torch.float32, torch.int64)
        close((x * 2).reveal(), reals(3, 2) * 2)
        close((y + 1).reveal(), torch.arange(3) + 1)
        close(
            F.cross_entropy(cluster.dataset("anna/x") @ torch.ones(2, 3), cluster.dataset("ben/hot")).reveal(),
            F.cross_entropy(reals(3, 2) @ torch.ones(2, 3), torch.eye(3)),
        )
        rows = [cluster.dataset(name)[:2] for name in ("anna/x", "ben/hot")]
        close(torch.cat([rows[0], rows[1][:, :2]]).reveal(), torch.cat([reals(3, 2)[:2], torch.eye(3)[:2, :2]]))
        with pytest.raises(NotFound, match="anna/x"):
            cluster.dataset("anna/z")
    with pytest.raises(InputError, match="belongs to none"):
        parley.local(2, data={"zoe/x": [1.0]})
    with pytest.raises(InputError, match="2 or more"):
        parley.local(1)


def test_what_may_be_public_is_checked_and_changes_no_result() -> None:
    hot = F.one_hot(torch.tensor([1, 0, 2]), 3).float()
    with parley.local(2) as cluster:
        x, y = cluster.secret(reals(3, 3), bound=8.0), cluster.secret(hot, one_hot=True)
        close((x * y).sum(1).reveal(), (reals(3, 3) * hot).sum(1))
        close(F.cross_entropy(x, y).reveal(), F.cross_entropy(reals(3, 3), hot))
        y[0] = x[0]
        close(y.sum(1).reveal(), torch.cat([reals(3, 3)[:1], hot[1:]]).sum(1))
        with pytest.raises(InputError, match="one-hot"):
            cluster.secret(torch.ones(2, 2), one_hot=True)
        with pytest.raises(InputError, match="range"):
            cluster.secret(torch.tensor([3.0]), bound=1.0)


def test_the_current_cluster_is_the_one_opened_last() -> None:
    with parley.local(2) as outer:
        assert parley.current() is outer
        with parley.local(2) as inner:
            assert parley.current() is inner
        assert parley.current() is outer
        parley.flush()


def test_without_a_cluster_there_is_an_error_that_says_how_to_open_one() -> None:
    with pytest.raises(InputError, match=r"parley.local\(\)"):
        parley.private(nn.Linear(2, 1))


def test_a_closed_cluster_says_so() -> None:
    with parley.local(2) as cluster:
        x = cluster.secret(reals(3))
    with pytest.raises(ParleyError, match="closed"):
        (x + 1).reveal()
    cluster.close()


def test_other_precisions() -> None:
    for bits in (12, 20):
        with parley.local(2, precision=parley.Precision(fraction_bits=bits)) as cluster:
            x = reals(4, 3)
            close((cluster.secret(x) @ cluster.secret(x).t()).reveal(), x @ x.t(), absolute=2.0 ** (6 - bits))
            close(cluster.secret(x).sigmoid().reveal(), x.sigmoid(), absolute=2.0 ** (4 - bits))


def test_batches_are_checked() -> None:
    with parley.local(2) as cluster:
        x = cluster.secret(reals(4, 2))
        with pytest.raises(InputError, match="different numbers of rows"):
            next(iter(parley.batches(x, torch.zeros(3), size=2)))
        with pytest.raises(InputError, match="size"):
            next(iter(parley.batches(x, size=0)))
        seen = [xb.reveal() for xb, _ in parley.batches(x, torch.zeros(4), size=3, shuffle=False)]
    close(torch.cat(seen), reals(4, 2))


def test_what_is_refused_leaves_the_cluster_usable() -> None:
    with parley.local(2) as cluster:
        x = cluster.secret(reals(3))
        y = x * 2
        for wrong in (
            lambda: y.cumsum(0),
            lambda: y.item(),
            lambda: y + torch.zeros(4),
            lambda: y.add_(torch.zeros(4)),
        ):
            with pytest.raises((ParleyError, RuntimeError)):
                wrong()
        with pytest.raises(ParleyError):
            y.reveal(to="nobody")
        close(y.reveal(), reals(3) * 2)
        close((x + y).reveal(), reals(3) * 3)
