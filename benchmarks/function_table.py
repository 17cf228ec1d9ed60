"""Measures every function on secret values against float64 and writes docs/functions.md.

    python -m benchmarks.function_table            write the table
    python -m benchmarks.function_table --check    only say whether rounds and bytes are those of the table
Everything runs in this process (three parties and a dealer); counts are exact, errors are the largest of all points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from parley.functions import linear, neural, order, smooth
from parley.plan.builder import Value
from parley.plan.cost import ROUND_HEADER
from parley.runtime.evaluate import evaluate

Reals = npt.NDArray[np.float64]
ROWS = 512
DOCUMENT = Path(__file__).parents[1] / "docs" / "functions.md"

HEAD = """# Functions of secret values

Measured by `python -m benchmarks.function_table` with three parties and the default precision (16 fractional bits,
reals below 2^16); not edited by hand.

Costs are for one element, for `max`, `argmax` and softmax for one row, from a shared argument to a result that may have
a higher scale than its argument; lowering it takes one round more, of about 8 bytes. The last round of a job, in which
transcripts are compared before anything is revealed, is not counted. Error: the largest |result − float64| /
max(1, |float64|) over the interval. Outside of the interval a function takes its limits (`sigmoid`, `tanh`, `erf`,
`softplus`, `gelu`, `silu`), is 0 below and constant above (`exp`), or is as its docstring says.

| function | interval | rounds | bytes to each peer | bytes from the dealer | error |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Case:
    """A function, its arguments and what it should give."""

    name: str
    function: Callable[..., Value]
    reference: Callable[..., Reals]
    interval: str
    arguments: tuple[Reals, ...]
    limit: float
    """The largest error that is acceptable."""

    @property
    def items(self) -> int:
        """Elements, or rows where the function is one of rows."""
        return self.arguments[0].shape[0]


@dataclass(frozen=True)
class Measured:
    rounds: int
    peer_bytes: float
    dealer_bytes: float
    error: float

    def row(self, case: Case) -> str:
        error = f"{self.error:.0e}" if self.error else "0"
        costs = " | ".join(counts(self))
        return f"| {case.name} | {case.interval} | {costs} | {error} |"


def quantised(values: npt.ArrayLike) -> Reals:
    """Rounded to what the default precision holds, so that only the function's own error counts."""
    result: Reals = np.rint(np.ldexp(np.asarray(values, dtype=np.float64), 16)) / 2**16
    return result


def _line(low: float, high: float) -> Reals:
    return quantised(np.linspace(low, high, ROWS))


def _wide(low: float, high: float) -> Reals:
    return quantised(np.geomspace(low, high, ROWS))


_GENERATOR = np.random.default_rng(7)
ROW = quantised(_GENERATOR.normal(size=(ROWS, 10)) * 4)
ROW_40 = quantised(_GENERATOR.normal(size=(ROWS, 40)) * 4)
REAL = quantised(_GENERATOR.normal(size=ROWS) * 50)
OTHER = quantised(_GENERATOR.normal(size=ROWS) * 50)
ERF = np.vectorize(math.erf)


def _sigmoid(x: Reals) -> Reals:
    result: Reals = (1 + np.tanh(x / 2)) / 2
    return result


def _log_softmax(x: Reals) -> Reals:
    shifted = x - x.max(axis=-1, keepdims=True)
    result: Reals = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _softmax(x: Reals) -> Reals:
    result: Reals = np.exp(_log_softmax(x))
    return result


def _argmax(x: Reals) -> Reals:
    return (np.arange(x.shape[1]) == x.argmax(axis=1)[:, np.newaxis]).astype(np.float64)


def _lowered(value: Value) -> Value:
    return linear.factor(value)


CASES: Sequence[Case] = (
    Case("product", linear.multiply, np.multiply, "\\|x\\|, \\|y\\| < 200", (REAL, OTHER), 3e-5),
    Case(
        "product, lowered", lambda x, y: _lowered(linear.multiply(x, y)), np.multiply, "the same", (REAL, OTHER), 3e-5
    ),
    Case("less", lambda x, y: order.to_ring(order.less(x, y)), lambda x, y: 1.0 * (x < y), "all", (REAL, OTHER), 0),
    Case("relu", lambda x: order.relu(x)[0], lambda x: np.maximum(x, 0), "all", (REAL,), 2e-5),
    Case("absolute", order.absolute, np.abs, "all", (REAL,), 2e-5),
    Case("sign", order.sign, np.sign, "all", (REAL,), 0),
    Case("maximum", order.maximum, np.maximum, "all", (REAL, OTHER), 2e-5),
    Case("max of 10", lambda x: order.max_last(x)[0], lambda x: x.max(axis=1), "all", (ROW,), 2e-5),
    Case("argmax of 10", lambda x: order.to_ring(order.argmax_bits(x)), _argmax, "all", (ROW,), 0),
    Case("exp, x ≤ 0.5", lambda x: smooth.exp(x, high=0.5), np.exp, "[−11.5, 0.5]", (_line(-11.5, 0.5),), 5e-5),
    Case("exp", smooth.exp, np.exp, "[−11.5, 10.39]", (_line(-11.5, 10.39),), 5e-5),
    Case(
        'exp, method="limit"',
        lambda x: smooth.exp(x, method="limit"),
        np.exp,
        "[−11.5, 2]",
        (_line(-11.5, 2.0),),
        2e-2,
    ),
    Case("log", smooth.log, np.log, "[2^−16, 2^16)", (_wide(2.0**-16, 65535),), 3e-5),
    Case("reciprocal", smooth.reciprocal, np.reciprocal, "2^−15 ≤ \\|x\\| < 2^16", (_wide(2.0**-15, 65535),), 3e-5),
    Case(
        "reciprocal, x > 0",
        lambda x: smooth.reciprocal(x, signed=False),
        np.reciprocal,
        "[2^−15, 2^16)",
        (_wide(2.0**-15, 65535),),
        3e-5,
    ),
    Case(
        "reciprocal, promised",
        lambda x: smooth.reciprocal(x, 0.01, 1000, signed=False),
        np.reciprocal,
        "[0.01, 1000]",
        (_wide(0.0101, 1000),),
        3e-5,
    ),
    Case(
        'reciprocal, method="newton"',
        lambda x: smooth.reciprocal(x, method="newton"),
        np.reciprocal,
        "[0.01, 300]",
        (_wide(0.0101, 300),),
        1e-3,
    ),
    Case("divide", smooth.divide, np.divide, "\\|x/y\\| < 2^16", (REAL, _wide(0.01, 65535)[::-1]), 4e-5),
    Case("sqrt", smooth.sqrt, np.sqrt, "[0, 2^16)", (_wide(2.0**-16, 65535),), 3e-5),
    Case("rsqrt", smooth.rsqrt, lambda x: 1 / np.sqrt(x), "[2^−16, 2^16)", (_wide(2.0**-16, 65535),), 3e-5),
    Case("sigmoid", smooth.sigmoid, _sigmoid, "all", (_line(-20, 20),), 5e-5),
    Case("tanh", smooth.tanh, np.tanh, "all", (_line(-10, 10),), 5e-5),
    Case("erf", smooth.erf, ERF, "all", (_line(-6, 6),), 5e-5),
    Case("softplus", smooth.softplus, lambda x: np.logaddexp(x, 0), "all", (_line(-20, 20),), 5e-5),
    Case("log_sigmoid", smooth.log_sigmoid, lambda x: -np.logaddexp(-x, 0), "all", (_line(-20, 20),), 5e-5),
    Case("gelu", smooth.gelu, lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2, "all", (_line(-9, 9),), 5e-5),
    Case("silu", smooth.silu, lambda x: x * _sigmoid(x), "all", (_line(-20, 20),), 5e-5),
    Case("power, n = 3", lambda x: smooth.power(x, 3), lambda x: x**3, "\\|x\\| < 40", (_line(-40, 40),), 1e-4),
    Case("softmax of 10", neural.softmax, _softmax, "all", (ROW,), 1e-4),
    Case("log_softmax of 10", neural.log_softmax, _log_softmax, "all", (ROW,), 1e-4),
    Case("softmax of 40", neural.softmax, _softmax, "all", (ROW_40,), 1e-4),
    Case("log_softmax of 40", neural.log_softmax, _log_softmax, "all", (ROW_40,), 1e-4),
)


def measure(case: Case, parties: int = 3) -> Measured:
    """Run one case and count."""
    evaluation = evaluate(case.function, *case.arguments, parties=parties)
    wanted = case.reference(*case.arguments)
    error = np.abs(evaluation.results[0] - wanted) / np.maximum(1, np.abs(wanted))
    cost = evaluation.cost
    return Measured(
        rounds=cost.rounds - 1,
        peer_bytes=(max(cost.bytes_to_each_peer) - ROUND_HEADER * cost.rounds) / case.items,
        dealer_bytes=sum(cost.bytes_from_dealer) / case.items,
        error=float(error.max()),
    )


def recorded() -> dict[str, tuple[str, str, str]]:
    """Rounds and bytes of every function in the document."""
    rows = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "function":
            rows[cells[0]] = (cells[2], cells[3], cells[4])
    return rows


def counts(measured: Measured) -> tuple[str, str, str]:
    """As they stand in the document."""
    return str(measured.rounds), f"{measured.peer_bytes:.1f}", f"{measured.dealer_bytes:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if rounds or bytes differ")
    check = parser.parse_args().check
    table = [(case, measure(case)) for case in CASES]
    if not check:
        DOCUMENT.write_text(HEAD + "\n".join(measured.row(case) for case, measured in table) + "\n", "utf-8")
        print(f"{len(table)} functions written to {DOCUMENT}")
        return 0
    known = recorded()
    differing = [case.name for case, measured in table if known.get(case.name) != counts(measured)]
    print(f"differing: {', '.join(differing)}" if differing else "rounds and bytes are those of the table")
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
