"""A gRPC server as all of Parley's services have it: mutual TLS, one interceptor, health, graceful stop.

The interceptor does for every call: identity from the certificate → rule of services/authorization.py (a method
without one is refused) → the handler, whose errors become status codes → counters.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from parley.errors import Denied, IdentityError, InputError, ParleyError
from services.authorization import RULES, allowed
from services.client import NAME_CLAIM, ROLE_CLAIM, channel_options
from services.identity import Caller, Identity, check_name, check_role, parse_identity_uri
from services.logs import get_logger
from services.metrics import Metrics
from services.settings import KeepaliveSettings, is_loopback, split_address
from services.status import abort, remember_caller, status_code

__all__ = ["Server", "methods_without_rule"]

_log = get_logger(__name__)
_SPARE_THREADS = 12
"""Threads beside those that streams hold: for control, health and refusals."""


class Server:
    """A server that is set up, then given its services by `add_service`, then started."""

    def __init__(
        self,
        listen: str,
        identity: Identity | None,
        *,
        metrics: Metrics | None = None,
        streams: int = 64,
        keepalive: KeepaliveSettings | None = None,
    ) -> None:
        """Bind to `listen` (host:port, port 0 for a free one).

        `identity` None serves without TLS and believes what callers claim: on loopback only. `streams` is how many
        streams may be open at once, each of which holds a thread: peers × sessions and what else is served.
        Raises InputError where the address cannot be had, IdentityError where peers would refuse the certificate.
        """
        host, _ = split_address(listen, "listen")
        if identity is None and not is_loopback(host):
            raise InputError(f"without TLS a service listens on loopback only, and listen is {listen}")
        self.metrics = metrics or Metrics()
        self._methods: set[str] = set()
        self._server = grpc.server(
            ThreadPoolExecutor(streams + _SPARE_THREADS, thread_name_prefix="call"),
            maximum_concurrent_rpcs=streams + _SPARE_THREADS,  # beyond, a call would wait for a thread in silence
            interceptors=[_Interceptor(identity is None, self.metrics)],
            options=[
                *channel_options(keepalive or KeepaliveSettings()),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.max_concurrent_streams", 4 * (streams + _SPARE_THREADS)),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self.add_service(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            if identity is None:
                self.port: int = self._server.add_insecure_port(listen)
            else:
                identity.check()
                credentials = grpc.ssl_server_credentials(
                    [(identity.key_pem, identity.certificate_pem)], identity.authority_pem, require_client_auth=True
                )
                self.port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise InputError(f"cannot listen on {listen}: another program has the port, or the host is not ours") from (
                error
            )
        self._stopped = threading.Event()

    def add_service(self, add: Callable[[Any, Any], None], servicer: object, raw: Collection[str] = ()) -> None:
        """Add a service: `add` is the generated `add_…Servicer_to_server`.

        The methods named in `raw` receive and send bytes (streams of Frame, see services/streams.py).
        """
        add(servicer, _Registration(self._server, self._methods, frozenset(raw)))

    @property
    def methods(self) -> frozenset[str]:
        """All methods that are served."""
        return frozenset(self._methods)

    def start(self) -> None:
        """Serve, and say so by the health service; raises Denied where a method has no rule."""
        missing = methods_without_rule(self._methods)
        if missing:
            raise Denied(f"no rule in services/authorization.py says who may call {', '.join(missing)}")
        self._server.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        _log.info("serving", port=self.port)

    def drain(self) -> None:
        """Say by the health service that no new work should come here."""
        self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    def stop(self, grace: float = 5.0) -> None:
        """Refuse new calls, wait up to `grace` seconds for those under way, then cut them. Repeating it is harmless."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait(grace + 5)
        self._stopped.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server has been stopped; whether it has."""
        return self._stopped.wait(timeout)


def methods_without_rule(methods: Collection[str]) -> list[str]:
    """Those of the methods that services/authorization.py does not speak of: a test asserts that there is none."""
    return sorted(set(methods) - set(RULES))


class _Registration:
    """What the generated code takes for a server: notes the methods, and lets bytes through the raw ones."""

    def __init__(self, server: grpc.Server, methods: set[str], raw: frozenset[str]) -> None:
        self._server = server
        self._methods = methods
        self._raw = raw

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The generated code registers every method twice; the other one suffices."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Register the handlers of a service."""
        unknown = self._raw - set(handlers)
        if unknown:
            raise InputError(f"{service} has no method {', '.join(sorted(unknown))}")
        changed = {
            name: grpc.stream_stream_rpc_method_handler(handler.stream_stream) if name in self._raw else handler
            for name, handler in handlers.items()
        }
        self._methods.update(f"/{service}/{name}" for name in handlers)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, changed),))
        self._server.add_registered_method_handlers(service, changed)  # type: ignore[attr-defined]


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]
    def __init__(self, insecure: bool, metrics: Metrics) -> None:
        self._insecure = insecure
        self._metrics = metrics

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        method = str(details.method)
        if handler.response_streaming:
            wrapped: Any = self._streaming(method, handler.stream_stream or handler.unary_stream)
        else:
            wrapped = self._single(method, handler.stream_unary or handler.unary_unary)
        kind = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        return kind(wrapped, handler.request_deserializer, handler.response_serializer)

    def _single(self, method: str, behavior: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with _Observed(self, method, context) as observed:
                observed.admit()
                return behavior(request, context)

        return call

    def _streaming(
        self, method: str, behavior: Callable[[Any, Any], Iterator[Any]]
    ) -> Callable[[Any, Any], Iterator[Any]]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _Observed(self, method, context) as observed:
                observed.admit()
                yield from behavior(request, context)

        return call

    def identify(self, context: grpc.ServicerContext) -> Caller:
        """The caller, by certificate; in insecure mode by what it claims. Raises IdentityError."""
        if self._insecure:
            claims = dict(context.invocation_metadata() or ())
            role, name = claims.get(ROLE_CLAIM), claims.get(NAME_CLAIM)
            if role is None or name is None:
                raise IdentityError(f"without TLS a caller claims its {ROLE_CLAIM} and {NAME_CLAIM} in the metadata")
            return Caller(check_role(str(role)), check_name(str(name)))
        names = context.auth_context().get("x509_subject_alternative_name", ())
        uris = [text for text in (bytes(name).decode(errors="replace") for name in names) if text[:9] == "parley://"]
        if len(uris) != 1:
            raise IdentityError("the caller's certificate does not name one Parley role and name")
        return parse_identity_uri(uris[0])


class _Observed:
    """One call: admitted, its errors translated, counted."""

    def __init__(self, interceptor: _Interceptor, method: str, context: grpc.ServicerContext) -> None:
        self._interceptor = interceptor
        self._metrics = interceptor._metrics
        self._method = method
        self._context = context
        self._role = "unknown"
        self._start = time.monotonic()

    def admit(self) -> None:
        """Establish who calls and whether they may; raises IdentityError or Denied."""
        who = self._interceptor.identify(self._context)
        self._role = who.role
        remember_caller(self._context, who)
        if not allowed(self._method, who.role):
            raise Denied(f"a {who.role} may not call {self._method}")

    def __enter__(self) -> _Observed:
        self._metrics.calls_active.labels(self._method).inc()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._metrics.calls_active.labels(self._method).dec()
        self._metrics.call_seconds.labels(self._method).observe(time.monotonic() - self._start)
        code = "OK"
        ours: ParleyError | None = None
        if isinstance(error, ParleyError):
            ours = error
            code = status_code(error).name
            _log.info("call refused", method=self._method, role=self._role, code=code, cause=str(error))
        elif error is not None and not isinstance(error, GeneratorExit):
            aborted = self._context.code() if hasattr(self._context, "code") else None
            gone = isinstance(error, grpc.RpcError) or not self._context.is_active()
            code = aborted.name if aborted is not None else "CANCELLED" if gone else "INTERNAL"
            if aborted is None and not gone:
                _log.error("call failed", method=self._method, role=self._role, exc_info=error)
                ours = ParleyError("internal error: the log of the service says more")
        self._metrics.calls.labels(self._method, self._role, code).inc()
        if ours is not None:
            abort(self._context, ours)
