"""The SuperLink's side of a request that passes the gate: its fleet API, over gRPC with TLS.

Over gRPC a request costs the SuperLink a quarter of what it costs over HTTP
(`docs/adr/0009-grpc-behind-the-gate.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio

from fedward.server.fleet_methods import METHODS, Answer, Refused, failure, node_metadata

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # a proxy's settings are for other machines
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),  # the gate has its own limit
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class NobodyThere(Exception):  # noqa: N818 - reads as the fact that it states
    """The SuperLink cannot be reached, or does not answer in time."""


class Behind:
    """The server behind the gate; belongs to the event loop in which it is made.

    Args:
        address: Host and port.
        certificate: The one that it is known by, PEM; no other is trusted.
        answer_seconds: Until it has answered.
    """

    def __init__(
        self, address: tuple[str, int], certificate: bytes, *, answer_seconds: float
    ) -> None:
        self._channel = grpc.aio.secure_channel(
            "{}:{}".format(*address),
            grpc.ssl_channel_credentials(root_certificates=certificate),
            options=_OPTIONS,
        )
        # Without serializers, requests and answers are bytes.
        self._methods: dict[bytes, Any] = {
            target: self._channel.unary_unary(method) for target, method in METHODS.items()
        }
        self._seconds = answer_seconds

    async def answer(self, target: bytes, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        """What Flower's HTTP API would answer.

        Args:
            target: One of `METHODS`.
            headers: The request's, names in small letters.
            body: The whole of it.

        Raises:
            NobodyThere: There is no answer.
        """
        try:
            metadata = node_metadata(target, headers, body)
            call = self._methods[target](body, metadata=metadata, timeout=self._seconds)
            return Answer.good(await call)
        except Refused as refused:
            return refused.answer
        except grpc.aio.AioRpcError as error:
            answer = failure(error.code(), error.details() or "")
            if answer is None:
                raise NobodyThere(f"{error.code().name}: {error.details()}") from None
            return answer

    async def close(self, grace: float | None = None) -> None:
        """Ask nothing more; what is under way has so many seconds to end."""
        await self._channel.close(grace)
