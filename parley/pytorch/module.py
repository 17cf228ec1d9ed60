"""Secret modules: the parameters and buffers of an unchanged nn.Module, made secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from parley.errors import InputError
from parley.pytorch.batches import batch_rows
from parley.pytorch.recorder import Cell, Recorder
from parley.pytorch.tensor import SecretTensor, reveal_all, secret_from_cell

Module = TypeVar("Module", bound=nn.Module)


def make_secret(
    recorder: Recorder, tensor: torch.Tensor, one_hot: bool = False, magnitude: float | None = None
) -> SecretTensor:
    """The caller's plain tensor as a secret one: its elements are split into random shares, one for each party.

    `one_hot`: every row along the last axis is one-hot, and that may be known (the elements stay secret).
    `magnitude`: no absolute value exceeds it, and that may be known.
    """
    if isinstance(tensor, SecretTensor):
        raise InputError("the tensor is secret already")
    if tensor.is_complex():
        raise InputError("complex tensors have no secret form")
    cell = recorder.secret(tensor.detach().cpu().numpy(), one_hot, magnitude)
    secret = secret_from_cell(cell, tensor.shape, tensor.dtype)
    return secret.requires_grad_(tensor.requires_grad) if tensor.is_leaf else secret  # type: ignore[return-value]


def make_private(recorder: Recorder, module: Module) -> Module:
    """Make every parameter and floating-point buffer of `module` secret, in place, and return it.

    Shared parameters stay shared. The plain values are dropped; `load_state_dict` of revealed ones brings them back.
    """
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None or isinstance(parameter, SecretTensor):
                continue
            if id(parameter) not in made:
                secret = make_secret(recorder, parameter.detach())
                mark_state(secret)
                made[id(parameter)] = nn.Parameter(secret, requires_grad=parameter.requires_grad)
            part._parameters[name] = made[id(parameter)]
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and buffer.is_floating_point() and not isinstance(buffer, SecretTensor):
                part._buffers[name] = make_secret(recorder, buffer)
                mark_state(part._buffers[name])
    return module


def mark_state(tensor: torch.Tensor | None) -> None:
    """Have a secret tensor kept under one handle at the precision's scale, so that a loop which updates it repeats one
    plan."""
    if isinstance(tensor, SecretTensor) and isinstance(tensor._storage, Cell):
        tensor._storage.state = True


def reveal(values: Any, to: str | Sequence[str] | None = None) -> Any:
    """Reveal a secret tensor, or all in a mapping (such as a state_dict), list or tuple, nested at will, in one go.

    Returns the same structure with plain tensors if the caller is a receiver (`to` is None), else None; what is not a
    secret tensor stays as it is. To a party, a tensor goes under its keys and positions, joined by dots.
    """
    if isinstance(values, SecretTensor):
        return values.reveal(to)
    if not isinstance(values, (Mapping, list, tuple)):
        raise InputError(
            f"a {type(values).__name__} cannot be revealed; give a secret tensor, or a mapping or list of them"
        )
    found = list(_leaves(values, ""))
    revealed = reveal_all(found, to)
    return _filled(values, iter(revealed)) if revealed or not found else None


def _leaves(values: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(values, SecretTensor):
        yield name, values
    elif isinstance(values, (Mapping, list, tuple)):
        items = values.items() if isinstance(values, Mapping) else enumerate(values)
        for key, value in items:
            yield from _leaves(value, f"{name}.{key}" if name else str(key))


def _filled(values: Any, revealed: Iterator[torch.Tensor]) -> Any:
    if isinstance(values, SecretTensor):
        return next(revealed)
    if isinstance(values, Mapping):
        return {key: _filled(value, revealed) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)([_filled(value, revealed) for value in values])
    return values


def batches(
    *tensors: torch.Tensor, size: int, epochs: int = 1, seed: int = 0, shuffle: bool = True, drop_last: bool = False
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Rows of the tensors in batches of `size`, in the order of `batch_rows` (the same as in a job, or in plain
    PyTorch).

    Secret tensors are opened under a mask once, not again in every epoch. At every batch boundary the recorded work is
    sent off, so that the parties compute while the next batch is recorded.
    """
    if not tensors:
        raise InputError("give at least one tensor")
    rows = tensors[0].shape[0]
    if any(tensor.shape[0] != rows for tensor in tensors):
        raise InputError(f"the tensors have different numbers of rows: {[tensor.shape[0] for tensor in tensors]}")
    recorders = {id(tensor.recorder): tensor.recorder for tensor in tensors if isinstance(tensor, SecretTensor)}
    for tensor in tensors:
        if isinstance(tensor, SecretTensor) and isinstance(tensor._storage, Cell):
            tensor._storage.open()
    for chosen in batch_rows(rows, size, epochs, seed, shuffle, drop_last):
        for recorder in recorders.values():
            recorder.flush()
        index = torch.from_numpy(chosen)
        yield tuple(tensor[index] for tensor in tensors)
    for recorder in recorders.values():
        recorder.flush()
