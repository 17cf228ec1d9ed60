"""Why a session has ended, as it travels from node to node: one cause, which names the node that it came from."""

from __future__ import annotations

from parley import errors
from parley.errors import ParleyError, PlanError, SessionClosed
from services.identity import Caller
from services.protocol import session_pb2 as pb

__all__ = ["cause_of", "error_of", "failure"]

_PASSED_ON = "closed the session: "
_MAXIMAL_CAUSE = 1500
_KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ParleyError)}


def failure(error: BaseException, at: Caller) -> pb.Failed:
    """What to tell others of an error that ended a session at `at`.

    A SessionClosed is the word of another node, and passed on as it came; anything else began here. Of an error that is
    not one of ours the text is kept back, since nobody knows what it shows.
    """
    if isinstance(error, SessionClosed):
        return pb.Failed(cause=cause_of(error), kind=SessionClosed.__name__)
    if isinstance(error, ParleyError):
        return pb.Failed(cause=f"{at}: {error}"[:_MAXIMAL_CAUSE], node=str(at), kind=type(error).__name__)
    text = f"{at}: internal error ({type(error).__name__}); its log says more"
    return pb.Failed(cause=text, node=str(at), kind=ParleyError.__name__)


def cause_of(error: SessionClosed) -> str:
    """The cause that the first node gave, without the nodes that have passed it on."""
    return str(error).rsplit(_PASSED_ON, 1)[-1][:_MAXIMAL_CAUSE]


def error_of(failed: pb.Failed) -> ParleyError:
    """The error that a failure stands for: of the same class as at the node that it came from."""
    kind = _KINDS.get(failed.kind, ParleyError)
    if kind is PlanError:
        refused = PlanError(failed.cause)
        refused.args = (failed.cause,)
        return refused
    error = kind(failed.cause)
    setattr(error, "node", failed.node)  # noqa: B010 - only these errors have one
    return error
