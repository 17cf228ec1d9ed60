"""Channels to other services: mutual TLS with the expected node, keepalive, deadlines, errors that explain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from parley.errors import IdentityError, InputError, Unreachable
from services.identity import Caller, Identity, Role, target_name
from services.settings import KeepaliveSettings, is_loopback, split_address
from services.status import explain

ROLE_CLAIM = "parley-role"
NAME_CLAIM = "parley-name"
MAXIMUM_MESSAGE_BYTES = 8 << 20
DEADLINE_SECONDS = 15.0
"""What a single call may take where nothing else is said."""

Answer = TypeVar("Answer")


def channel_options(keepalive: KeepaliveSettings) -> list[tuple[str, Any]]:
    """The options that clients and servers share."""
    interval, timeout = round(keepalive.interval_seconds * 1000), round(keepalive.timeout_seconds * 1000)
    return [
        ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAXIMUM_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", interval),
        ("grpc.keepalive_timeout_ms", timeout),
        ("grpc.http2.ping_timeout_ms", timeout),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def claims(identity: Caller | None) -> tuple[tuple[str, str], ...]:
    """The metadata by which a caller names itself where there is no TLS (empty where there is)."""
    return () if identity is None else ((ROLE_CLAIM, identity.role), (NAME_CLAIM, identity.name))


class Connection:
    """A channel to one node, of which role and name are known beforehand and verified by TLS."""

    def __init__(
        self,
        address: str,
        role: Role,
        name: str,
        identity: Identity | None,
        *,
        claimed: Caller | None = None,
        keepalive: KeepaliveSettings | None = None,
    ) -> None:
        """Prepare a channel to `address`; it connects with the first call.

        `identity` None goes without TLS, as `claimed`: on loopback only. Raises IdentityError where the own
        certificate would be refused (of which TLS itself says only that the socket was closed).
        """
        self.address = address
        self.peer = Caller(role, name)
        host, _ = split_address(address, f"the address of {self.peer}")
        options = [
            *channel_options(keepalive or KeepaliveSettings()),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.enable_http_proxy", 0),
        ]
        if identity is None:
            if not is_loopback(host):
                raise InputError(f"without TLS only loopback is called, and {self.peer} is at {address}")
            if claimed is None:
                raise IdentityError("without TLS a caller has to claim a role and a name")
            self.metadata = claims(claimed)
            self.channel: grpc.Channel = grpc.insecure_channel(address, options)
        else:
            identity.check()
            self.metadata = ()
            credentials = grpc.ssl_channel_credentials(
                identity.authority_pem, identity.key_pem, identity.certificate_pem
            )
            # gRPC compares this name with those of the server's certificate, which carries exactly one of this form.
            options.append(("grpc.ssl_target_name_override", target_name(role, name)))
            self.channel = grpc.secure_channel(address, credentials, options)

    def __str__(self) -> str:
        return f"{self.peer} at {self.address}"

    def call(
        self, method: Callable[..., Answer], request: Any, timeout: float = DEADLINE_SECONDS, wait: bool = False
    ) -> Answer:
        """Make a single call of a stub's method; raises the error of ours that a failure stands for.

        `wait` goes on trying to connect until the timeout.
        """
        with self.explained():
            return method(request, timeout=timeout, metadata=self.metadata, wait_for_ready=wait)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of gRPC within into errors of ours; for streams, which are iterated elsewhere."""
        try:
            yield
        except grpc.RpcError as error:
            raise explain(error, str(self)) from error

    def wait_until_ready(self, timeout: float = DEADLINE_SECONDS) -> None:
        """Connect now; raises Unreachable after `timeout` seconds."""
        ready = threading.Event()

        def changed(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.READY:
                ready.set()

        self.channel.subscribe(changed, try_to_connect=True)
        try:
            if not ready.wait(timeout):
                raise Unreachable(
                    f"{self} cannot be reached within {timeout:g} s: check that it runs, its address and the firewall, "
                    "and that it is the node that it is taken for"
                )
        finally:
            self.channel.unsubscribe(changed)

    def close(self) -> None:
        """Close the channel and all its calls."""
        self.channel.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
