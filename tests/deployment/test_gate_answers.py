"""What comes through the gate is what the SuperLink's own HTTP API answers, which is not asked."""

from __future__ import annotations

import ipaddress
import ssl
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest

from fedward.server.fleet_methods import FLEET, METHODS
from tests.deployment.public_port import Public, opened, signed_headers
from tests.server.flower_hospital import hospital, public_der, transport_key
from tests.superlink_ward import public_pem

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Public]:
    with opened(tmp_path_factory.mktemp("aggregator")) as public:
        public.gate.lead_to(public.route())
        yield public


def test_every_answer_is_what_flower_s_own_http_api_gives(public: Public) -> None:
    public.gate.lead_to(public.route(doorkeeper=False))
    number = public.superlink.control.nodes()[0].number
    own, other = public_pem(public.known), public_pem(transport_key())
    node, nobody = Node(node_id=number), Node(node_id=1)
    name = "0" * 64
    asked: list[tuple[int, bytes, Any]] = [
        (200, b"send-node-heartbeat", SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)),
        (400, b"send-node-heartbeat", SendNodeHeartbeatRequest(node=node, heartbeat_interval=-1)),
        (401, b"send-node-heartbeat", SendNodeHeartbeatRequest(node=nobody, heartbeat_interval=30)),
        (412, b"activate-node", ActivateNodeRequest(public_key=own, heartbeat_interval=30)),
        (400, b"activate-node", ActivateNodeRequest(public_key=own, heartbeat_interval=-1)),
        (401, b"activate-node", ActivateNodeRequest(public_key=other, heartbeat_interval=30)),
        (412, b"register-node", RegisterNodeFleetRequest(public_key=own)),
        (401, b"register-node", RegisterNodeFleetRequest(public_key=other)),
        (412, b"unregister-node", UnregisterNodeFleetRequest(node_id=number)),
        (401, b"deactivate-node", DeactivateNodeRequest(node_id=1)),
        (200, b"pull-messages", PullMessagesRequest(node=node)),
        (401, b"pull-messages", PullMessagesRequest(node=nobody)),
        (401, b"pull-messages", PullMessagesRequest()),
        (500, b"push-messages", PushMessagesRequest(node=node)),
        (500, b"push-object", PushObjectRequest(node=node, run_id=1, object_id=name)),
        (500, b"pull-object", PullObjectRequest(node=node, run_id=1, object_id=name)),
        (500, b"confirm-message-received", ConfirmMessageReceivedRequest(node=node, run_id=1)),
        (403, b"get-run", GetRunRequest(node=node, run_id=1)),
        (403, b"get-fab", GetFabRequest(node=node, run_id=1, hash_str="x")),
    ]
    found = [
        same(public, FLEET + path, signed(public.known), what.SerializeToString())
        for _, path, what in asked
    ]
    assert found == [status for status, _, _ in asked]
    assert {FLEET + path for _, path, _ in asked} == set(METHODS)


def test_what_says_nothing_credible_is_refused_as_by_flower(public: Public) -> None:
    public.gate.lead_to(public.route(doorkeeper=False))
    pull, good = FLEET + b"pull-messages", signed(public.known)
    body = PullMessagesRequest(
        node=Node(node_id=public.superlink.control.nodes()[0].number)
    ).SerializeToString()
    assert same(public, pull, good, body) == 200
    old = signed(public.known, hours=1)
    assert same(public, pull, old, body) == 401
    assert same(public, pull, {**good, "flwr-signature": old["flwr-signature"]}, body) == 401
    assert same(public, pull, {**good, "content-type": "text/plain"}, body) == 415
    for name in ("flwr-public-key", "flwr-signature", "flwr-timestamp"):
        assert same(public, pull, {k: v for k, v in good.items() if k != name}, body) == 401
        for said in ("", "*", "now", "a2V5", b64encode(b"key").decode()):
            assert same(public, pull, {**good, name: said}, body) == 401
    for path in METHODS:
        assert same(public, path, good, b"\xff") == 400


def same(public: Public, target: bytes, headers: dict[str, str], body: bytes) -> int:
    """The status through the gate, where the whole answer is the SuperLink's own over HTTP."""
    host, port = public.superlink.address
    trusts = {port: public.superlink.trust(), public.port: public_trust(public)}
    answers = []
    for to, trust in trusts.items():
        with httpx.Client(verify=trust, trust_env=False) as client:
            url = f"https://{host}:{to}{target.decode()}"
            answer = client.post(url, content=body, headers=headers)
        answers.append((answer.status_code, answer.headers["content-type"], answer.content))
    assert answers[0] == answers[1], (target, headers)
    return answers[0][0]


def public_trust(public: Public) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(public.files.ca))


def signed(key: ec.EllipticCurvePrivateKey, *, hours: float = 0.0) -> dict[str, str]:
    lines = [line.partition(b": ") for line in signed_headers(key, hours=hours).splitlines()]
    headers = {name.decode(): value.decode() for name, _, value in lines}
    return {**headers, "content-type": "application/protobuf"}


def test_a_hospital_cannot_activate_another(public: Public) -> None:
    """Over gRPC, Flower itself does not notice."""
    other = transport_key()
    public.superlink.control.register("Other", public_der(other))
    try:
        asked = ActivateNodeRequest(public_key=public_pem(other), heartbeat_interval=30)
        body = asked.SerializeToString()
        with (
            hospital(public.port, public.files.ca, public.known) as client,
            pytest.raises(httpx.HTTPStatusError, match="401"),
        ):
            client.ActivateNode(asked)
        assert same(public, FLEET + b"activate-node", signed(public.known), body) == 401
        (there,) = [n for n in public.superlink.control.nodes() if n.name == "Other"]
        assert not there.online
    finally:
        for node in public.superlink.control.nodes():
            if node.name == "Other":
                public.superlink.control.remove(node.number)


def plain(address: str) -> str:
    """The same address without IPv6 around it."""
    found = ipaddress.ip_address(address)
    return str(getattr(found, "ipv4_mapped", None) or found)


def test_the_superlink_listens_on_loopback_alone_and_speaks_tls_alone(public: Public) -> None:
    link = public.superlink
    process = psutil.Process(link.pid)
    listening = {
        (plain(found.laddr.ip), found.laddr.port)
        for one in (process, *process.children(recursive=True))
        for found in one.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    }
    assert listening == {link.address, link.fleet_address}

    where, pull = "{}:{}".format(*link.fleet_address), METHODS[FLEET + b"pull-messages"]
    with grpc.insecure_channel(where) as bare:
        with pytest.raises(grpc.RpcError) as error:
            bare.unary_unary(pull)(b"", timeout=5)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    trusted = grpc.ssl_channel_credentials(link.certificate)
    with grpc.secure_channel(where, trusted) as stranger:
        for method, refused in (
            (pull, grpc.StatusCode.UNAUTHENTICATED),
            ("/flwr.proto.Control/ListNodes", grpc.StatusCode.UNIMPLEMENTED),
            ("/flwr.proto.Runtime/PullMessages", grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.RpcError) as error:
                stranger.unary_unary(method)(b"", timeout=5)
            assert error.value.code() is refused
