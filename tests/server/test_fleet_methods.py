"""The hospitals' API in its two dialects, against what Flower itself says in each."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any
from unittest import mock

import pytest
from flwr.proto import fleet_pb2
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError, http_error_translator
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.error.grpc import rpc_error_translator
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from grpc import StatusCode

from fedward.server.fleet_methods import (
    CARRIES_OBJECTS,
    FLEET,
    METHODS,
    Answer,
    Refused,
    failure,
    node_metadata,
)

PULL, ACTIVATE, REGISTER = (
    FLEET + name for name in (b"pull-messages", b"activate-node", b"register-node")
)
SIGNED = {
    b"content-type": b"application/protobuf",
    b"flwr-public-key": b64encode(b"key"),
    b"flwr-signature": b64encode(b"signature"),
    b"flwr-timestamp": b"2026-11-21T20:00:00+00:00",
}
BODY = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()


def test_every_method_of_flower_is_in_the_table_and_leads_to_itself() -> None:
    service = fleet_pb2.DESCRIPTOR.services_by_name["Fleet"]
    asked = {f"/{service.full_name}/{m.name}": m.input_type.name for m in service.methods}
    over_http = {
        path.encode(): kind.DESCRIPTOR.name
        for (_, path), kind in PROTOBUF_REQUEST_TYPES.items()
        if path.encode().startswith(FLEET)
    }

    assert {path: asked[method] for path, method in METHODS.items()} == over_http
    assert len(METHODS) == len(asked) == len(set(METHODS.values()))
    assert CARRIES_OBJECTS in METHODS


# --- Who asks -------------------------------------------------------------------------------------


def test_who_asks_is_said_in_flower_s_words() -> None:
    versions = {b"flwr-package-name": b"flwr", b"flwr-package-version": b"1.41.0"}
    ours = {b"host": b"x", b"flwr-task-token": b"secret", b"flwr-component-name": "ä".encode()}

    assert node_metadata(PULL, {**SIGNED, **versions, **ours}, BODY) == (
        ("flwr-public-key-bin", b"key"),
        ("flwr-timestamp", "2026-11-21T20:00:00+00:00"),
        ("flwr-signature-bin", b"signature"),
        ("flwr-package-name", "flwr"),
        ("flwr-package-version", "1.41.0"),
    )


def refusal(target: bytes, headers: dict[bytes, bytes], body: bytes = BODY) -> int:
    with pytest.raises(Refused) as error:
        node_metadata(target, headers, body)
    return error.value.answer.status


@pytest.mark.parametrize("name", [b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"])
def test_who_does_not_say_it_all_is_nobody(name: bytes) -> None:
    assert refusal(PULL, {k: v for k, v in SIGNED.items() if k != name}) == 401
    for said in (b"", b"\xff", b"a\nb", b"*", "ä".encode()):
        if not (name == b"flwr-timestamp" and said == b"*"):
            assert refusal(PULL, {**SIGNED, name: said}) == 401


@pytest.mark.parametrize("kind", [b"", b"application/json", b"text/plain; application/protobuf"])
def test_another_kind_of_body_is_refused(kind: bytes) -> None:
    assert refusal(PULL, {**SIGNED, b"content-type": kind}) == 415


@pytest.mark.parametrize(
    ("target", "kind"), [(ACTIVATE, ActivateNodeRequest), (REGISTER, RegisterNodeFleetRequest)]
)
def test_nobody_names_another_s_key(target: bytes, kind: Any) -> None:  # noqa: ANN401
    own = kind(public_key=b"key").SerializeToString()
    assert dict(node_metadata(target, SIGNED, own))["flwr-public-key-bin"] == b"key"

    for other in (b"", b"kez", b"key\n", b"a key"):
        body = kind(public_key=other).SerializeToString()
        assert refusal(target, SIGNED, body) == 401
    later = own + kind(public_key=b"kez").SerializeToString()  # of two keys, this one counts
    assert refusal(target, SIGNED, later) == 401
    assert refusal(target, SIGNED, b"\xff") == 400


# --- What went wrong ------------------------------------------------------------------------------


class AbortedError(Exception):
    """What a call's context raises."""


def over_grpc(error: Exception) -> tuple[StatusCode, str]:
    """How Flower's gRPC API ends a call in which this was raised."""
    context = mock.Mock(spec=["abort"])
    context.abort.side_effect = AbortedError
    with pytest.raises(AbortedError), rpc_error_translator(context, "x"):
        raise error
    code, details = context.abort.call_args.args
    return code, details


def over_http(error: Exception) -> Answer:
    """How Flower's HTTP API answers a request in which this was raised."""

    async def call_next(request: object) -> Any:  # noqa: ANN401
        raise error

    async def run() -> Answer:
        response = await http_error_translator(mock.Mock(), call_next)
        kind = response.headers["content-type"].encode()
        return Answer(response.status_code, kind, bytes(response.body))

    return asyncio.run(run())


@pytest.mark.parametrize("extra", [None, "because ä"])
@pytest.mark.parametrize("code", [*API_ERROR_MAP, 99_999])
def test_an_error_looks_as_over_flower_s_own_http(code: int, extra: str | None) -> None:
    error = FlowerError(code, "for the log", extra)

    assert failure(*over_grpc(error)) == over_http(error)


def test_what_flower_did_not_foresee_looks_the_same_too() -> None:
    error = ValueError("secret")

    assert failure(*over_grpc(error)) == over_http(error)


@pytest.mark.parametrize(
    ("code", "details", "status"),
    [
        (StatusCode.UNAUTHENTICATED, "Invalid node ID", 401),
        (StatusCode.UNKNOWN, "Error in service handler!", 401),
        (StatusCode.UNKNOWN, "anything else", 500),
        (StatusCode.INTERNAL, "Exception deserializing request!", 400),
        (StatusCode.INTERNAL, "[1]", 500),
        (StatusCode.INTERNAL, '{"code": "x"}', 500),
        (StatusCode.PERMISSION_DENIED, "", 500),
        (StatusCode.UNIMPLEMENTED, "Method not found!", 500),
        (StatusCode.UNAVAILABLE, "connection refused", None),
        (StatusCode.DEADLINE_EXCEEDED, "", None),
        (StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", None),
        (StatusCode.CANCELLED, "", None),
    ],
)
def test_other_ends_of_a_call(code: StatusCode, details: str, status: int | None) -> None:
    answer = failure(code, details)

    assert (answer and answer.status) == status
    assert answer is None or (details.encode() not in answer.body or not details)
