"""The way in for Python: a cluster, and the roles of one in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from parley.errors import InputError, NotFound
from parley.plan.builder import Precision
from parley.plan.graph import Plan, Type
from parley.pytorch.module import make_private, make_secret
from parley.pytorch.recorder import REMEMBERED_PLANS, Backend, Dataset, Integers, Recorder, Result
from parley.pytorch.tensor import SecretTensor, secret_from_cell
from parley.runtime.local import LocalSession
from parley.runtime.session import Execution, Prepared, Statistics

Module = TypeVar("Module", bound=nn.Module)

_current: list[Cluster] = []


class Cluster:
    """Parties that compute together, seen from the one who writes the program. Use it as a context manager, or close
    it."""

    def __init__(self, backend: Backend, precision: Precision | None = None) -> None:
        self.recorder = Recorder(backend, precision)
        self._backend = backend
        _current.append(self)

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of the parties."""
        return self._backend.parties

    def secret(
        self, tensor: torch.Tensor | npt.ArrayLike, one_hot: bool = False, bound: float | None = None
    ) -> SecretTensor:
        """A secret tensor from a plain one that the caller holds (floating point, integer or bool; shape and dtype are
        public).

        What may be public saves rounds: `one_hot`, that the rows are one-hot; `bound`, that no absolute value exceeds
        it. Raises InputError where a value is not finite, beyond the range of the precision or the bound, or a row is
        not one-hot that should be.
        """
        return make_secret(self.recorder, torch.as_tensor(tensor), one_hot, bound)

    def dataset(self, name: str) -> SecretTensor:
        """The tensor that a party holds under `party/name`. Raises NotFound."""
        cell, found = self.recorder.dataset(name)
        return secret_from_cell(cell, found.shape, torch.int64 if found.integer else torch.float32)

    def private(self, module: Module) -> Module:
        """Make the parameters and buffers of a module secret, in place."""
        return make_private(self.recorder, module)

    def flush(self) -> None:
        """Run what is recorded so far."""
        self.recorder.flush()

    def close(self) -> None:
        """End the session; secret tensors of this cluster are of no use afterwards."""
        if self in _current:
            _current.remove(self)
            self._backend.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def current() -> Cluster:
    """The cluster that was opened last and is still open. Raises InputError where there is none."""
    if not _current:
        raise InputError("no cluster is open; use parley.local() or parley.connect(address)")
    return _current[-1]


def private(module: Module) -> Module:
    """Make the parameters and buffers of a module secret in the current cluster."""
    return current().private(module)


def flush() -> None:
    """Run what is recorded in the current cluster."""
    current().flush()


def local(
    parties: int | Sequence[str] = 3,
    data: Mapping[str, npt.ArrayLike | torch.Tensor] | None = None,
    precision: Precision | None = None,
) -> Cluster:
    """A cluster whose parties and dealer are threads of this process.

    `parties`: how many (2 or more), or their names. `data`: datasets by "party/name", for `Cluster.dataset`.
    """
    if isinstance(parties, int):
        if parties < 2:
            raise InputError(f"{parties} parties cannot keep a secret; 2 or more are needed")
        names = tuple(_NAMES[:parties]) if parties <= len(_NAMES) else tuple(f"party{k}" for k in range(parties))
    else:
        names = tuple(parties)
    return Cluster(LocalBackend(names, data or {}), precision)


_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")


class LocalBackend:
    """Runs plans in this process."""

    def __init__(self, parties: Sequence[str], data: Mapping[str, npt.ArrayLike | torch.Tensor]) -> None:
        self._data = {name: _array(values) for name, values in data.items()}
        for name in self._data:
            if name.partition("/")[0] not in parties:
                raise InputError(
                    f"dataset {name!r} belongs to none of the parties {', '.join(parties)}; name it party/name"
                )
        self._session = LocalSession(parties, {party: self._reader(party) for party in parties})
        self._prepared: list[Prepared] = []
        self._next = 0

    def _reader(self, party: str):  # type: ignore[no-untyped-def]
        return lambda name: self._data[f"{party}/{name}"]

    @property
    def parties(self) -> tuple[str, ...]:
        return self._session.parties

    def describe(self, name: str) -> Dataset:
        if name not in self._data:
            known = ", ".join(sorted(self._data)) or "none"
            raise NotFound(f"there is no dataset {name!r}; known are: {known}")
        values = self._data[name]
        party, _, rest = name.partition("/")
        integer = values.dtype.kind in "iub"
        bound = float(np.abs(values).max()) if values.size else 1.0
        rows_one_hot = (
            values.ndim >= 2 and set(np.unique(values).tolist()) <= {0, 1} and bool((values.sum(-1) == 1).all())
        )
        return Dataset(party, rest, values.shape, integer, bound, rows_one_hot)

    def execute(
        self,
        plan: Plan,
        loads: Mapping[str, str],
        stores: Mapping[str, str],
        arguments: Sequence[Mapping[str, Integers]],
        wait: bool,
    ) -> dict[str, Result]:
        execution = Execution(self._prepare(plan), self._next, dict(loads), dict(stores), tuple(arguments))
        self._next += len(arguments)
        revealed = self._session.execute(execution)
        return {item.name: Result(item.values, item.scale) for item in revealed if item.receiver == "submitter"}

    def _prepare(self, plan: Plan) -> Prepared:
        """The plan made ready, once for as long as it comes again."""
        known = next((prepared for prepared in self._prepared if prepared.plan is plan), None)
        if known is None:
            known = Prepared.of(plan)
        else:
            self._prepared.remove(known)
        self._prepared.insert(0, known)
        del self._prepared[REMEMBERED_PLANS:]
        return known

    def put(self, handle: str, type: Type, values: Integers) -> None:
        self._session.put(handle, type, values)

    def release(self, handles: Sequence[str]) -> None:
        self._session.release(handles)

    @property
    def statistics(self) -> list[Statistics]:
        return self._session.statistics

    def close(self) -> None:
        self._session.close()


def _array(values: npt.ArrayLike | torch.Tensor) -> npt.NDArray[np.generic]:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)
