"""The version of the protocol and of the build, and how two services compare them."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from parley.errors import ProtocolError
from services.identity import Caller, Identity
from services.protocol import session_pb2 as pb

PROTOCOL_VERSION = 1


@cache
def build() -> str:
    """The version of the installed distribution."""
    try:
        return metadata.version("parley-mpc")
    except metadata.PackageNotFoundError:
        return "unknown"


def request() -> pb.DescribeRequest:
    """What one sends to Describe."""
    return pb.DescribeRequest(protocol_version=PROTOCOL_VERSION, build=build())


def describe(identity: Identity) -> pb.Description:
    """The answer of a service to Describe."""
    return pb.Description(
        protocol_version=PROTOCOL_VERSION,
        build=build(),
        role=identity.role,
        name=identity.name,
        identity_bundle=identity.bundle,
    )


def check(description: pb.Description, peer: Caller) -> None:
    """Raise ProtocolError unless the peer is who it should be and speaks this version."""
    if description.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"{peer} speaks version {description.protocol_version} of the protocol (build {description.build}), this "
            f"side version {PROTOCOL_VERSION} (build {build()}): run the same version of Parley everywhere"
        )
    if (description.role, description.name) != (peer.role, peer.name):
        raise ProtocolError(f"{peer} says that it is {description.role} {description.name}: check its address")
