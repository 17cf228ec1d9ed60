"""SecretTensor: a torch.Tensor whose elements no one knows.

Dispatch happens beneath autograd, so `nn.Module`, losses, autograd and optimizers are PyTorch's own. A SecretTensor
carries a meta tensor (shape, strides, dtype: public) and a storage (the recorded value). What an ATen operation means
is one row of the table (`table.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from parley.errors import InputError, UnsupportedOperation
from parley.plan.builder import Value, user_line
from parley.plan.checker import SUBMITTER
from parley.plan.graph import Kind
from parley.pytorch import rules_neural, rules_pointwise, rules_reduction, rules_view
from parley.pytorch.recorder import Cell, Content, Recorder, Result, Storage, View, require_recorder
from parley.pytorch.table import IN_PLACE, TABLE, VIEWS, Context

_OWN = ("parley", "torch")
_RULES = (rules_neural, rules_pointwise, rules_reduction, rules_view)
"""Imported for what they enter in the table."""


class SecretTensor(torch.Tensor):
    """A tensor that is secret-shared among the parties of a cluster.

    Made by `cluster.secret`, `cluster.dataset` and `private`; everything that PyTorch computes from one is one too.
    """

    _storage: Storage
    _meta: torch.Tensor

    @staticmethod
    def __new__(cls, storage: Storage, meta: torch.Tensor, requires_grad: bool = False) -> SecretTensor:
        tensor: SecretTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=torch.device("cpu"),
            requires_grad=requires_grad,
        )
        tensor._storage, tensor._meta = storage, meta
        return tensor

    def __init__(self, *arguments: object, **keywords: object) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _dispatch(func, args, dict(kwargs or {}))

    @property
    def recorder(self) -> Recorder:
        """What records this tensor's operations."""
        return self._storage.recorder

    def reveal(self, to: str | Sequence[str] | None = None) -> torch.Tensor | None:
        """Run what is recorded and show this tensor: to the caller (the default; returns a plain tensor of the same
        shape and dtype, without gradient), or only to the parties named (returns None).

        Reals are right to the fixed-point resolution, 2^-fraction_bits.
        """
        revealed = reveal_all([("value", self)], to)
        return revealed[0] if revealed else None

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        gradient = ", requires_grad=True" if self.requires_grad else ""
        return f"SecretTensor(shape={tuple(self.shape)}, dtype={self.dtype}{gradient})"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise InputError("a secret tensor cannot be pickled or deep-copied; reveal it, or use clone()")

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretTensor:
        copy: SecretTensor = self.detach().clone()  # type: ignore[assignment]
        copy.requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy


def wrap(recorder: Recorder, content: Content, meta: torch.Tensor) -> SecretTensor:
    """A new secret tensor with this value."""
    return SecretTensor(Cell(recorder, content), meta)


def secret_from_cell(cell: Cell, shape: Sequence[int], dtype: torch.dtype) -> SecretTensor:
    return SecretTensor(cell, torch.empty(tuple(shape), dtype=dtype, device="meta"))


def reveal_all(tensors: Sequence[tuple[str, torch.Tensor]], to: str | Sequence[str] | None) -> list[torch.Tensor]:
    """Reveal named tensors in one go: a plain tensor for each if the caller is a receiver, else an empty list.

    Plain tensors among them are returned as they are.
    """
    receivers = [SUBMITTER] if to is None else [to] if isinstance(to, str) else list(to)
    secrets = [(name, tensor) for name, tensor in tensors if isinstance(tensor, SecretTensor)]
    results: dict[str, Result] = {}
    if secrets:
        recorder = require_recorder([tensor.recorder for _, tensor in secrets])
        recorder.builder.line = user_line(_OWN)
        contents = [(name, tensor._storage.read()) for name, tensor in secrets]
        results = recorder.reveal(contents, receivers)
    if SUBMITTER not in receivers:
        return []
    return [_plain(tensor, results[name]) if isinstance(tensor, SecretTensor) else tensor for name, tensor in tensors]


def _plain(tensor: SecretTensor, result: Result) -> torch.Tensor:
    values = result.real() if tensor.dtype.is_floating_point else result.values
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape).to(tensor.dtype)


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    secrets: list[SecretTensor] = []

    def collect(item: Any) -> Any:
        if isinstance(item, SecretTensor):
            secrets.append(item)
        return item

    tree_map(collect, (args, kwargs))
    recorder = require_recorder([tensor.recorder for tensor in secrets])
    recorder.builder.line = user_line(_OWN)
    try:
        if func in VIEWS:
            return _view(recorder, func, args, kwargs)
        if func in IN_PLACE:
            return _in_place(recorder, func, args, kwargs)
        if func not in TABLE:
            raise UnsupportedOperation("there is no lowering for it yet")
        metas = func(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))
        context = Context(recorder, metas)
        contents = TABLE[func](context, *tree_map(context.operand, args), **tree_map(context.operand, kwargs))
    except UnsupportedOperation as error:
        raise UnsupportedOperation(f"{func} on a secret tensor at {recorder.builder.line}: {error}") from None
    if isinstance(metas, torch.Tensor):
        return wrap(recorder, contents, metas)
    return type(metas)(
        wrap(recorder, content, meta) if isinstance(meta, torch.Tensor) else meta
        for content, meta in zip(contents, metas, strict=True)
    )


def _view(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source: SecretTensor = args[0]
    metas = func(*tree_map(_to_meta, args), **tree_map(_to_meta, kwargs))
    pairs = VIEWS[func](source._meta, metas, *args[1:], **kwargs)
    if isinstance(metas, torch.Tensor):
        return _view_of(source, pairs, metas, func)
    return type(metas)(_view_of(source, pair, meta, func) for pair, meta in zip(pairs, metas, strict=True))


def _view_of(source: SecretTensor, pair: Any, meta: torch.Tensor, func: Any) -> SecretTensor:
    if pair is None:  # an alias
        return SecretTensor(source._storage, meta)
    forward, backward = pair
    return SecretTensor(View(source._storage, forward, backward, str(func)), meta)


def _in_place(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    if not isinstance(target, SecretTensor):
        raise InputError(
            f"{func} would write a secret value into a plain tensor (at {recorder.builder.line}); "
            "write `plain = plain + secret`, or make the target secret"
        )
    context = Context(recorder, target._meta)
    content = IN_PLACE[func](context, *tree_map(context.operand, args), **tree_map(context.operand, kwargs))
    if isinstance(content, Value) and content.shape != tuple(target.shape):
        raise InputError(f"{func}: a result of shape {content.shape} does not fit {tuple(target.shape)} in place")
    if isinstance(content, Value) and content.kind == Kind.BITS and target.dtype != torch.bool:
        content = recorder.materialise(content)
    target._storage.write(content)
    return target


def _to_meta(item: Any) -> Any:
    if isinstance(item, SecretTensor):
        return item._meta
    if isinstance(item, torch.Tensor):
        return item.to("meta")
    return item
