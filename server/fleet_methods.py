"""Flower's fleet API in its two dialects: hospitals speak HTTP, the SuperLink is asked over gRPC.

Requests and answers are the same bytes in both. What differs stands here: how a method is called,
how a node says who it is, and how an error looks. Private names of Flower 1.41.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_COMPONENT_NAME_METADATA_KEY,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
)
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from grpc import StatusCode

FLEET = b"/v1/fleet/"
"""Where the paths of the hospitals' API begin; everything else is for the aggregator alone."""

METHODS: Mapping[bytes, str] = {
    FLEET + b"activate-node": "/flwr.proto.Fleet/ActivateNode",
    FLEET + b"confirm-message-received": "/flwr.proto.Fleet/ConfirmMessageReceived",
    FLEET + b"deactivate-node": "/flwr.proto.Fleet/DeactivateNode",
    FLEET + b"get-fab": "/flwr.proto.Fleet/GetFab",
    FLEET + b"get-run": "/flwr.proto.Fleet/GetRun",
    FLEET + b"pull-messages": "/flwr.proto.Fleet/PullMessages",
    FLEET + b"pull-object": "/flwr.proto.Fleet/PullObject",
    FLEET + b"push-messages": "/flwr.proto.Fleet/PushMessages",
    FLEET + b"push-object": "/flwr.proto.Fleet/PushObject",
    FLEET + b"register-node": "/flwr.proto.Fleet/RegisterNode",
    FLEET + b"send-node-heartbeat": "/flwr.proto.Fleet/SendNodeHeartbeat",
    FLEET + b"unregister-node": "/flwr.proto.Fleet/UnregisterNode",
}
"""Every path of the hospitals' API, and its method in gRPC. The SuperLink refuses to register."""

CARRIES_OBJECTS = FLEET + b"push-object"
"""The one of them whose requests carry long parts of models."""

Metadata = tuple[tuple[str, str | bytes], ...]

# Their requests name a key instead of a node, and over gRPC Flower does not compare it with the one
# that signed: without that, one hospital could act as another.
_NAME_A_KEY = {
    FLEET + b"activate-node": ActivateNodeRequest,
    FLEET + b"register-node": RegisterNodeFleetRequest,
}
_KEY, _TIME, _SIGNATURE = (
    name.lower().encode()
    for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
)
_VERSIONS = (
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
    FLWR_COMPONENT_NAME_METADATA_KEY,
)
_SAYABLE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")  # as text, over gRPC

_JSON = b"application/json"
_PROTOBUF = PROTOBUF_MEDIA_TYPE.encode()
_NOBODY_THERE = {
    StatusCode.UNAVAILABLE,
    StatusCode.CANCELLED,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
}
_UNREADABLE = "Exception deserializing request!"  # what grpcio says of a request
_BROKE_AT_THE_DOOR = "Error in service handler!"  # and of one that broke Flower's authentication


@dataclass(frozen=True)
class Answer:
    """What a hospital is told.

    Attributes:
        status: HTTP status.
        kind: Media type of the body.
        body: All of it.
    """

    status: int
    kind: bytes
    body: bytes

    @classmethod
    def good(cls, body: bytes) -> Answer:
        """What the method answered."""
        return cls(200, _PROTOBUF, body)


class Refused(Exception):  # noqa: N818 - reads as the fact that it states
    """A request that Flower's HTTP API would not have let through to the method.

    Attributes:
        answer: What it would have said.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def node_metadata(target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Metadata:
    """Who sends a request, as gRPC says it.

    Args:
        target: One of `METHODS`.
        headers: The request's, names in small letters.
        body: The whole of it.

    Raises:
        Refused: It is of another kind, or says nothing credible of its sender.
    """
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != _PROTOBUF:
        raise Refused(_flower_error(ApiErrorCode.UNSUPPORTED_CONTENT_TYPE))
    try:
        key, signature = (
            base64.b64decode(headers[name], validate=True) for name in (_KEY, _SIGNATURE)
        )
    except (KeyError, ValueError):
        raise Refused(_stranger()) from None
    time = headers.get(_TIME, b"")
    if not key or not signature or not _SAYABLE.fullmatch(time):
        raise Refused(_stranger())
    _refuse_another_s_key(target, key, body)
    said = [(name, headers.get(name.encode(), b"")) for name in _VERSIONS]
    return (
        (PUBLIC_KEY_HEADER, key),
        (TIMESTAMP_HEADER, time.decode("ascii")),
        (SIGNATURE_HEADER, signature),
        *((name, value.decode("ascii")) for name, value in said if _SAYABLE.fullmatch(value)),
    )


def _refuse_another_s_key(target: bytes, key: bytes, body: bytes) -> None:
    if target not in _NAME_A_KEY:
        return
    asked = _NAME_A_KEY[target]()
    try:
        asked.ParseFromString(body)
    except DecodeError:
        raise Refused(_flower_error(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD)) from None
    if asked.public_key != key:
        raise Refused(_stranger())


def failure(code: StatusCode, details: str) -> Answer | None:
    """What Flower's HTTP API answers where its gRPC API ends with this status.

    Returns:
        None if nobody is there to answer, or not in time.
    """
    said = _said(details)
    if said is not None:
        return said
    if code in _NOBODY_THERE:
        return None
    if code is StatusCode.UNAUTHENTICATED:
        return _stranger()
    if code is StatusCode.UNKNOWN and details == _BROKE_AT_THE_DOOR:
        return _stranger()
    if code is StatusCode.INTERNAL and details == _UNREADABLE:
        return _flower_error(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD)
    return _json(500, {"detail": "Internal server error."})


def _said(details: str) -> Answer | None:
    """An error of Flower's own, which it writes as JSON into the status."""
    try:
        said = json.loads(details)
    except ValueError:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("code"), int):
        return None
    spec = API_ERROR_MAP.get(said["code"])
    if spec is None:
        return _json(500, {"detail": "Internal server error."})
    known = {"code": said.pop("code"), "detail": said.pop("public_message", spec.public_message)}
    extra = said.pop("public_details", None)
    return _json(
        spec.http_status_code, {**known, **({} if extra is None else {"extra": extra}), **said}
    )


def _flower_error(code: ApiErrorCode) -> Answer:
    spec = API_ERROR_MAP[code]
    return _json(spec.http_status_code, {"code": int(code), "detail": spec.public_message})


def _stranger() -> Answer:
    return _json(401, {"detail": "Invalid SuperNode authentication"})


def _json(status: int, content: Mapping[str, object]) -> Answer:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Answer(status, _JSON, text.encode())
