"""Rounds and bytes of every function are those of docs/functions.md, and errors stay below their limits."""

import pytest

from benchmarks.function_table import CASES, counts, measure, recorded
from parley.runtime.evaluate import evaluate

ROUNDS = {
    "product": 1,
    "less": 4,
    "relu": 4,
    "max of 10": 6,
    "exp, x ≤ 0.5": 4,
    "exp": 4,
    "sigmoid": 4,
    "tanh": 4,
    "log": 5,
    "sqrt": 6,
    "rsqrt": 6,
    "reciprocal": 7,
    "divide": 7,
    "log_softmax of 10": 11,
    "softmax of 10": 12,
}
"""Openings one after the other that the design counts on, whatever the document says."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_measured_as_documented(case):
    measured = measure(case)
    assert counts(measured) == recorded()[case.name]
    assert measured.error <= case.limit
    assert measured.rounds <= ROUNDS.get(case.name, 99)


@pytest.mark.parametrize("parties", [2, 4, 5])
@pytest.mark.parametrize("name", ["relu", "exp", "log", "divide", "sigmoid", "softmax of 10", "max of 10"])
def test_any_number_of_parties(name, parties):
    case = next(case for case in CASES if case.name == name)
    measured = measure(case, parties)
    three = recorded()[name]
    assert measured.error <= case.limit
    assert (str(measured.rounds), f"{measured.peer_bytes:.1f}") == three[:2]
    assert f"{measured.dealer_bytes:.0f}" == three[2], "corrections do not grow with the number of parties"


def test_document_has_no_function_that_is_gone():
    assert set(recorded()) == {case.name for case in CASES}


def test_errors_are_of_the_function_and_not_of_chance():
    """The same case twice differs by rounding only."""
    case = next(case for case in CASES if case.name == "sigmoid")
    first, second = (evaluate(case.function, *case.arguments).results[0] for _ in range(2))
    assert abs(first - second).max() <= 2.0**-15
