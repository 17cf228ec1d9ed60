"""SecretTensor: a torch.Tensor whose elements no one knows.

Dispatch happens beneath autograd, so `nn.Module`, losses, autograd and optimizers are PyTorch's own. A SecretTensor
carries a meta tensor (shape, strides, dtype: public) and a storage (the recorded value). What an ATen operation means
is one row of the table (`table.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._mode_utils import no_dispatch

from parley.errors import InputError, ParleyError, UnsupportedOperation
from parley.plan.builder import user_line
from parley.plan.checker import SUBMITTER
from parley.pytorch import contents, rules_neural, rules_pointwise, rules_reduction, rules_view
from parley.pytorch.recorder import Cell, Content, Recorder, Result, Storage, Uniform, View, require_recorder
from parley.pytorch.table import DECISIONS, IN_PLACE, PLAIN, TABLE, VIEWS, Context

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

    def numpy(self, *, force: bool = False) -> Any:
        raise InputError(f"{self!r} has no elements that could be read here; use .reveal()")

    def tolist(self) -> Any:
        return self.numpy()

    def __array__(self, dtype: object = None) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: object) -> Any:
        raise InputError("a secret tensor cannot be pickled or deep-copied; reveal it, or use clone()")

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretTensor:
        if not self.is_leaf:
            raise InputError("only leaves of the graph can be deep-copied; use detach() before")
        plain = self.detach().clone()
        copy: SecretTensor = (
            nn.Parameter(plain, self.requires_grad)  # type: ignore[assignment]
            if isinstance(self, nn.Parameter)
            else plain.requires_grad_(self.requires_grad)
        )
        if isinstance(self._storage, Cell) and isinstance(copy._storage, Cell):
            copy._storage.state = self._storage.state
        memo[id(self)] = copy
        return copy


def wrap(recorder: Recorder, content: Content, meta: torch.Tensor) -> SecretTensor:
    """A new secret tensor with this value."""
    cell = Cell(recorder, settle(recorder, content, meta))
    cell.integer = not meta.dtype.is_floating_point
    return SecretTensor(cell, meta)


def settle(recorder: Recorder, content: Content, meta: torch.Tensor) -> Content:
    """The content in the form that the element type asks for: truth values as bits, whole numbers without fractional
    bits, reals as ring elements."""
    if content.shape != tuple(meta.shape):
        raise ParleyError(f"a lowering gave the shape {content.shape} where PyTorch gives {tuple(meta.shape)}")
    return contents.cast(recorder, content, meta.dtype)


def secret_from_cell(cell: Cell, shape: Sequence[int], dtype: torch.dtype) -> SecretTensor:
    cell.integer = not dtype.is_floating_point
    return SecretTensor(cell, torch.empty(tuple(shape), dtype=dtype, device="meta"))


def reveal_all(tensors: Sequence[tuple[str, torch.Tensor]], to: str | Sequence[str] | None) -> list[torch.Tensor]:
    """Reveal named secret tensors in one go: a plain tensor for each if the caller is a receiver, else an empty list.

    Characters that names of results do not have become underscores.
    """
    receivers = [SUBMITTER] if to is None else [to] if isinstance(to, str) else list(to)
    if not tensors:
        return []
    secrets = [tensor for _, tensor in tensors if isinstance(tensor, SecretTensor)]
    names = [re.sub(r"[^A-Za-z0-9_.:/-]", "_", name)[:100] or "_" for name, _ in tensors]
    names = [name if names.count(name) == 1 else f"{name}.{number}" for number, name in enumerate(names)]
    recorder = require_recorder([tensor.recorder for tensor in secrets])
    recorder.builder.line = user_line(_OWN)
    results = recorder.reveal(
        [(name, tensor._storage.read()) for name, tensor in zip(names, secrets, strict=True)], receivers
    )
    if SUBMITTER not in receivers:
        return []
    return [_decoded(tensor, results[name]) for name, tensor in zip(names, secrets, strict=True)]


def _decoded(tensor: SecretTensor, result: Result) -> torch.Tensor:
    values = result.real() if tensor.dtype.is_floating_point else result.values
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape).to(tensor.dtype)


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    secrets: list[SecretTensor] = []

    def collect(item: Any) -> Any:
        if isinstance(item, SecretTensor):
            secrets.append(item)
        return item

    each(collect, (args, kwargs))
    recorder = require_recorder([tensor.recorder for tensor in secrets])
    recorder.builder.line = user_line(_OWN)
    try:
        if func in VIEWS:
            return _view(recorder, func, args, kwargs)
        if torch.Tag.inplace_view in func.tags and isinstance(args[0], SecretTensor):
            return _in_place_view(recorder, func, args, kwargs)
        if func in IN_PLACE:
            return _in_place(recorder, func, args, kwargs, secrets)
        if func in DECISIONS:
            raise UnsupportedOperation("a program cannot branch on a secret or read it; .reveal() it first")
        if all(isinstance(tensor._storage.read(), Uniform) for tensor in secrets):
            return _public(recorder, func, args, kwargs)
        if func not in TABLE:
            raise UnsupportedOperation("there is no lowering for it yet")
        metas = _metas(recorder, func, args, kwargs)
        context = Context(recorder, metas)
        operand = context.secret_operand if func in PLAIN else context.operand
        results = TABLE[func](context, *each(operand, args), **each(operand, kwargs))
        if isinstance(metas, torch.Tensor):
            return wrap(recorder, results, metas)
        return type(metas)(
            wrap(recorder, content, meta) if isinstance(meta, torch.Tensor) else meta
            for content, meta in zip(results, metas, strict=True)
        )
    except (UnsupportedOperation, InputError) as error:
        raise type(error)(f"{func} on a secret tensor at {recorder.builder.line}: {error}") from None


def _public(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Nothing secret enters: PyTorch computes it."""

    def known(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        return wrap(recorder, recorder.public(item.numpy()), torch.empty_like(item, device="meta"))

    return each(known, func(*each(_plain, args), **each(_plain, kwargs)))


def _plain(item: Any) -> Any:
    return _known(item) if isinstance(item, SecretTensor) else item


def _known(tensor: SecretTensor) -> torch.Tensor:
    content = tensor._storage.read()
    assert isinstance(content, Uniform)
    return torch.full((), content.number, dtype=tensor.dtype).expand(content.shape)


def _view(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source: SecretTensor = args[0]
    metas = _metas(recorder, func, args, kwargs)
    pairs = VIEWS[func](source._meta, metas, *args[1:], **kwargs)
    if isinstance(metas, torch.Tensor):
        return _view_of(source, pairs, metas, func)
    return type(metas)(_view_of(source, pair, meta, func) for pair, meta in zip(pairs, metas, strict=True))


def _view_of(source: SecretTensor, pair: Any, meta: torch.Tensor, func: Any) -> SecretTensor:
    if pair is None:  # an alias
        return SecretTensor(source._storage, meta)
    forward, backward = pair
    truth = meta.dtype == torch.bool
    return SecretTensor(View(source._storage, forward, backward, str(func), truth), meta)


def _in_place(
    recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], secrets: Sequence[SecretTensor]
) -> Any:
    target = args[0]
    if not isinstance(target, SecretTensor):
        raise InputError(
            f"{func} would write a secret value into a plain tensor (at {recorder.builder.line}); "
            "write `plain = plain + secret`, or make the target secret"
        )
    _metas(recorder, func, args, kwargs)  # PyTorch's own checks of shapes and element types
    if all(isinstance(tensor._storage.read(), Uniform) for tensor in secrets):
        known = _known(target).clone()
        func(known, *each(_plain, args[1:]), **each(_plain, kwargs))
        target._storage.write(recorder.public(known.numpy()))
        return target
    context = Context(recorder, target._meta)
    operand = context.secret_operand if func in PLAIN else context.operand
    content = IN_PLACE[func](context, *each(operand, args), **each(operand, kwargs))
    target._storage.write(settle(recorder, content, target._meta))
    return target


def _in_place_view(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Another arrangement of the same tensor object (`t_`, `squeeze_`)."""
    target: SecretTensor = args[0]
    packet = getattr(torch.ops.aten, func._schema.name.split("::")[1].removesuffix("_"))
    seen: SecretTensor = _view(recorder, getattr(packet, func._overloadname), args, kwargs)
    with no_dispatch():
        func(*args, **kwargs)  # the wrapper's own sizes and strides
    target._storage, target._meta = seen._storage, seen._meta
    return target


def _metas(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What PyTorch says of the result: shapes, strides, element types. What was asked before is remembered."""
    key = (func, _signature(args), _signature(tuple(kwargs.items())))
    known = recorder.metas.get(key, _UNKNOWN)
    if known is not _UNKNOWN:
        return known
    try:
        # Told a device, as the backward passes do, PyTorch makes a tensor there: only its shape is wanted.
        result = each(_to_meta, func(*each(_to_meta, args), **each(_to_meta, kwargs)))
    except NotImplementedError:
        raise UnsupportedOperation("the shape of its result depends on elements (a mask as index?)") from None
    if len(recorder.metas) >= _REMEMBERED_METAS:
        recorder.metas.clear()
    recorder.metas[key] = result
    return result


_UNKNOWN = object()
_REMEMBERED_METAS = 4096


def _signature(item: Any) -> object:
    """What the form of a result depends on: layouts of tensors, everything else by type and value."""
    if isinstance(item, torch.Tensor):
        return tuple(item.shape), item.stride(), item.storage_offset(), item.dtype
    if isinstance(item, (list, tuple)):
        return tuple(_signature(entry) for entry in item)
    return type(item), item


def each(function: Callable[[Any], Any], item: Any) -> Any:
    """An argument of an ATen operation with the function applied to everything in its lists."""
    if isinstance(item, (list, tuple)):
        return type(item)([each(function, entry) for entry in item])
    if isinstance(item, dict):
        return {name: each(function, entry) for name, entry in item.items()}
    return function(item)


def _to_meta(item: Any) -> Any:
    if isinstance(item, SecretTensor):
        return item._meta
    if isinstance(item, torch.Tensor):
        return item.to("meta")
    return item
