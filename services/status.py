"""Errors across gRPC, and who is calling: Parley's error classes as status codes and back."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc

from parley.errors import (
    Denied,
    IdentityError,
    InputError,
    NotFound,
    ParleyError,
    PlanError,
    ProtocolError,
    SessionClosed,
    Unreachable,
    UnsupportedOperation,
)
from services.identity import Caller

ERROR_KEY = "parley-error"
"""The trailing metadata that names the class of the error."""

_CODES: tuple[tuple[type[ParleyError], grpc.StatusCode], ...] = (
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (PlanError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnsupportedOperation, grpc.StatusCode.UNIMPLEMENTED),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (ProtocolError, grpc.StatusCode.FAILED_PRECONDITION),
    (SessionClosed, grpc.StatusCode.ABORTED),
    (IdentityError, grpc.StatusCode.UNAUTHENTICATED),
    (Denied, grpc.StatusCode.PERMISSION_DENIED),
    (Unreachable, grpc.StatusCode.UNAVAILABLE),
)
_MAXIMUM_DETAILS = 2000


def status_code(error: ParleyError) -> grpc.StatusCode:
    """The status code of an error's class."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def abort(context: grpc.ServicerContext, error: ParleyError) -> NoReturn:
    """End a call with an error of ours."""
    context.set_trailing_metadata(((ERROR_KEY, type(error).__name__),))
    context.abort(status_code(error), str(error)[:_MAXIMUM_DETAILS])
    raise AssertionError("abort returned")


def explain(error: Any, target: str) -> ParleyError:
    """The error of ours that a failed call (`grpc.RpcError`) stands for; `target` says who was called."""
    code: grpc.StatusCode = error.code()
    details = str(error.details() or "")
    named = dict(error.trailing_metadata() or ()).get(ERROR_KEY)
    for kind, _ in _CODES:
        if named == kind.__name__:
            return PlanError(details) if kind is PlanError else kind(f"{target}: {details}")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN) and _of_tls(details):
        return IdentityError(
            f"{target} cannot be trusted, or does not trust this node ({details}): check that both certificates come "
            "from one authority, have not expired, and that the address is that of the node"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(
            f"{target} cannot be reached ({details}): check that it runs, its address and the firewall, and that both "
            "use TLS or neither"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable(f"{target} did not answer in time ({details})")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Unreachable(f"{target} has no room for this call ({details}): try again later, or raise its limits")
    if code is grpc.StatusCode.CANCELLED:
        return SessionClosed(f"the call to {target} was cancelled: {details}")
    for kind, known in _CODES:
        if code is known and kind is not PlanError:
            return kind(f"{target}: {details}")
    return ParleyError(f"{target} failed ({code.name}): {details}")


def _of_tls(details: str) -> bool:
    lowered = details.lower()
    return any(word in lowered for word in ("handshake", "ssl", "certificate", "peer name", "verification", "tls"))


def remember_caller(context: grpc.ServicerContext, who: Caller) -> None:
    """Keep whom the interceptor has identified."""
    setattr(context, "_parley_caller", who)  # noqa: B010 - gRPC's class does not declare it


def caller(context: grpc.ServicerContext) -> Caller:
    """Role and name of whoever makes this call, as the server's interceptor has established them."""
    who = getattr(context, "_parley_caller", None)
    if not isinstance(who, Caller):
        raise IdentityError("the caller of this method was not identified: serve it with services.server")
    return who
