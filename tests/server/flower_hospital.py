"""What tests of the aggregator need: keys, certificates, hospitals that speak Flower's protocol."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor


class Files(NamedTuple):
    """A consortium's CA and the aggregator's certificate."""

    ca: Path
    certificate: Path
    key: Path


def transport_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def public_der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signed_time(
    key: ec.EllipticCurvePrivateKey,
    *,
    named: ec.EllipticCurvePrivateKey | None = None,
    at: datetime.datetime | None = None,
) -> dict[bytes, bytes]:
    """Headers by which the aggregator tells who sends a request.

    Args:
        key: Signs the time.
        named: Whose it is said to be; its own if None.
        at: The time; now if None.
    """
    stamp = (at or datetime.datetime.now(datetime.UTC)).isoformat().encode()
    pem = (named or key).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        b"flwr-public-key": b64encode(pem),
        b"flwr-timestamp": stamp,
        b"flwr-signature": b64encode(key.sign(stamp, ec.ECDSA(hashes.SHA256()))),
    }


def make_certificates(folder: Path, *, address: str = "127.0.0.1") -> Files:
    """A CA and a server certificate of it."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test consortium")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aggregator")])
    ca = (
        _started(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        _started(name, ca_name, key.public_key())
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    files = Files(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")
    files.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.key.chmod(0o600)
    return files


def _started(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


@contextlib.contextmanager
def hospital(port: int, ca: Path, key: ec.EllipticCurvePrivateKey) -> Iterator[FleetHttpClient]:
    """Flower's own client, with a hospital's transport key."""
    client = FleetHttpClient.from_server_address(
        f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=ca.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )
    with client:
        yield client


class Answer(NamedTuple):
    """What came back for raw bytes; status 0 if the connection was closed without a word."""

    status: int
    body: bytes
    whole: bytes


def raw(port: int, ca: Path | None, sent: bytes, *, seconds: float = 20) -> Answer:
    """Send bytes as they are, over TLS if there is a CA, and read until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain:
        if ca is None:
            return _exchange(plain, sent)
        trust = ssl.create_default_context(cafile=str(ca))
        with trust.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            return _exchange(tls, sent)


def _exchange(connection: socket.socket, sent: bytes) -> Answer:
    whole = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(sent)
        while data := connection.recv(1 << 16):
            whole += data
            head, found, body = whole.partition(b"\r\n\r\n")
            if found and b"content-length: 0" in head.lower():
                break
    head, _, body = whole.partition(b"\r\n\r\n")
    first = head.split(b" ")
    status = int(first[1]) if whole.startswith(b"HTTP/1.1 ") else 0
    return Answer(status, body, whole)
