"""Metrics on secret predictions that PyTorch's own operations would make costlier than they are."""

from __future__ import annotations

import torch

from parley.errors import InputError
from parley.functions import linear, order
from parley.plan.builder import Value, user_line
from parley.pytorch.contents import ring
from parley.pytorch.recorder import Recorder, require_recorder
from parley.pytorch.tensor import SecretTensor, wrap


def correct(scores: torch.Tensor, targets: torch.Tensor) -> SecretTensor:
    """How many rows are classified correctly, as a secret integer of shape ().

    `scores`: (rows, classes) logits or probabilities; the largest wins, of equal ones the first. With one column, a row
    is of class 1 where its score is above 0. `targets`: one-hot rows (rows, classes), or class indices (rows,) or
    (rows, 1).
    """
    secrets = [tensor for tensor in (scores, targets) if isinstance(tensor, SecretTensor)]
    if not secrets or scores.ndim != 2:
        raise InputError("scores must be a matrix, and scores or targets must be secret")
    recorder = require_recorder([tensor.recorder for tensor in secrets])
    recorder.builder.line = user_line(("parley", "torch"))
    rows, classes = scores.shape
    value, labels = _value(recorder, scores), _value(recorder, targets)
    if classes == 1:
        gap = linear.subtract(
            linear.reshape(order.to_ring(order.logical_not(order.less_equal_scalar(value, 0))), (rows,)),
            linear.reshape(labels, (rows,)),
        )
        hits = linear.subtract(
            linear.constant(gap, [1.0] * rows, 0), order.to_ring(order.logical_not(order.equal_zero(gap)))
        )
    else:
        predicted = order.argmax_bits(value)
        if tuple(targets.shape) == (rows, classes):
            if targets.dtype.is_floating_point and labels.scale > 0:  # ones and zeros, but nobody said so
                labels = order.to_ring(order.logical_not(order.less_scalar(labels, 0.5)))
            hits = order.select(predicted, labels)
        elif targets.numel() == rows and not targets.dtype.is_floating_point:
            one_hot = order.one_hot(linear.reshape(labels, (rows,)), classes)
            hits = order.to_ring(order.logical_and(predicted, one_hot))
        else:
            raise InputError(
                f"targets of shape {tuple(targets.shape)} and type {targets.dtype} do not fit scores of shape "
                f"{tuple(scores.shape)}; give one-hot rows, or class indices as integers"
            )
    return wrap(recorder, linear.sum_axes(hits), torch.empty((), dtype=torch.int64, device="meta"))


def _value(recorder: Recorder, tensor: torch.Tensor) -> Value:
    content = tensor._storage.read() if isinstance(tensor, SecretTensor) else recorder.public(tensor.detach().numpy())
    return ring(recorder.materialise(content))
