"""Who may call what over mutual TLS and without it; errors across the wire; health; metrics."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parley.errors import Denied, IdentityError, InputError, NotFound, ParleyError, PlanError, Unreachable
from services.authorization import RULES
from services.client import Connection
from services.identity import Caller, Identity
from services.metrics import Metrics
from services.protocol import coordinator_pb2_grpc, dealer_pb2_grpc, party_pb2_grpc, session_pb2
from services.server import Server, methods_without_rule
from tests.services.harness import EXCHANGE, Bob, Office, PartyService, start_bob


def describe(connection: Connection) -> session_pb2.Description:
    stub: Any = party_pb2_grpc.PartyStub(connection.channel)
    answer: session_pb2.Description = connection.call(stub.Describe, session_pb2.DescribeRequest(), timeout=5)
    return answer


@pytest.fixture
def insecure_bob() -> Iterator[Bob]:
    yield from start_bob(lambda role, name: None)


def test_the_caller_is_whom_the_certificate_names(bob: Bob) -> None:
    answer = describe(bob.connection)
    assert (answer.role, answer.name) == ("party", "alice")


def test_without_tls_the_caller_is_whom_it_claims_to_be(insecure_bob: Bob) -> None:
    answer = describe(insecure_bob.connection)
    assert (answer.role, answer.name) == ("party", "alice")
    here, there = insecure_bob.streams("s")
    here.send(b"x")
    assert there.receive(1) == b"x"
    with grpc.insecure_channel(insecure_bob.connection.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            party_pb2_grpc.PartyStub(channel).Describe(session_pb2.DescribeRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_tls_ignores_claims(bob: Bob) -> None:
    stub: Any = party_pb2_grpc.PartyStub(bob.connection.channel)
    metadata = (("parley-role", "coordinator"), ("parley-name", "coordinator"))
    assert stub.Describe(session_pb2.DescribeRequest(), metadata=metadata, timeout=5).name == "alice"


def test_a_role_without_the_right_is_denied(bob: Bob) -> None:
    stub: Any = party_pb2_grpc.PartyStub(bob.connection.channel)
    with pytest.raises(Denied, match=r"a party may not call /parley.Party/ListDatasets"):
        bob.connection.call(stub.ListDatasets, session_pb2.ListDatasetsRequest())
    with pytest.raises(grpc.RpcError) as refused:
        next(iter(stub.Session(iter([]), timeout=5)))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_every_method_of_every_service_has_a_rule(office: Office) -> None:
    served: set[str] = set()
    for role, add, servicer in (
        ("party", party_pb2_grpc.add_PartyServicer_to_server, party_pb2_grpc.PartyServicer()),
        ("dealer", dealer_pb2_grpc.add_DealerServicer_to_server, dealer_pb2_grpc.DealerServicer()),
        (
            "coordinator",
            coordinator_pb2_grpc.add_CoordinatorServicer_to_server,
            coordinator_pb2_grpc.CoordinatorServicer(),
        ),
    ):
        server = Server("127.0.0.1:0", office.identity(role, "bob"))  # type: ignore[arg-type]
        server.add_service(add, servicer)
        assert methods_without_rule(server.methods) == []
        served |= server.methods
        server.stop(0)
    assert set(RULES) == served  # nor is there a rule for what nobody serves


def test_a_method_without_a_rule_is_not_served(office: Office) -> None:
    server = Server("127.0.0.1:0", office.identity("party", "bob"))
    server._methods.add("/parley.Party/Forgotten")
    with pytest.raises(Denied, match=r"no rule .* /parley.Party/Forgotten"):
        server.start()
    server.stop(0)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (NotFound("no job 7"), NotFound, grpc.StatusCode.NOT_FOUND),
        (InputError("rows"), InputError, grpc.StatusCode.INVALID_ARGUMENT),
        (PlanError("shape", 3), PlanError, grpc.StatusCode.INVALID_ARGUMENT),
        (Denied("no"), Denied, grpc.StatusCode.PERMISSION_DENIED),
        (ValueError("a secret word"), ParleyError, grpc.StatusCode.UNKNOWN),
    ],
)
def test_errors_cross_the_wire_as_what_they_are(
    bob: Bob, error: Exception, kind: type[Exception], code: grpc.StatusCode
) -> None:
    def fail(request: Any, context: Any) -> Any:
        raise error

    bob.service.Describe = fail  # type: ignore[method-assign]
    # Methods are bound when the service is added.
    server = Server("127.0.0.1:0", None)
    server.add_service(party_pb2_grpc.add_PartyServicer_to_server, bob.service)
    server.start()
    alice = Caller("party", "alice")
    with Connection(f"127.0.0.1:{server.port}", "party", "bob", None, claimed=alice) as connection:
        with pytest.raises(kind) as raised:
            describe(connection)
        assert "secret word" not in str(raised.value)
        if isinstance(error, ParleyError):
            assert str(error) in str(raised.value)
            assert type(raised.value) is kind
        else:
            assert "internal error" in str(raised.value)
    server.stop(0)


def test_a_server_of_another_name_is_not_trusted(bob: Bob, office: Office) -> None:
    for role, name in (("party", "carol"), ("dealer", "bob")):
        with Connection(bob.connection.address, role, name, office.identity("party", "alice")) as connection:  # type: ignore[arg-type]
            with pytest.raises(IdentityError, match="cannot be trusted"):
                describe(connection)


def test_a_certificate_of_another_authority_is_not_let_in(bob: Bob) -> None:
    with Connection(bob.connection.address, "party", "bob", Identity.ephemeral("party", "alice")) as connection:
        with pytest.raises((IdentityError, Unreachable)):
            describe(connection)


def test_a_caller_without_certificate_is_not_let_in(bob: Bob, office: Office) -> None:
    credentials = grpc.ssl_channel_credentials(office.authority.certificate_pem)
    options = [("grpc.ssl_target_name_override", "bob.party.parley")]
    with grpc.secure_channel(bob.connection.address, credentials, options) as channel:
        with pytest.raises(grpc.RpcError):
            party_pb2_grpc.PartyStub(channel).Describe(session_pb2.DescribeRequest(), timeout=5)


def test_nobody_there_is_explained(office: Office) -> None:
    with Connection("127.0.0.1:1", "party", "bob", office.identity("party", "alice")) as connection:
        with pytest.raises(Unreachable, match=r"party bob at 127.0.0.1:1 cannot be reached"):
            describe(connection)
        with pytest.raises(Unreachable, match=r"within 0.2 s"):
            connection.wait_until_ready(0.2)


def test_without_tls_only_loopback_is_served_and_called() -> None:
    with pytest.raises(InputError, match="loopback only"):
        Server("0.0.0.0:0", None)
    with pytest.raises(InputError, match="only loopback"):
        Connection("10.0.0.1:7700", "party", "bob", None, claimed=Caller("party", "alice"))


def test_a_port_in_use_is_explained(bob: Bob, office: Office) -> None:
    with pytest.raises(InputError, match="another program has the port"):
        Server(f"127.0.0.1:{bob.server.port}", office.identity("party", "bob"))


def test_health_says_when_the_service_drains(bob: Bob) -> None:
    stub: Any = health_pb2_grpc.HealthStub(bob.connection.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    bob.server.drain()
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_stopping_waits_for_calls_under_way(bob: Bob, office: Office) -> None:
    class Slow(PartyService):
        def Describe(self, request: Any, context: Any) -> session_pb2.Description:
            time.sleep(0.4)
            return super().Describe(request, context)

    server = Server("127.0.0.1:0", office.identity("party", "bob"))
    server.add_service(party_pb2_grpc.add_PartyServicer_to_server, Slow(bob.gate))
    server.start()
    with Connection(f"127.0.0.1:{server.port}", "party", "bob", office.identity("party", "alice")) as connection:
        stub: Any = party_pb2_grpc.PartyStub(connection.channel)
        under_way = stub.Describe.future(session_pb2.DescribeRequest())
        time.sleep(0.15)
        server.stop(5)
        assert under_way.result(1).name == "alice"
        assert server.wait(0)


def test_calls_are_counted(bob: Bob) -> None:
    describe(bob.connection)
    stub: Any = party_pb2_grpc.PartyStub(bob.connection.channel)
    with pytest.raises(Denied):
        bob.connection.call(stub.ListDatasets, session_pb2.ListDatasetsRequest())
    count = bob.server.metrics.registry.get_sample_value
    labels = {"method": "/parley.Party/Describe", "role": "party", "code": "OK"}
    deadline = time.monotonic() + 2
    while count("parley_calls_total", labels) != 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count("parley_calls_total", labels) == 1
    labels = {"method": "/parley.Party/ListDatasets", "role": "party", "code": "PERMISSION_DENIED"}
    assert count("parley_calls_total", labels) == 1


def test_the_page_of_metrics_is_for_loopback() -> None:
    metrics = Metrics()
    with pytest.raises(InputError, match="loopback"):
        metrics.serve("0.0.0.0:0")
    page = metrics.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=5) as answer:
        assert b"parley_sessions" in answer.read()
    page.stop()


def test_streams_of_bytes_must_be_methods_of_the_service(office: Office, bob: Bob) -> None:
    server = Server("127.0.0.1:0", office.identity("party", "bob"))
    with pytest.raises(InputError, match="Exchanged"):
        server.add_service(party_pb2_grpc.add_PartyServicer_to_server, bob.service, raw=["Exchanged"])
    server.stop(0)
    assert EXCHANGE in bob.server.methods
