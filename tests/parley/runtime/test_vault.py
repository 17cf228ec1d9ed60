"""The vault gives back what was put, if it is what the plan expects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parley.errors import NotFound, PlanError
from parley.plan.graph import Kind, Type
from parley.runtime.vault import Vault

TYPE = Type(Kind.SHARED, (2, 3), 16, 20)


def test_put_get_replace_release() -> None:
    vault = Vault()
    first, second = np.zeros((2, 3)), np.ones((2, 3))
    vault.put("w", TYPE, first)
    assert vault.get("w", TYPE) is first
    vault.put("w", TYPE, second)
    assert vault.get("w", TYPE) is second
    vault.put("b", TYPE, first)
    assert list(vault) == ["w", "b"]
    assert "w" in vault
    vault.release(["w", "unknown", "w"])
    assert "w" not in vault
    with pytest.raises(NotFound, match=r"'w'.*released"):
        vault.get("w", TYPE)
    vault.clear()
    assert list(vault) == []


@pytest.mark.parametrize(
    "change",
    [{"kind": Kind.MASKED}, {"shape": (3, 2)}, {"shape": (6,)}, {"scale": 15}, {"bound": 19}, {"planes": 2}],
)
def test_a_value_of_another_type(change: dict[str, object]) -> None:
    vault = Vault()
    vault.put("w", TYPE, np.zeros((2, 3)))
    with pytest.raises(PlanError, match="'w'"):
        vault.get("w", replace(TYPE, **change))  # type: ignore[arg-type]


def test_a_smaller_value_than_expected_fits() -> None:
    vault = Vault()
    vault.put("w", TYPE, None)
    assert vault.get("w", replace(TYPE, bound=30)) is None
