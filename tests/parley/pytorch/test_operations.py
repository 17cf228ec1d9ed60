"""Every operation of the table on secret tensors gives what PyTorch gives on plain ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import parley
from parley.cluster import Cluster
from parley.errors import InputError, ParleyError, UnsupportedOperation
from tests.parley.harness import quick
from tests.parley.pytorch.compare import on_grid, reals, same, truth, whole

Programs = dict[str, Callable[..., Any]]

POINTWISE: Programs = {
    "add": lambda x, y: x + y,
    "add a number": lambda x, y: x + 1.5,
    "add a number to": lambda x, y: 2 + x,
    "add with alpha": lambda x, y: torch.add(x, y, alpha=0.3),
    "subtract": lambda x, y: x - y,
    "subtract from": lambda x, y: 1.25 - x,
    "subtract with alpha": lambda x, y: torch.sub(x, y, alpha=2),
    "rsub": lambda x, y: torch.rsub(x, y, alpha=0.5),
    "multiply": lambda x, y: x * y,
    "multiply by a number": lambda x, y: (x * 3, x * 0.1, x * 2, x * 0.25, x * -1, x * 0, -2.5 * x),
    "multiply twice": lambda x, y: x * y * x,
    "divide by a number": lambda x, y: (x / 4, x / 3, x / -0.7),
    "negate": lambda x, y: (-x, +x),
    "power": lambda x, y: (x**2, x**3, x**1, x**0),
    "square": lambda x, y: x.square(),
    "exp": lambda x, y: x.exp(),
    "abs": lambda x, y: (x.abs(), abs(y)),
    "sign": lambda x, y: (x.sign(), (x * 0).sign(), y.sgn()),
    "clamp": lambda x, y: (x.clamp(-0.5, 0.5), x.clamp(min=0.25), x.clamp(max=0.1), x.clamp_min(0), x.clamp_max(0.5)),
    "relu": lambda x, y: (x.relu(), F.relu(y)),
    "sigmoid": lambda x, y: x.sigmoid(),
    "tanh": lambda x, y: x.tanh(),
    "softplus": lambda x, y: (F.softplus(x), F.softplus(x, beta=2.0)),
    "softmax": lambda x, y: (F.softmax(x, -1), F.softmax(x, 0)),
    "log softmax": lambda x, y: (F.log_softmax(x, -1), F.log_softmax(x, 0)),
    "maximum": lambda x, y: (torch.maximum(x, y), torch.minimum(x, y), torch.max(x, y)),
    "where": lambda x, y: (torch.where(x > y, x, y), torch.where(x > 0, x, 0.5), torch.where(x > 0, 1.0, 0.0)),
    "where between numbers": lambda x, y: torch.where(x < 0, 2.0, x),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, 2.0),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "compare": lambda x, y: (x < y, x <= y, x > y, x >= y, x == y, x != y),
    "compare with a number": lambda x, y: (x < 0.5, x <= 0.5, x > 0.5, x >= 0.5, x == x, x != x, x == 0.5),
    "compare a number": lambda x, y: (torch.lt(0.5 * torch.ones(()), x), torch.ge(x, 0.5)),
    "logic": lambda x, y: ((x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0), ~(x > 0)),
    "logic with a number": lambda x, y: ((x > 0) & True, (x > 0) | False, torch.logical_not(x > 0)),
    "logical": lambda x, y: (torch.logical_and(x > 0, y), torch.logical_or(x, y), torch.logical_xor(x > 0, y > 0)),
    "truth in arithmetic": lambda x, y: (x * (x > 0), (x > 0) * x, (x > 0).float() - 0.5, (x > 0) * 2, (x > 0).sum()),
    "truth times truth": lambda x, y: ((x > 0) * (y > 0), (x > 0) == (y > 0), (x > 0) + (y > 0)),
    "any and all": lambda x, y: ((x > 0).any(), (x > 0).all(), (x > 2).any(1), (x > -2).all(0, keepdim=True)),
    "where of truths": lambda x, y: torch.where(x > y, x > 0, y > 0),
    "conversion": lambda x, y: ((x > 0).float(), (x > 0).long(), (x > 0).int(), x.double(), x.bool(), x.half().float()),
    "clone": lambda x, y: (x.clone(), x.detach(), x.contiguous(), x.t().contiguous()),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(cluster: Cluster, name: str) -> None:
    same(cluster, POINTWISE[name], reals(4, 3, seed=1), reals(4, 3, seed=2))


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_with_broadcasting_and_plain_operands(cluster: Cluster, name: str) -> None:
    plain = reals(3, seed=2)
    same(cluster, lambda x: POINTWISE[name](x, plain), reals(4, 3, seed=1))
    if "power" not in name:
        same(cluster, POINTWISE[name], reals(4, 3, seed=1), reals(1, 3, seed=2))
        same(cluster, lambda y: POINTWISE[name](reals(4, 3, seed=1), y), reals(3, seed=2))


POSITIVE: Programs = {
    "divide": lambda x, y: (x / y, (x - 2) / y, 1 / x, 2.5 / y, x.reciprocal(), x / -y),
    "divide by plain": lambda x, y: (x / torch.tensor([1.5, 3.0, 0.25]), torch.tensor([1.5, 3.0, 0.25]) / x),
    "sqrt": lambda x, y: (x.sqrt(), x**0.5),
    "rsqrt": lambda x, y: (x.rsqrt(), x**-0.5, x**-1, x**-2),
    "log": lambda x, y: x.log(),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y, value=0.5),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_functions_of_positive_numbers(cluster: Cluster, name: str) -> None:
    positive = reals(4, 3, seed=1).abs() + 0.25
    same(cluster, POSITIVE[name], positive, reals(4, 3, seed=2).abs() + 0.5, absolute=5e-4, relative=5e-4)


REDUCTIONS: Programs = {
    "sum": lambda x: (x.sum(), x.sum(0), x.sum(-1), x.sum((0, 2)), x.sum(1, keepdim=True), x.sum((0, 1, 2), True)),
    "mean": lambda x: (x.mean(), x.mean(0), x.mean(-1), x.mean((0, 2)), x.mean(1, keepdim=True)),
    "var": lambda x: (x.var(), x.var(0), x.var(1, unbiased=False), x.var((0, 2), keepdim=True), x.var(2, correction=0)),
    "std": lambda x: (x.std(), x.std(1), x.std((0, 1), keepdim=True)),
    "max": lambda x: (x.max(), *x.max(0), *x.max(-1), *x.max(1, keepdim=True), x.amax(), x.amax((0, 2))),
    "min": lambda x: (x.min(), *x.min(0), *x.min(-1), *x.min(1, keepdim=True), x.amin(), x.amin((0, 2), keepdim=True)),
    "argmax": lambda x: (x.argmax(), x.argmax(0), x.argmax(-1), x.argmax(1, keepdim=True)),
    "argmin": lambda x: (x.argmin(), x.argmin(0), x.argmin(-1), x.argmin(1, keepdim=True)),
    "sum of no axes": lambda x: (x.sum(()), x.amax(())),
    "nested": lambda x: (x.sum(0).max(), (x - x.mean(0)).sum(), x.sum().sum(), x.sum().mean(), x.sum().max()),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(cluster: Cluster, name: str) -> None:
    same(cluster, REDUCTIONS[name], reals(3, 4, 2, seed=3), absolute=1e-3)


def test_of_equal_elements_the_first_is_the_largest(cluster: Cluster) -> None:
    same(cluster, lambda x: (x.argmax(1), x.argmin(1), *x.max(1)), on_grid([[1, 3, 3, 0, 0], [2, 2, 2, 2, 2]]))


PRODUCTS: Programs = {
    "matrix": lambda a, b: (a[0] @ b[0], a[0].mm(b[0])),
    "batched": lambda a, b: (a @ b, torch.bmm(a, b)),
    "with broadcasting": lambda a, b: (a @ b[0], a[0] @ b, a[:, None] @ b[None]),
    "vectors": lambda a, b: (a[0] @ b[0, :, 0], a[0, 0] @ b[0], a[0, 0] @ b[0, :, 0], torch.dot(a[0, 0], a[0, 1])),
    "addmm": lambda a, b: torch.addmm(a[0, :, :2], a[0], b[0], beta=0.5, alpha=2),
    "baddbmm": lambda a, b: torch.baddbmm(a[:, :, :2], a, b, beta=0.5, alpha=2),
    "linear": lambda a, b: (F.linear(a, b[0].t()), F.linear(a, b[0].t(), b[0, 0]), F.linear(a[0, 0], b[0].t())),
    "einsum": lambda a, b: torch.einsum("bij,bjk->ik", a, b),
    "outer": lambda a, b: torch.outer(a[0, 0], b[0, 0]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(cluster: Cluster, name: str) -> None:
    left, right = reals(2, 3, 4, seed=4), reals(2, 4, 2, seed=5)
    same(cluster, PRODUCTS[name], left, right)
    same(cluster, lambda b: PRODUCTS[name](left, b), right)
    same(cluster, lambda a: PRODUCTS[name](a, right), left)


ARRANGEMENTS: Programs = {
    "cat": lambda x, y: (torch.cat([x, y]), torch.cat([x, y, x], -1), torch.cat([x, torch.ones(1, 4)]), torch.cat([x])),
    "cat of scales": lambda x, y: (torch.cat([x * y, x, y > 0]), torch.cat([x > 0, y > 0]), torch.cat([x * x * x, y])),
    "cat of empty": lambda x, y: (torch.cat([x, torch.zeros(0)]), torch.cat([x[:0], y]), torch.cat([x[:0], y[:0]])),
    "stack": lambda x, y: (torch.stack([x, y]), torch.stack([x, y], -1), torch.stack([x, torch.zeros(3, 4)], 1)),
    "split": lambda x, y: (x.split(2), x.split([1, 3], 1), x.chunk(2), x.chunk(3, -1), x.unbind(), x.unbind(1)),
    "tensor_split": lambda x, y: (x.tensor_split(2), x.tensor_split((1, 3), 1), torch.hsplit(x, 2)),
    "flip": lambda x, y: (x.flip(0), x.flip(0, 1), x.flip(-1), x[:1].flip(0)),
    "pad": lambda x, y: (F.pad(x, (1, 2)), F.pad(x, (0, 0, 2, 1), value=0.5), F.pad(x, (-1, 1)), F.pad(x, (-1, -2))),
    "pad with a number": lambda x, y: (F.pad(x, (1, 1), value=-3.25), F.pad(x * y, (1, 1), value=2.0)),
    "reshape": lambda x, y: (x.reshape(2, 6), x.view(-1), x.flatten(), x.t().reshape(-1), x.unsqueeze(1), x[None]),
    "squeeze": lambda x, y: (x[:1].squeeze(), x[:1].squeeze(0), x[:, None].squeeze((0, 1)), x.squeeze()),
    "transpose": lambda x, y: (x.t(), x.T, x.transpose(0, -1), x.permute(1, 0), x.mT, x[None].movedim(0, -1)),
    "swap": lambda x, y: (x[None].swapaxes(0, 2), torch.swapdims(x, 0, 1), x[None].permute(-1, 0, 1)),
    "expand": lambda x, y: (x[:1].expand(3, -1), x[0].expand(2, 4), x.expand_as(x), x.broadcast_to(2, 3, 4)),
    "repeat": lambda x, y: (x.repeat(2, 1), x.tile(2), x.repeat(2, 1, 2), x.repeat_interleave(2, 1)),
    "roll": lambda x, y: (x.roll(1), x.roll(-1, 0), x.roll((1, 2), (0, 1))),
    "slice": lambda x, y: (x[1:], x[:-1], x[::2], x[1:, ::3], x[5:], x[..., 1:2], x[1], x[-1], x[:, -2], x[1, 2]),
    "narrow": lambda x, y: (x.narrow(0, 1, 2), x.select(1, -1), x.narrow(1, 0, 0)),
    "diagonal": lambda x, y: (x.diagonal(), x.diagonal(1), torch.diagonal(x, -1)),
    "unfold": lambda x, y: x.unfold(1, 2, 1),
    "truth": lambda x, y: ((x > 0).t(), (x > 0)[1], (x > 0).flip(1), torch.stack([x > 0, y > 0]), (x > 0).reshape(-1)),
    "meshgrid": lambda x, y: torch.meshgrid(x[0], y[0], indexing="ij"),
    "atleast": lambda x, y: (torch.atleast_3d(x), x.ravel(), x.unflatten(1, (2, 2))),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements(cluster: Cluster, name: str) -> None:
    same(cluster, ARRANGEMENTS[name], reals(3, 4, seed=6), reals(3, 4, seed=7))


INDICES: Programs = {
    "rows": lambda x: (
        x[torch.tensor([2, 0, 2])],
        x[torch.tensor([1])],
        x[[0, 1]],
        x[torch.tensor([], dtype=torch.long)],
    ),
    "negative": lambda x: (x[torch.tensor([-1, 0, -3])], x[:, torch.tensor([-1, 1])], x[torch.tensor([[-1], [1]])]),
    "matrix of rows": lambda x: (x[torch.tensor([[2, 0], [1, 1]])], x[:, torch.tensor([[2, 0], [1, 1]])]),
    "one row": lambda x: (x[torch.tensor(1)], x[torch.tensor(-1)], x[:, torch.tensor(2)]),
    "several": lambda x: (
        x[torch.tensor([0, 2]), torch.tensor([1, -1])],
        x[torch.tensor([[0], [2]]), torch.tensor([1, 3])],
    ),
    "mixed": lambda x: (x[1, torch.tensor([0, 3])], x[torch.tensor([0, 2]), 1:3], x[None, torch.tensor([0])]),
    "index_select": lambda x: (x.index_select(0, torch.tensor([2, 0])), x.index_select(-1, torch.tensor([1, 1]))),
    "int32": lambda x: x[torch.tensor([2, 0], dtype=torch.int32)],
    "gather": lambda x: (x.gather(1, torch.tensor([[0], [3], [1]])), x.gather(0, torch.tensor([[0, 1, 2, 0]]))),
    "take": lambda x: torch.take_along_dim(x, torch.tensor([[0], [3], [1]]), 1),
    "index_add": lambda x: x.index_add(0, torch.tensor([1, 1, 0]), x, alpha=0.5),
    "scatter": lambda x: x.scatter(1, torch.tensor([[0, 2], [3, 1], [1, 0]]), x * 2),
    "scatter_add": lambda x: x.scatter_add(1, torch.tensor([[0, 0], [3, 3], [1, 0]]), x * 2),
    "index_put": lambda x: (
        x.index_put((torch.tensor([0, 2]),), x[:2] * 3),
        x.index_put((torch.tensor([0, 0]), torch.tensor([1, 1])), x[0, :2], accumulate=True),
    ),
    "of truth": lambda x: (x > 0)[torch.tensor([2, 0])],
    "of whole numbers": lambda x: (x > 0).long()[torch.tensor([2, 0])],
}


@pytest.mark.parametrize("name", INDICES)
def test_public_indices(cluster: Cluster, name: str) -> None:
    same(cluster, INDICES[name], reals(3, 4, seed=8))


def test_an_index_out_of_bounds_is_an_index_error_and_harms_nothing(cluster: Cluster) -> None:
    x = cluster.secret(reals(3, 4))
    for wrong in (3, -4):
        with pytest.raises(IndexError, match="out of bounds"):
            x[torch.tensor([0, wrong])]
        with pytest.raises((IndexError, RuntimeError), match="out of"):
            x[torch.tensor([0, wrong]), torch.tensor([0, 0])]
    assert torch.equal(x.reveal(), reals(3, 4))


def test_masks_and_secret_tensors_as_indices_are_refused(cluster: Cluster) -> None:
    x = cluster.secret(reals(3, 4))
    with pytest.raises(UnsupportedOperation, match=r"aten.*test_operations.py:\d+"):
        x[torch.tensor([True, False, True])]
    with pytest.raises(UnsupportedOperation, match=r"aten.*test_operations.py:\d+"):
        x[x > 0]
    with pytest.raises(UnsupportedOperation, match="secret index"):
        x[cluster.secret(torch.tensor([0, 1]))]
    with pytest.raises(UnsupportedOperation, match="aten"):
        torch.ones(3)[cluster.secret(torch.tensor([0, 1]))]


INTEGERS: Programs = {
    "arithmetic": lambda a, b: (a + b, a - b, a * b, -a, a * 2, 2 * a, a * -4, a * 3, a + 1, 3 - a, a * 0),
    "scaled and kept": lambda a, b: (a * 8, (a * 8).sum(), (a * 2) * (b * 2), (a * 2).flip(0), torch.cat([a * 2, b])),
    "true division": lambda a, b: (a / 2, a / 3, b / (a.abs() + 1)),
    "compare": lambda a, b: (a < b, a <= 2, a == b, a != 0, (a * 2) == (b * 2), torch.gt(3 * torch.ones(()), a)),
    "extrema": lambda a, b: (a.max(), a.argmax(), *a.min(0), a.abs(), a.sign(), a.clamp(-1, 2), torch.maximum(a, b)),
    "sums": lambda a, b: (a.sum(), a.sum(0), (a > 0).sum(1), a.float().mean()),
    "with reals": lambda a, b: (a + 0.5, a * 0.25, a.float() / 4, a.double(), torch.where(a > b, a, 0.5)),
    "power": lambda a, b: (a**2, a**3, a**0),
    "where": lambda a, b: (torch.where(a > b, a, b), torch.where(a > 0, 1, 0), a.masked_fill(b > 0, 7)),
    "conversion": lambda a, b: (a.int(), a.float(), a.bool(), (a > 0).to(torch.int8), a.to(torch.int32) + a),
    "logical": lambda a, b: (torch.logical_and(a, b), torch.logical_not(a), torch.logical_or(a, b > 0)),
    "arrangement": lambda a, b: (a.t(), a.reshape(-1), torch.stack([a, b]), a[1], a[:, ::2], F.pad(a, (1, 0), value=3)),
    "with plain": lambda a, b: (a + torch.tensor([1, 2, 3]), a * torch.tensor([[1], [2]]), a < torch.tensor([1, 0, 2])),
    "clamp by reals": lambda a, b: (a.clamp(-0.5, 1.5), a.clamp(min=1)),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(cluster: Cluster, name: str) -> None:
    same(cluster, INTEGERS[name], whole(2, 3, seed=9), whole(2, 3, seed=10))


TRUTHS: Programs = {
    "logic": lambda p, q: (p & q, p | q, p ^ q, ~p, p == q, p != q),
    "with plain": lambda p, q: (p & torch.tensor([True, False, True]), p | torch.tensor([True, False, True])),
    "arithmetic": lambda p, q: (p + q, p * q, p.sum(), p.float().mean(), p * 2, p + 1, p * 0.5, 1 - p.long()),
    "choice": lambda p, q: (torch.where(p, 1.0, 2.0), torch.where(p, q, ~q), torch.where(p, 3, 4)),
    "any": lambda p, q: (p.any(), p.all(), p.any(0), q.all(1)),
    "arrangement": lambda p, q: (p.t(), torch.cat([p, q]), p[0], p.flip(1), p.clone(), p.repeat(2, 1)),
    "mask": lambda p, q: (torch.ones(2, 3).masked_fill(p, 5.0), p.masked_fill(q, True)),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_truth_values(cluster: Cluster, name: str) -> None:
    same(cluster, TRUTHS[name], truth(2, 3, seed=11), truth(2, 3, seed=12))


UNIFORM: Programs = {
    "factories": lambda x: (
        torch.zeros_like(x),
        torch.ones_like(x),
        torch.full_like(x, 2.5),
        x.new_zeros(2),
        x.new_ones(2),
    ),
    "full of another type": lambda x: (torch.full_like(x, 2.7, dtype=torch.long), torch.ones_like(x, dtype=torch.bool)),
    "new_full": lambda x: (x.new_full((2, 2), 1.5), x.new_tensor([1.0, 2.0])),
    "arithmetic": lambda x: (x + torch.ones_like(x), x * torch.full_like(x, 0.5), torch.full_like(x, 3.0) - x),
    "divided": lambda x: (x / torch.full_like(x, 0.5), torch.full_like(x, 3.0) / 2),
    "only public": lambda x: (torch.ones_like(x).exp(), torch.full_like(x, 2.0).sum(0), torch.full_like(x, 4.0).sqrt()),
    "softmax": lambda x: (
        F.softmax(torch.ones_like(x), 0),
        F.log_softmax(torch.ones_like(x), 1),
        torch.ones_like(x).relu(),
    ),
    "extrema": lambda x: (torch.ones_like(x).argmax(), *torch.ones_like(x).max(1), torch.ones_like(x).amax()),
    "truth": lambda x: (torch.ones_like(x) > 0, torch.zeros_like(x).bool(), (torch.ones_like(x) > 0) & (x > 0)),
    "where": lambda x: torch.where(torch.ones_like(x) > 0, x, torch.zeros_like(x)),
    "product": lambda x: (
        torch.ones_like(x) @ x.t(),
        x @ torch.full_like(x, 0.5).t(),
        torch.ones_like(x) @ x.new_ones(4, 2),
    ),
    "joined": lambda x: (torch.cat([torch.ones_like(x), x]), torch.cat([torch.ones_like(x), torch.zeros_like(x)])),
    "stacked": lambda x: (
        torch.stack([torch.ones_like(x), torch.ones_like(x)]),
        torch.stack([x, torch.full_like(x, 0.5)]),
    ),
    "views": lambda x: (torch.ones_like(x).t(), torch.ones_like(x)[1], torch.ones_like(x).reshape(-1)[2:].sum()),
    "not uniform any more": lambda x: (torch.ones_like(x).cumsum(0), torch.ones_like(x).tril() * x),
    "indexed": lambda x: (torch.ones_like(x)[torch.tensor([0, 1])], F.pad(torch.ones_like(x), (1, 1))),
    "conversion": lambda x: (
        torch.full_like(x, 2.7).long(),
        torch.full_like(x, 2.7).int() + 1,
        torch.ones_like(x).bool(),
    ),
    "in place": lambda x: (torch.zeros_like(x).add_(x), torch.ones_like(x).mul_(x), torch.zeros_like(x).add_(1).exp_()),
    "filled": lambda x: (
        torch.zeros_like(x).fill_(2.5),
        torch.zeros_like(x).copy_(x),
        torch.zeros_like(x).copy_(reals(3, 4)),
    ),
    "written in part": lambda x: (_put(torch.zeros_like(x), x), _put(torch.zeros_like(x), torch.ones_like(x))),
    "written in a real part": lambda x: (_put(torch.full_like(x, 0.5), x > 0), _put(x, torch.full_like(x, 0.3))),
    "pointwise of public": lambda x: torch.ones_like(x).copy_(reals(3, 4)).sigmoid() * x,
}


def _put(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    target = target.clone()
    target[1] = source[0]
    target[:, 2] += source[:, 1]
    return target


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_contents(cluster: Cluster, name: str) -> None:
    same(cluster, UNIFORM[name], reals(3, 4, seed=13))


PUBLIC: Programs = {
    "pointwise": lambda p, x: (p.exp(), p.relu(), p.abs(), p * p, p > 0, p.sigmoid(), p.clamp(0, 1), p.sign()),
    "products": lambda p, x: (p @ x.t(), x @ p.t(), p @ p.t(), p * x, p / 3),
    "reductions": lambda p, x: (p.sum(), p.mean(0), *p.max(1), p.argmax(), p.var(0), F.softmax(p, 1)),
    "arrangements": lambda p, x: (torch.cat([p, x]), p.t(), p[1], p[torch.tensor([0, 0])], torch.stack([p, p])),
    "choice": lambda p, x: (torch.where(p > 0, x, p), torch.maximum(p, x), torch.where(x > 0, p, -p)),
    "division": lambda p, x: (x / (p.abs() + 1), p / (x.abs() + 1), p / (p.abs() + 1)),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_plain_values_inside_secret_tensors(cluster: Cluster, name: str) -> None:
    plain = reals(3, 4, seed=14)
    same(cluster, lambda x: PUBLIC[name](torch.zeros_like(x).copy_(plain), x), reals(3, 4, seed=13))


SCALARS: Programs = {
    "arithmetic": lambda s: (s + 1, s * 2, s * s, -s, s / 3, s.exp(), s.abs(), s > 0, s.sigmoid()),
    "shapes": lambda s: (s.reshape(1), s.reshape(1, 1), s[None], s.expand(3), s.clone(), s.squeeze(), s.flatten()),
    "reductions": lambda s: (
        s.sum(),
        s.mean(),
        s.max(),
        s.argmax(),
        *s.max(0),
        s.sum(0),
        s.amax(),
        s.sum(-1, keepdim=True),
    ),
    "joined": lambda s: (torch.stack([s, s]), torch.cat([s[None], s[None]])),
    "in place": lambda s: (s.clone().add_(1), s.clone().zero_(), s.clone().fill_(3), s.clone().copy_(s * 2)),
}


@pytest.mark.parametrize("name", SCALARS)
def test_tensors_without_axes(cluster: Cluster, name: str) -> None:
    same(cluster, SCALARS[name], torch.tensor(0.75))


EMPTY: Programs = {
    "arithmetic": lambda e: (e + 1, e * e, -e, e.exp(), e > 0, e.relu(), e / 3),
    "shapes": lambda e: (e.t(), e.reshape(-1), e[:, 1:], torch.cat([e, e]), e.clone()),
    "sums": lambda e: (e.sum(), e.sum(0), e.sum(1)),
    "products": lambda e: (e @ e.t(), e.t() @ e),
    "in place": lambda e: (e.clone().add_(1), e.clone().zero_()),
}


@pytest.mark.parametrize("name", EMPTY)
def test_tensors_without_elements(cluster: Cluster, name: str) -> None:
    same(cluster, EMPTY[name], torch.zeros(0, 3))


@quick
@given(
    st.lists(st.integers(1, 3), max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(0, 2),
    st.sampled_from(["add", "sub", "mul", "lt", "maximum"]),
    st.booleans(),
)
def test_broadcasting(shape: list[int], ones: list[bool], dropped: int, name: str, plain: bool) -> None:
    other = [1 if one else size for one, size in zip(ones, shape, strict=False)][min(dropped, len(shape)) :]
    left, right = reals(*shape, seed=1), reals(*other, seed=2)
    operation = getattr(torch, name)
    if plain:
        same(parley.current(), lambda x: (operation(x, right), operation(right, x)), left)
    else:
        same(parley.current(), lambda x, y: (operation(x, y), operation(y, x)), left, right)


@pytest.fixture(autouse=True)
def _current(cluster: Cluster) -> None:
    assert parley.current() is cluster


DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)


@pytest.mark.parametrize("left", DTYPES, ids=str)
@pytest.mark.parametrize("right", DTYPES, ids=str)
def test_element_types_of_results_are_those_of_pytorch(cluster: Cluster, left: torch.dtype, right: torch.dtype) -> None:
    x, y = whole(2, 3, seed=1).to(left), whole(2, 3, seed=2).to(right)
    same(cluster, lambda a, b: (a + b, a * b, a > b, torch.cat([a, b])), x, y)
    same(cluster, lambda a: (a + y, y * a, a >= y, a * 2, a * 0.5), x)


def test_division_of_integers_is_refused_by_name(cluster: Cluster) -> None:
    a = cluster.secret(torch.tensor([7, -7, 3]))
    for wrong in (lambda: a // 2, lambda: a % 2, lambda: torch.div(a, 2, rounding_mode="trunc"), lambda: a & 1):
        with pytest.raises(UnsupportedOperation, match=r"aten.*at test_operations.py:\d+"):
            wrong()
    with pytest.raises(UnsupportedOperation, match="conversion of secret reals"):
        cluster.secret(torch.tensor([1.5])).long()


REFUSED: Programs = {
    "cumsum": lambda x: x.cumsum(0),
    "sort": lambda x: x.sort(),
    "as_strided": lambda x: x.as_strided((2, 2), (1, 1)),
    "view as another type": lambda x: x.view(torch.int32),
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 0),
    "power of a secret": lambda x: x**x,
    "root": lambda x: x**0.3,
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_lowering_is_refused_with_operation_and_line(cluster: Cluster, name: str) -> None:
    with pytest.raises(UnsupportedOperation, match=r"aten\.\w+.* at test_operations.py:\d+: "):
        REFUSED[name](cluster.secret(reals(3, 3)))


READING: Programs = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "if": lambda x: bool(x.sum() > 0),
    "equal": lambda x: torch.equal(x, x),
    "item of a public number": lambda x: torch.ones_like(x).sum().item(),
}


@pytest.mark.parametrize("name", READING)
def test_reading_an_element_says_to_reveal_it(cluster: Cluster, name: str) -> None:
    with pytest.raises(UnsupportedOperation, match=r"reveal.*"):
        READING[name](cluster.secret(reals(3, 3)))


def test_elements_are_neither_shown_nor_handed_out(cluster: Cluster) -> None:
    x = cluster.secret(torch.full((2, 2), 0.123))
    for text in (repr(x), str(x), f"{x}", f"{x:>9}"):
        assert "SecretTensor" in text
        assert "(2, 2)" in text
        assert "123" not in text
    assert "requires_grad" in repr(x.requires_grad_())
    for reading in (lambda: x.numpy(), lambda: x.tolist(), lambda: x.detach().numpy(), lambda: np.asarray(x)):
        with pytest.raises(InputError, match="reveal"):
            reading()
    with pytest.raises(InputError, match="pickled"):
        pickle.dumps(x)


def test_writing_a_secret_into_a_plain_tensor_is_refused(cluster: Cluster) -> None:
    x, plain = cluster.secret(torch.ones(3)), torch.zeros(3)
    for write in (
        lambda: plain.add_(x),
        lambda: plain.copy_(x),
        lambda: plain.mul_(x),
        lambda: plain.__setitem__(0, x[0]),
        lambda: torch.add(x, x, out=plain),
    ):
        with pytest.raises((InputError, UnsupportedOperation), match=r"aten.* at test_operations.py:\d+"):
            write()
    assert torch.equal(plain, torch.zeros(3))


def test_tensors_of_two_clusters_do_not_mix(cluster: Cluster) -> None:
    x = cluster.secret(torch.ones(3))
    with parley.local(2) as other:
        y = other.secret(torch.ones(3))
        with pytest.raises(ParleyError, match="two clusters"):
            x + y
        with pytest.raises(ParleyError, match="two clusters"):
            torch.cat([x, y])
        with pytest.raises(ParleyError, match="two clusters"):
            parley.reveal([x, y])


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([1.0, float("nan")]),
        torch.tensor([float("inf")]),
        torch.tensor([70000.0]),
        torch.tensor([1 << 40]),
        torch.tensor([1j]),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_at_the_door(cluster: Cluster, wrong: torch.Tensor) -> None:
    with pytest.raises(InputError):
        cluster.secret(wrong)
    if wrong.is_floating_point() and not wrong.isfinite().all():
        x = cluster.secret(torch.ones(len(wrong)))
        with pytest.raises(InputError):
            (x * wrong).reveal()


def test_infinite_numbers_are_refused_where_they_are_written(cluster: Cluster) -> None:
    x = cluster.secret(reals(3))
    for wrong in (
        lambda: x + float("inf"),
        lambda: x * float("nan"),
        lambda: x / 0,
        lambda: x.masked_fill(x > 0, float("-inf")),
        lambda: torch.zeros_like(x).log(),
        lambda: torch.full_like(x, float("inf")),
    ):
        with pytest.raises((InputError, ZeroDivisionError), match=r"finite|zero"):
            wrong()
