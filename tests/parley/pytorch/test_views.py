"""Views, writes through them, aliases and gradients: as in PyTorch, also where a flush lies in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parley
from parley.cluster import Cluster
from parley.errors import UnsupportedOperation
from parley.pytorch.tensor import SecretTensor
from tests.parley.harness import quick
from tests.parley.pytorch.compare import close, reals, same, truth, whole

Write = Callable[[torch.Tensor, torch.Tensor], Any]

WRITES: dict[str, Write] = {
    "row": lambda x, y: x.__setitem__(1, y[0]),
    "row from a number": lambda x, y: x.__setitem__(1, 2.5),
    "last row": lambda x, y: x[-1].copy_(y[0]),
    "column": lambda x, y: x[:, 2].add_(5),
    "element": lambda x, y: x.__setitem__((1, 2), 7.0),
    "element from a secret": lambda x, y: x.__setitem__((0, -1), y[1, 1]),
    "block": lambda x, y: x[1:, 1:3].mul_(2),
    "block from a row": lambda x, y: x.__setitem__(slice(0, 2), y[2]),
    "steps": lambda x, y: x[::2].sub_(y[::2]),
    "steps of columns": lambda x, y: x.__setitem__((slice(None), slice(1, None, 2)), y[:, :2]),
    "everything": lambda x, y: x.__setitem__(slice(None), y),
    "transposed": lambda x, y: x.T.add_(1),
    "transposed with a secret": lambda x, y: x.t().mul_(y.t()),
    "reshaped": lambda x, y: x.view(-1)[3:7].neg_(),
    "permuted row": lambda x, y: x.permute(1, 0)[1].copy_(y[:, 0]),
    "chained": lambda x, y: x[1:].t()[1:3].view(2, 2)[0].add_(y[0, :2]),
    "unsqueezed": lambda x, y: x.unsqueeze(1)[:, 0, 1].fill_(3),
    "squeezed": lambda x, y: x[:1].squeeze(0)[1].zero_(),
    "parts": lambda x, y: [part.add_(k) for k, part in enumerate(x.split(2))],
    "chunks": lambda x, y: x.chunk(2, 1)[1].mul_(-1),
    "unbound": lambda x, y: x.unbind(1)[3].copy_(y[:, 1]),
    "diagonal": lambda x, y: x.diagonal().add_(10),
    "diagonal filled": lambda x, y: x.fill_diagonal_(0) if not isinstance(x, SecretTensor) else x.diagonal().fill_(0),
    "zero": lambda x, y: x.zero_(),
    "zero then part": lambda x, y: (x.zero_(), x[1].add_(y[1])),
    "fill": lambda x, y: (x.fill_(1.5), x[:, 0].mul_(y[:, 0])),
    "fill with a secret": lambda x, y: x.fill_(y[0, 0]),
    "copy": lambda x, y: (x.copy_(y), x.add_(1), y.mul_(2)),
    "copy of a row": lambda x, y: x.copy_(y[0]),
    "from plain": lambda x, y: (x.copy_(reals(3, 4, seed=5)), x[1].add_(y[1])),
    "part from plain": lambda x, y: x.__setitem__(2, torch.tensor([1.0, 2.0, 3.0, 4.0])),
    "itself": lambda x, y: x.__setitem__(0, x[1]),
    "in place operators": lambda x, y: (x.__iadd__(y), x.__imul__(0.5), x.__isub__(1), x.__itruediv__(4)),
    "functions": lambda x, y: (x.exp_(), x.clamp_(0.5, 2), x.sigmoid_()),
    "relu": lambda x, y: (torch.relu_(x), x.neg_()),
    "masked": lambda x, y: x.masked_fill_(y > 0, 1.0),
    "by rows": lambda x, y: x.__setitem__(torch.tensor([2, 0]), y[:2]),
    "by positions": lambda x, y: x.__setitem__((torch.tensor([2, 0]), torch.tensor([1, 1])), 4.0),
    "add by rows": lambda x, y: x.index_add_(0, torch.tensor([1, 1]), y[:2]),
    "transposed in place": lambda x, y: (x.t_(), x[0].add_(1), x.t_()),
    "unsqueezed in place": lambda x, y: (x.unsqueeze_(0), x.squeeze_(0), x.add_(1)),
    "nothing": lambda x, y: x[5:].add_(1),
}


@pytest.mark.parametrize("flush", [False, True], ids=["at once", "after a flush"])
@pytest.mark.parametrize("name", WRITES)
def test_writes_through_views(cluster: Cluster, name: str, flush: bool) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        row, block, alias = x[1], x.t()[1:], x.detach()
        before = x.clone(), row * 2
        if flush:
            cluster.flush()
        WRITES[name](x, y)
        if flush:
            cluster.flush()
        return x, row, block, alias, y, *before, row + block.sum()

    same(cluster, program, reals(3, 4, seed=1), reals(3, 4, seed=2))


@pytest.mark.parametrize(
    "name", ["row", "column", "block", "steps", "everything", "itself", "zero", "copy", "copy of a row"]
)
def test_writes_into_tensors_of_integers(cluster: Cluster, name: str) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        WRITES[name](x, y)
        cluster.flush()
        WRITES[name](x, y)
        x.mul_(2)
        return x, y, x.sum()

    same(cluster, program, whole(3, 4, seed=1), whole(3, 4, seed=2))


def test_writes_into_tensors_of_truth_values(cluster: Cluster) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        x[1] = y[0]
        x[:, 2] = True
        x.t()[0].logical_not_()
        x &= y.flip(0)
        cluster.flush()
        x[0, 0] = y[0, 1]
        x[2] |= y[2]
        z = torch.zeros_like(x)
        z[1] = y[1]
        return x, z, ~x, x.sum()

    same(cluster, program, truth(3, 4, seed=1), truth(3, 4, seed=2))


def test_a_real_is_cut_or_refused_where_it_is_written_into_integers(cluster: Cluster) -> None:
    same(cluster, lambda x: (x.fill_(2.7), x.clone().copy_(torch.full((3,), 1.5))), whole(3))
    x = cluster.secret(torch.tensor([1, 2]))
    with pytest.raises(UnsupportedOperation, match="conversion of secret reals"):
        x.copy_(cluster.secret(torch.tensor([1.5, 2.5])))
    with pytest.raises(RuntimeError, match=r"can't be cast|not possible"):
        x.add_(0.5)
    assert torch.equal(x.reveal(), torch.tensor([1, 2]))


def test_writing_through_an_expanded_view_is_refused(cluster: Cluster) -> None:
    x = cluster.secret(reals(1, 3))
    with pytest.raises(RuntimeError):
        x.expand(2, 3).add_(1)
    with pytest.raises((RuntimeError, UnsupportedOperation)):
        x.expand(2, 3)[0].add_(1)
    close(x.reveal(), reals(1, 3))


def test_shapes_that_do_not_fit_in_place_are_refused_as_by_pytorch(cluster: Cluster) -> None:
    x, y = cluster.secret(reals(3)), cluster.secret(reals(2, 3))
    with pytest.raises(RuntimeError, match=r"broadcast|shape|size"):
        x.add_(y)
    with pytest.raises(RuntimeError, match=r"broadcast|shape|size|match"):
        x.copy_(y)
    close(x.reveal(), reals(3))


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("select"), st.integers(0, 1), st.integers(0, 7)),
        st.tuples(st.just("slice"), st.integers(0, 1), st.integers(0, 7)),
        st.tuples(st.just("transpose"), st.just(0), st.just(0)),
        st.tuples(st.just("flatten"), st.just(0), st.just(0)),
        st.tuples(st.just("unsqueeze"), st.just(0), st.just(0)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
    ),
    max_size=4,
)
_writes = st.sampled_from(["add", "mul", "copy", "fill", "zero", "flush", "none"])


def _walk(x: torch.Tensor, steps: list[tuple[str, int, int]]) -> torch.Tensor:
    for name, axis, number in steps:
        if x.ndim == 0:
            return x
        axis %= x.ndim
        size = x.shape[axis]
        if name == "select" and size:
            x = x.select(axis, number % size)
        elif name == "slice":
            x = x.narrow(axis, number % (size + 1), size - number % (size + 1))
        elif name == "transpose":
            x = x.transpose(0, -1)
        elif name == "flatten" and x.is_contiguous():
            x = x.view(-1)
        elif name == "unsqueeze":
            x = x.unsqueeze(0)
        elif name == "step":
            x = x[::2]
    return x


@quick
@given(st.lists(st.tuples(_steps, _writes), min_size=1, max_size=4), st.booleans())
def test_any_chain_of_views_reads_and_writes_through(
    program: list[tuple[list[tuple[str, int, int]], str]], uniform: bool
) -> None:
    cluster = parley.current()

    def run(x: torch.Tensor) -> Any:
        base = torch.zeros_like(x) if uniform else x
        seen = []
        for number, (steps, write) in enumerate(program):
            part = _walk(base, steps)
            if write == "add":
                part.add_(number + 1)
            elif write == "mul":
                part.mul_(x.reshape(-1)[number].clone())
            elif write == "copy":
                part.copy_(part.clone() * 2 + 1)
            elif write == "fill":
                part.fill_(0.5)
            elif write == "zero":
                part.zero_()
            elif write == "flush":
                cluster.flush()
            seen += [part, part.clone(), base.clone()]
        return (*seen, base, x)

    same(cluster, run, reals(3, 4, seed=3))


def test_detach_and_data_share_what_is_written(cluster: Cluster) -> None:
    def program(x: torch.Tensor) -> Any:
        x.requires_grad_()
        alias = x.detach()
        y = x * 2
        with torch.no_grad():
            x.add_(1)
        alias[0].mul_(3)
        x.data.sub_(0.5)
        return alias, x.detach(), y.detach(), x.data

    same(cluster, program, reals(3, 4))


GRADIENTS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "views": lambda x, y: (x[1] * y[0]).sum() + (x.t()[1:].reshape(-1) ** 2).sum(),
    "slices": lambda x, y: (x[::2, 1:] * y[::2, 1:]).sum() + x[-1, -1] * 3,
    "expand": lambda x, y: (x[:1].expand(3, 4) * y).sum(),
    "broadcast": lambda x, y: ((x[:, :1] + y[1]) * y).mean(),
    "cat": lambda x, y: (torch.cat([x, y, x], 1) ** 2).sum(),
    "stack and split": lambda x, y: (torch.stack([x, x * y])[1].split(2, 1)[1] * 2).sum(),
    "rows": lambda x, y: (x[torch.tensor([0, 2, 0])] * y).sum(),
    "positions": lambda x, y: (x[torch.tensor([0, 2, 0]), torch.tensor([-1, 2, 3])] * y[0, :3]).sum(),
    "gather": lambda x, y: (x.gather(1, torch.tensor([[0, 0], [3, 1], [1, 1]])) * y[:, :2]).sum(),
    "index_select": lambda x, y: (x.index_select(1, torch.tensor([1, 1])) * y[:, :2]).sum(),
    "in place on a copy": lambda x, y: _in_place(x.clone(), y),
    "reductions": lambda x, y: x.mean() + x.var() + (x.sum(0) * y[0]).sum() + x.mean(1).pow(2).sum(),
    "maximum": lambda x, y: x.max(1).values.sum() + torch.maximum(x, y).sum() + x.amax(0).sum(),
    "functions": lambda x, y: (x.exp() + x.sigmoid() * x.tanh() + x.relu() + x.abs()).sum(),
    "more functions": lambda x, y: ((x.abs() + 1).log() + (x.abs() + 1).sqrt() + 1 / (x.abs() + 1)).sum(),
    "quotient": lambda x, y: (x / (y.abs() + 1) + y / (x.abs() + 1)).sum(),
    "softmax": lambda x, y: (torch.softmax(x, 1) * y).sum() + (torch.log_softmax(x, 0) * y).sum(),
    "products": lambda x, y: (x @ y.t()).pow(2).sum() + (x[None] @ y.t()[None]).sum(),
    "where": lambda x, y: torch.where(x > y, x * 2, y).sum() + x.clamp(-0.5, 0.5).sum(),
    "flip, roll and pad": lambda x, y: (
        (x.flip(0) * y).sum() + (x.roll(1) * y).sum() + torch.nn.functional.pad(x, (1, 1)).pow(2).sum()
    ),
    "used twice": lambda x, y: (x * x + x).sum() * x.sum(),
}


def _in_place(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x[1] *= y[0]
    x[:, 2] = y[:, 0] * x[:, 1].clone()
    x.t()[0].add_(2)
    return (x * x).sum()


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(cluster: Cluster, name: str) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        x.requires_grad_()
        y.requires_grad_()
        result = GRADIENTS[name](x, y)
        result.backward()
        return result.detach(), *(tensor.grad for tensor in (x, y) if tensor.grad is not None)

    same(cluster, program, reals(3, 4, seed=1), reals(3, 4, seed=2), absolute=2e-3, relative=1e-3)


def test_backward_twice_and_accumulation(cluster: Cluster) -> None:
    def program(x: torch.Tensor) -> Any:
        x.requires_grad_()
        loss = (x.sigmoid() * x).sum()
        loss.backward(retain_graph=True)
        first = x.grad.clone()  # type: ignore[union-attr]
        cluster.flush()
        loss.backward()
        return first, x.grad, loss.detach(), *torch.autograd.grad((x**3).sum(), x)

    same(cluster, program, reals(3, 4))


def test_gradients_of_gradients(cluster: Cluster) -> None:
    def program(x: torch.Tensor) -> Any:
        x.requires_grad_()
        (slope,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        slope.sum().backward()
        return slope.detach(), x.grad

    same(cluster, program, reals(3, 4))


def test_without_gradients(cluster: Cluster) -> None:
    x = cluster.secret(reals(3, 4)).requires_grad_()
    with torch.no_grad():
        assert not (x * 2).requires_grad
    with torch.inference_mode():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    assert not x.detach().requires_grad


def test_copies_are_of_their_own(cluster: Cluster) -> None:
    x = cluster.secret(reals(2, 2)).requires_grad_()
    other = copy.deepcopy(x)
    assert other.requires_grad
    with torch.no_grad():
        other.add_(1)
    cluster.flush()
    with torch.no_grad():
        x.mul_(2)
    close(x.detach().reveal(), reals(2, 2) * 2)
    close(other.detach().reveal(), reals(2, 2) + 1)


def test_values_from_before_a_flush_are_right_after_it(cluster: Cluster) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        product, part, mask = x * y, x.t()[1:], x > y
        keep = x.clone()
        cluster.flush()
        x.add_(1)
        cluster.flush()
        cluster.flush()
        again = product + x
        x.mul_(2)
        cluster.flush()
        return product, part, mask, keep, again, x, torch.where(mask, x, y), part * 2

    same(cluster, program, reals(3, 4, seed=1), reals(3, 4, seed=2))


def test_values_change_places(cluster: Cluster) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        x.add_(0)
        y.add_(0)
        for _ in range(3):
            cluster.flush()
            old = x.clone()
            x.copy_(y)
            y.copy_(old)
        return x, y, old

    same(cluster, program, reals(3, seed=1), reals(3, seed=2))


_orders = st.lists(
    st.tuples(
        st.sampled_from(["clone", "view", "row", "add", "write", "copy", "forget", "flush", "double"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    min_size=3,
    max_size=12,
)


@quick
@given(_orders)
def test_many_tensors_and_aliases_live_through_flushes(orders: list[tuple[str, int, int]]) -> None:
    cluster = parley.current()

    def run(x: torch.Tensor, y: torch.Tensor) -> Any:
        pool = [x, y]
        for name, first, second in orders:
            a, b = pool[first % len(pool)], pool[second % len(pool)]
            if name == "clone":
                pool.append(a.clone())
            elif name == "view":
                pool.append(a.t())
            elif name == "row":
                a[first % 2] = b[second % 2].clone()
            elif name == "add":
                pool.append(a + b)
            elif name == "write":
                a.sub_(b.clone())
            elif name == "copy":
                a.copy_(b.clone())
            elif name == "forget" and len(pool) > 1:
                del pool[first % len(pool)]
            elif name == "double":
                a.mul_(0.5)
            elif name == "flush":
                cluster.flush()
            del a, b
        return pool

    same(cluster, run, reals(2, 2, seed=1), reals(2, 2, seed=2), absolute=1e-3)


@pytest.fixture(autouse=True)
def _current(cluster: Cluster) -> None:
    assert parley.current() is cluster
