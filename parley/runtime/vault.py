"""Values that outlive an execution, under handles: a party's shares, or the dealer's masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parley.errors import NotFound, PlanError
from parley.plan.graph import Type
from parley.protocols.base import Value


class Vault:
    """Handle → (type, value). A handle is a text chosen by the submitter; setting it again replaces the value."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Type, Value]] = {}

    def put(self, handle: str, type: Type, value: Value) -> None:
        self._entries[handle] = (type, value)

    def get(self, handle: str, type: Type) -> Value:
        """The value under `handle`, which must fit what a plan expects. Raises NotFound, PlanError."""
        if handle not in self._entries:
            raise NotFound(
                f"no value is kept under the handle {handle!r}; it was released, or never stored in this session"
            )
        kept, value = self._entries[handle]
        alike = (kept.kind, kept.shape, kept.scale, kept.planes) == (type.kind, type.shape, type.scale, type.planes)
        if not alike or kept.bound > type.bound:
            raise PlanError(f"the value under handle {handle!r} is {kept}, the plan expects {type}")
        return value

    def release(self, handles: Iterable[str]) -> None:
        """Forget the values; unknown handles are ignored, so that releasing twice is harmless."""
        for handle in handles:
            self._entries.pop(handle, None)

    def clear(self) -> None:
        self._entries.clear()

    def __contains__(self, handle: object) -> bool:
        return handle in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
