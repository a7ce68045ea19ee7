"""Who may pass the public port: whoever signed the time just now with a key that was let in.

Flower's node authentication, checked on a request's head. Private names of Flower 1.41.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from fedward.privacy.transport import is_transport, transport_pem

_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
_TIME_HEADER = TIMESTAMP_HEADER.lower().encode()
_SIGNATURE_HEADER = FLEET_HTTP_SIGNATURE_HEADER.lower().encode()


def caller_names(keys: Iterable[bytes]) -> frozenset[bytes]:
    """How requests name these public transport keys, DER; what is none has no name."""
    return frozenset(map(base64.b64encode, _pems(keys)))


def _pems(keys: Iterable[bytes]) -> list[bytes]:
    return [transport_pem(key) for key in keys if is_transport(key)]


class Doorkeeper:
    """Which requests carry the time, signed just now with a key that was let in.

    The SuperLink checks the same, but only after it has read the whole body into memory: a public
    key is no secret, and with it alone strangers could fill that memory.

    Args:
        keys: Public transport keys, DER; what is none lets nobody in.
        now: The clock.
    """

    def __init__(
        self,
        keys: Iterable[bytes],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = {base64.b64encode(pem): load_pem_public_key(pem) for pem in _pems(keys)}
        self._now = now
        self._seen: dict[bytes, tuple[bytes, bytes]] = {}

    def __call__(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Who sends the request, or None if it may not pass.

        Args:
            headers: The request's, names in small letters.
        """
        name = headers.get(_KEY_HEADER, b"")
        key = self._keys.get(name)
        said = headers.get(_TIME_HEADER, b""), headers.get(_SIGNATURE_HEADER, b"")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not self._is_fresh(said[0]):
            return None
        if self._seen.get(name) != said:  # hospitals sign once for many requests
            try:
                signature = base64.b64decode(said[1], validate=True)
                key.verify(signature, said[0], ec.ECDSA(hashes.SHA256()))
            except (InvalidSignature, ValueError):
                return None
            self._seen[name] = said
        return name

    def _is_fresh(self, stamp: bytes) -> bool:
        try:
            age = (self._now() - datetime.fromisoformat(stamp.decode("ascii"))).total_seconds()
        except (ValueError, TypeError):  # TypeError: it has no time zone
            return False
        return -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
