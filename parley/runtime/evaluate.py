"""Run a function of secret values once, in this process: what tests, measurements and documentation examples use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parley.plan.builder import Builder, Precision, Value
from parley.plan.cost import Cost, cost_of_schedule
from parley.plan.graph import Kind, Type
from parley.ring import fixed
from parley.runtime.local import LocalSession
from parley.runtime.session import Execution, Prepared


@dataclass(frozen=True)
class Evaluation:
    """Results as reals (float64), and what the plan cost."""

    results: list[npt.NDArray[np.float64]]
    cost: Cost


def evaluate(
    function: Callable[..., Value | Sequence[Value]],
    *inputs: npt.ArrayLike,
    parties: int = 3,
    precision: Precision | None = None,
    scale: int | None = None,
) -> Evaluation:
    """Apply `function` (Values → Value or several, ring values only) to secret-shared `inputs` and reveal the results.

    Reals are encoded at the precision's fractional bits, integers at scale 0, unless `scale` says otherwise.
    """
    names = tuple(f"party{index}" for index in range(parties))
    builder = Builder(names, precision)
    bits = builder.precision
    arrays = [np.asarray(values) for values in inputs]
    scales = [scale if scale is not None else bits.fraction_bits * (array.dtype.kind == "f") for array in arrays]
    types = [
        Type(Kind.SHARED, array.shape, s, bits.range_bits + max(s, bits.fraction_bits))
        for array, s in zip(arrays, scales, strict=True)
    ]
    values = [
        builder.add("load", slot=f"x{k}", kind=int(type.kind), shape=type.shape, scale=type.scale, bound=type.bound)
        for k, type in enumerate(types)
    ]
    produced = function(*values)
    outputs = [produced] if isinstance(produced, Value) else list(produced)
    for k, output in enumerate(outputs):
        shared = output if output.kind == Kind.SHARED else builder.add("share", output)
        builder.add("reveal", shared, name=f"y{k}", receivers=("submitter",))
    prepared = Prepared.of(builder.finish())
    session = LocalSession(names)
    for k, (array, type) in enumerate(zip(arrays, types, strict=True)):
        session.put(f"x{k}", type, fixed.encode(array, type.scale, type.bound))
    slots = {node.text("slot"): node.text("slot") for _, node in prepared.plan.with_operation("load")}
    revealed = {item.name: item for item in session.execute(Execution(prepared, 0, slots, {}))}
    session.close()
    results = [fixed.decode(revealed[f"y{k}"].values, revealed[f"y{k}"].scale) for k in range(len(outputs))]
    return Evaluation(results, cost_of_schedule(prepared.schedule))
