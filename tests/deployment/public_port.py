"""The public port in front of a real SuperLink, and requests that no client of Flower's sends."""

from __future__ import annotations

import datetime
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedward.server.doorkeeper import Doorkeeper
from fedward.server.gate import Gate, Passage, Route, public_tls
from fedward.server.gate_thread import GateThread
from fedward.server.http_sides import Limits
from fedward.server.superlink import SuperLink
from tests.server.flower_hospital import (
    Answer,
    Files,
    make_certificates,
    public_der,
    raw,
    transport_key,
)


class Public(NamedTuple):
    """A SuperLink behind its gate, and one hospital that is registered."""

    superlink: SuperLink
    gate: GateThread
    files: Files
    known: ec.EllipticCurvePrivateKey
    passages: list[Passage]

    @property
    def port(self) -> int:
        return self.gate.port

    def send(self, sent: bytes) -> Answer:
        return raw(self.port, self.files.ca, sent)

    def route(self, *, doorkeeper: bool = True) -> Route:
        keys = Doorkeeper([public_der(self.known)])
        admits = keys if doorkeeper else lambda headers: True
        link = self.superlink
        return Route(link.fleet_address, link.certificate, admits)


@contextmanager
def opened(folder: Path) -> Iterator[Public]:
    """A SuperLink, a gate to it, and a hospital that it knows as "Ward ä"."""
    files, known = make_certificates(folder / "tls"), transport_key()
    superlink = SuperLink(folder / "superlink")
    superlink.start()
    try:
        superlink.control.register("Ward ä", public_der(known))
        passages: list[Passage] = []
        tls = public_tls(files.certificate, files.key)
        gate = Gate(tls, limits=Limits(head_seconds=2), listener=passages.append)
        with GateThread(gate, "127.0.0.1", 0) as thread:
            yield Public(superlink, thread, files, known, passages)
    finally:
        superlink.stop()


def signed_headers(key: ec.EllipticCurvePrivateKey, *, hours: float = 0.0) -> bytes:
    """Flower's node authentication, for requests that no client of Flower's would send."""
    ago = datetime.timedelta(hours=hours)
    stamp = (datetime.datetime.now(datetime.UTC) - ago).isoformat()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
    return b"flwr-public-key: %s\r\nflwr-timestamp: %s\r\nflwr-signature: %s\r\n" % (
        b64encode(pem),
        stamp.encode(),
        b64encode(signature),
    )
