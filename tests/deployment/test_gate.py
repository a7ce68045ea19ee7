"""The public port, from outside, in front of a real SuperLink."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h11
import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import (
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node

from fedward.server.fleet_methods import FLEET
from fedward.server.gate import verdict
from fedward.server.http_sides import Limits
from fedward.server.superlink import SuperLink
from tests.deployment.public_port import Public, opened, signed_headers
from tests.server.flower_hospital import (
    hospital,
    make_certificates,
    public_der,
    raw,
    transport_key,
)
from tests.superlink_ward import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Public]:
    with opened(tmp_path_factory.mktemp("aggregator")) as public:
        yield public


@pytest.fixture(autouse=True)
def led(public: Public) -> None:
    public.gate.lead_to(public.route())


def request(
    target: bytes,
    *,
    method: bytes = b"POST",
    more: bytes = b"",
    body: bytes = b"",
    host: bytes = b"x",
) -> bytes:
    return (
        b"%s %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/protobuf\r\n%s"
        b"content-length: %d\r\n\r\n%s" % (method, target, host, more, len(body), body)
    )


def inside_paths(superlink: SuperLink) -> list[str]:
    """Every path of the running SuperLink, as itself lists them, that is not the hospitals'."""
    host, port = superlink.address
    with httpx.Client(verify=superlink.trust(), trust_env=False) as client:
        listed = client.get(f"https://{host}:{port}/openapi.json").json()["paths"]
    return [path for path in listed if not path.encode().startswith(FLEET)]


@pytest.mark.parametrize("with_key", [False, True], ids=["without a key", "with a key"])
def test_every_path_of_the_inside_is_refused(public: Public, *, with_key: bool) -> None:
    more = signed_headers(public.known) if with_key else b""
    paths = inside_paths(public.superlink)
    assert len([p for p in paths if p.startswith("/v1/control/")]) > 30
    assert len([p for p in paths if p.startswith("/v1/runtime/")]) > 15

    for path in [*paths, "/", "/docs", "/openapi.json", "/health", "/v1", "/v1/control/"]:
        for method in (b"POST", b"GET"):
            answer = public.send(request(path.encode(), method=method, more=more))
            assert (answer.status, answer.body) == (404, b""), (path, method, answer)


def test_the_inside_would_have_answered(public: Public) -> None:
    host, port = public.superlink.address
    with httpx.Client(verify=public.superlink.trust(), trust_env=False) as client:
        for path in ("/v1/control/list-runs", "/v1/control/list-nodes"):
            answer = client.post(
                f"https://{host}:{port}{path}", headers={"content-type": "application/protobuf"}
            )
            assert answer.is_success, (path, answer)


TRICKS = [
    b"/v1/fleet/../control/list-nodes",
    b"/v1/fleet/..%2fcontrol/list-nodes",
    b"/v1/fleet/%2e%2e/control/list-nodes",
    b"/v1/fleet/%2E%2E%2Fcontrol%2Flist-nodes",
    b"/v1/fleet/..;/control/list-nodes",
    b"/v1/fleet/.%00./control/list-nodes",
    b"/v1/fleet\\..\\control\\list-nodes",
    b"/v1/fleet//pull-messages",
    b"//v1/fleet/pull-messages",
    b"/v1//fleet/pull-messages",
    b"/./v1/fleet/pull-messages",
    b"/v1/fleet/pull-messages/",
    b"/v1/fleet/pull-messages/../../control/list-nodes",
    b"/v1/fleet/pull-messages?x=1",
    b"/v1/fleet/pull-messages;x",
    b"/v1/fleet/pull%2dmessages",
    b"/v1/fleet/pull-messages%0a",
    b"/v1/fleet/Pull-messages",
    b"/V1/FLEET/pull-messages",
    b"/v1/fleet",
    b"/v1/fleet/",
    b"/v1/fleetx/pull-messages",
    b"/v1/%66leet/pull-messages",
    b"/v1/%63ontrol/list-nodes",
    b"/V1/Control/list-nodes",
    b"/%2Fv1/control/list-nodes",
    b"https://127.0.0.1/v1/control/list-nodes",
    b"https://127.0.0.1/v1/fleet/pull-messages",
    b"http://x/v1/fleet/../control/list-nodes",
    b"*",
    b"127.0.0.1:443",
    b"/v1/fleet/pull-messages\xc0\xaf",
    b"/v1/fleet/\xe2\x80\xa6/control/list-nodes",
]


@pytest.mark.parametrize("target", TRICKS)
def test_no_other_writing_of_a_path_passes(public: Public, target: bytes) -> None:
    answer = public.send(request(target, more=signed_headers(public.known)))

    assert answer.status in {400, 404}
    assert answer.body == b""


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"CONNECT"])
def test_only_post_passes(public: Public, method: bytes) -> None:
    answer = public.send(request(b"/v1/fleet/pull-messages", method=method))

    assert (answer.status, answer.body) == (404, b"")


SMUGGLED = b"POST /v1/control/list-nodes HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 0\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"content-length: 0\r\ncontent-length: %d\r\n" % len(SMUGGLED),
        b"content-length: +0\r\n",
        b"content-length: -1\r\n",
        b"content-length: 0x0\r\n",
        b"content-length : 0\r\n",
        b"content-length: 0\r\n host: y\r\n",
        b"content-length: 0\r\nhost: y\r\n",
        b"content-length: 0\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
        b"content-length: 0\r\nexpect: 100-continue\r\n",
        b"",
    ],
)
def test_doubtful_framing_is_refused_and_nothing_after_it_is_read(
    public: Public, head: bytes
) -> None:
    more = signed_headers(public.known)
    first = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n" + more + head + b"\r\n"

    answer = public.send(first + b"0\r\n\r\n" + SMUGGLED)

    assert answer.status in {400, 404, 501}
    assert answer.whole.count(b"HTTP/1.1") == 1
    assert answer.body == b""


def test_a_request_behind_a_good_one_is_judged_too(public: Public) -> None:
    body = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
    first = request(b"/v1/fleet/pull-messages", more=signed_headers(public.known), body=body)

    answer = public.send(first + SMUGGLED)

    assert answer.whole.startswith(b"HTTP/1.1 401 ")
    assert answer.whole.count(b"HTTP/1.1 404 ") == 1
    assert answer.whole.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "sent", [request(b"/v1/fleet/pull-messages"), request(b"/v1/control/list-nodes"), b"\r\n\r\n"]
)
def test_plain_http_gets_no_answer(public: Public, sent: bytes) -> None:
    assert raw(public.port, None, sent).status == 0


def test_http_2_and_1_0_are_not_spoken(public: Public) -> None:
    old = request(b"/v1/fleet/pull-messages").replace(b"HTTP/1.1", b"HTTP/1.0")

    assert public.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status in {400, 404, 505}
    assert public.send(old).status == 404


def test_a_head_without_end_is_refused(public: Public) -> None:
    endless = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 5000

    assert public.send(endless).status == 431


def test_a_head_that_stops_halfway_is_cut_off(public: Public) -> None:
    began = time.monotonic()

    assert public.send(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\n").status == 0

    assert time.monotonic() - began < 10


def test_a_body_that_is_too_large_is_refused_before_it_is_read(public: Public) -> None:
    huge = request(b"/v1/fleet/push-object", more=signed_headers(public.known))

    answer = public.send(huge.replace(b"content-length: 0", b"content-length: 999999999999"))

    assert (answer.status, answer.body) == (413, b"")


@pytest.mark.parametrize(("path", "most"), [(b"push-messages", 4), (b"push-object", 16)])
def test_only_what_carries_objects_may_be_large(public: Public, path: bytes, most: int) -> None:
    lines = signed_headers(public.known).split(b"\r\n")
    signed = [(name, value) for name, _, value in (line.partition(b": ") for line in lines) if name]
    for size, status in ((most << 20, None), ((most << 20) + 1, 413)):
        headers = [(b"host", b"x"), (b"content-length", b"%d" % size), *signed]
        asked = h11.Request(method=b"POST", target=FLEET + path, headers=headers)
        assert verdict(asked, public.route(), Limits())[0] == status


# --- Hospitals ------------------------------------------------------------------------------------


def test_a_registered_hospital_comes_in(public: Public) -> None:
    with hospital(public.port, public.files.ca, public.known) as client:
        pem = public.known.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        number = client.ActivateNode(
            ActivateNodeRequest(public_key=pem, heartbeat_interval=30)
        ).node_id

        assert not client.PullMessages(PullMessagesRequest(node=Node(node_id=number))).messages_list
        assert [(n.number, n.name, n.online) for n in public.superlink.control.nodes()] == [
            (number, "Ward ä", True)
        ]
        assert public.superlink.control.nodes()[0].key == public_der(public.known)


@pytest.mark.parametrize("doorkeeper", [True, False], ids=["at the gate", "at the SuperLink"])
def test_an_unknown_hospital_is_refused(public: Public, *, doorkeeper: bool) -> None:
    public.gate.lead_to(public.route(doorkeeper=doorkeeper))
    stranger = transport_key()
    pem = stranger.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with hospital(public.port, public.files.ca, stranger) as client:
        for call in (
            lambda: client.RegisterNode(RegisterNodeFleetRequest(public_key=pem)),
            lambda: client.ActivateNode(ActivateNodeRequest(public_key=pem, heartbeat_interval=30)),
            lambda: client.PullMessages(
                PullMessagesRequest(node=Node(node_id=public.superlink.control.nodes()[0].number))
            ),
        ):
            with pytest.raises(httpx.HTTPStatusError) as error:
                call()
            assert 400 <= error.value.response.status_code < 500
    assert len(public.superlink.control.nodes()) == 1


def test_a_known_key_without_its_signature_is_refused(public: Public) -> None:
    mixed = signed_headers(transport_key()).splitlines(keepends=True)
    mixed[0] = signed_headers(public.known).splitlines(keepends=True)[0]
    body = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()

    more = b"".join([*mixed, b"connection: close\r\n"])
    answer = public.send(request(b"/v1/fleet/pull-messages", more=more, body=body))

    assert b"401" in answer.whole.splitlines()[0]
    assert public.passages[-1].received == 0  # at the gate


def test_a_body_is_not_waited_for_before_the_signature_is_known(public: Public) -> None:
    """The SuperLink would hold it in memory before it asks who sends it."""
    key_alone = signed_headers(public.known).splitlines(keepends=True)[0]
    began = time.monotonic()

    announced = request(b"/v1/fleet/push-object", more=key_alone)
    answer = public.send(announced.replace(b"content-length: 0", b"content-length: 40000000"))

    assert answer.status == 401
    assert time.monotonic() - began < 2
    assert b"\r\ndate: " in answer.whole  # a hospital tells a wrong clock by it


def test_nobody_registers_himself(public: Public) -> None:
    public.gate.lead_to(public.route(doorkeeper=False))
    stranger = transport_key()
    pem = stranger.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with (
        hospital(public.port, public.files.ca, stranger) as client,
        pytest.raises(httpx.HTTPStatusError),
    ):
        client.RegisterNode(RegisterNodeFleetRequest(public_key=pem))


def test_an_object_of_15_mb_passes_whole(public: Public) -> None:
    content = bytes(range(256)) * (15_000_000 // 256)
    sent = PushObjectRequest(
        node=Node(node_id=public.superlink.control.nodes()[0].number),
        run_id=1,
        object_id="0" * 64,
        object_content=content,
    )
    # The run is not there, so the SuperLink refuses what it has read and understood.
    with (
        hospital(public.port, public.files.ca, public.known) as client,
        pytest.raises(httpx.HTTPStatusError) as error,
    ):
        client.PushObject(sent)

    assert error.value.response.json()["detail"]
    size = len(sent.SerializeToString())  # the gate counts it a moment after it was answered
    until(lambda: public.passages[-1].received == size, seconds=5)


def test_a_superlink_that_is_down_is_503_and_found_again(public: Public, tmp_path: Path) -> None:
    body = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
    asked = request(b"/v1/fleet/pull-messages", more=signed_headers(public.known), body=body)
    route = public.route()
    public.gate.lead_to(replace(route, address=("127.0.0.1", 9)))
    assert (public.send(asked).status, public.send(asked).body) == (503, b"")
    public.gate.lead_to(None)
    assert public.send(asked).status == 503

    public.gate.lead_to(route)

    with (
        hospital(public.port, public.files.ca, public.known) as client,
        pytest.raises(httpx.HTTPStatusError, match="401"),
    ):
        client.PullMessages(PullMessagesRequest(node=Node(node_id=1)))


def test_a_superlink_with_another_certificate_is_not_spoken_to(
    public: Public, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path)
    route = public.route()
    public.gate.lead_to(replace(route, certificate=other.ca.read_bytes()))
    body = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()

    asked = request(b"/v1/fleet/pull-messages", more=signed_headers(public.known), body=body)

    assert public.send(asked).status == 503
