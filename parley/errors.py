"""Every error that Parley raises on purpose. The message says what was wrong, where, and what to do."""

from __future__ import annotations


class ParleyError(Exception):
    """Base of all of Parley's errors."""


class InputError(ParleyError, ValueError):
    """Something that a user gave (a tensor, a file, a job, a setting) is not usable; the message says what to mend."""


class PlanError(ParleyError):
    """A plan is not legal. `node` is the index of the offending node, or -1 where the plan as a whole is wrong."""

    def __init__(self, message: str, node: int = -1, line: str = "") -> None:
        where = "plan" if node < 0 else f"node {node}"
        super().__init__(f"{where}{f' ({line})' if line else ''}: {message}")
        self.node = node


class UnsupportedOperation(ParleyError, NotImplementedError):
    """A PyTorch operation has no lowering to a plan; the message names the ATen operation and the user's line."""


class NotFound(ParleyError, KeyError):
    """A dataset, handle, plan, job or model of that name does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ProtocolError(ParleyError):
    """What a peer sent does not fit the plan: another size, another digest, another fingerprint."""


class SessionClosed(ParleyError):
    """The session ended before the operation did; the message carries the cause and the node that it came from."""


class IdentityError(ParleyError):
    """A certificate or key is missing, wrong, expired or does not belong to the name it is used for."""


class Denied(ParleyError, PermissionError):
    """The caller, or the plan, may not do this."""


class Unreachable(ParleyError, ConnectionError):
    """A node cannot be reached."""
