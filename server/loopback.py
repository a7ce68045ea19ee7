"""The SuperLink's own certificate: made anew for every start, trusted by nobody but the aggregator.

Flower's node authentication insists on TLS even between two programs of one machine.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_YEARS = datetime.timedelta(days=3653)  # longer than any one process lives
_SKEW = datetime.timedelta(days=1)


def write_loopback_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Make a key and a self-signed certificate for an IP address.

    Returns:
        The paths of `loopback.pem` and of its key, which only the owner can read.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedward loopback")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_path, secret_path = folder / "loopback.pem", folder / "loopback-key.pem"
    secret_path.unlink(missing_ok=True)
    with os.fdopen(os.open(secret_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(secret)
    public_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return public_path, secret_path
