"""The consortium's own certificate authority: by it a hospital knows its aggregator (TLS).

Hospitals trust this one authority and no public one. It signs certificates of servers only, for the
hosts that the aggregator's request names, and none that could sign others. The aggregator makes its
key itself and sends a request (PKCS 10); the private key never leaves it. X.509 as in RFC 5280.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward.privacy.address import is_host, is_ip
from fedward.privacy.key_file import read_key, unusable_key, write_key
from fedward.privacy.protocol_errors import BadCertificate

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
LARGEST_PEM = 64 << 10  # bytes of a certificate, a chain or a request
_MOST_HOSTS = 16
_EARLIER = timedelta(days=1)  # a machine whose clock is behind must accept it at once
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class CertificateRequest:
    """What an aggregator asks the authority for.

    Attributes:
        hosts: Names and IP addresses under which it is reached.
        public: Its public key, SubjectPublicKeyInfo in DER, for comparison by telephone.
    """

    hosts: tuple[str, ...]
    public: bytes


class Authority:
    """The key that signs servers' certificates, and its own certificate. Its repr shows neither.

    Attributes:
        pem: Its certificate, public.
    """

    __slots__ = ("_certificate", "_key", "pem")

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        if certificate.public_key() != key.public_key():
            raise ValueError("the authority's key and certificate do not belong together")
        self._key = key
        self._certificate = certificate
        self.pem = certificate.public_bytes(Encoding.PEM)

    @classmethod
    def generate(cls, *, now: datetime) -> Authority:
        """A new authority (P-256), whose certificate is good for ten years.

        Args:
            now: With a time zone.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _called("Fedward consortium")
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _begun(subject, subject, key.public_key(), now=now, days=AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(own, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def save(self, key: Path) -> None:
        """Write the private key as PEM (PKCS 8), readable by nobody but its owner.

        Raises:
            DataError: Something is at that path already, or it cannot be written.
        """
        write_key(key, self._key)

    @classmethod
    def load(cls, key: Path, pem: bytes) -> Authority:
        """An authority from its key's file and its certificate.

        Raises:
            DataError: The key's file is missing, others may read it, or it is not this
                certificate's key.
            BadCertificate: It is no authority's certificate.
        """
        private = read_key(key)
        certificate = _authority(pem)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise unusable_key(key, "the key is of another kind than EC")
        if certificate.public_key() != private.public_key():
            raise unusable_key(key, "the authority's certificate belongs to another key")
        return cls(private, certificate)

    def certify(self, request: bytes, *, now: datetime) -> bytes:
        """Certify a server for the hosts that its request names.

        Args:
            request: PKCS 10 in PEM, whose key and hosts a person has compared by telephone.
            now: With a time zone; the certificate is good for 397 days from then.

        Returns:
            PEM: the server's certificate, then the authority's.

        Raises:
            BadCertificate: The request cannot be used, or the authority's own time is over.
        """
        hosts, public = _wanted(request)
        until = self._certificate.not_valid_after_utc
        if now + timedelta(days=1) > until:
            raise BadCertificate(
                f"the authority's own certificate ends on {until:%Y-%m-%d}",
                todo="found a new consortium, and enrol every hospital and aggregator there",
            )
        issuer = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        server = (
            _begun(
                _called("Fedward aggregator"),
                self._certificate.subject,
                public,
                now=now,
                days=min(SERVER_DAYS, (until - now).days),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_alternatives(hosts), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return server.public_bytes(Encoding.PEM) + self.pem

    def __repr__(self) -> str:
        return "Authority()"


def request_certificate(key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> bytes:
    """A server's request for a certificate (PKCS 10, PEM), signed by its own key.

    Args:
        key: On P-256 or P-384; it stays where it is.
        hosts: Names and IP addresses under which the server is reached, 1 to 16 of them.

    Raises:
        ValueError: The key is on another curve, or a host can be none.
    """
    if not isinstance(key.curve, _CURVES):
        raise ValueError(f"a server's key is on P-256 or P-384, not {key.curve.name}")
    builder = x509.CertificateSigningRequestBuilder(_called("Fedward aggregator"))
    builder = builder.add_extension(_alternatives(_possible(hosts)), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def read_certificate_request(request: bytes) -> CertificateRequest:
    """What a request asks for; nothing but its key and its hosts is ever taken from it.

    Raises:
        BadCertificate: It is larger than 64 KiB, malformed, not signed by its own key, or asks for
            something else than a server's certificate for 1 to 16 hosts.
    """
    hosts, public = _wanted(request)
    return CertificateRequest(hosts, _der(public))


def read_authority(pem: bytes, *, now: datetime) -> datetime:
    """Check an authority's certificate.

    Args:
        pem: One certificate and nothing else.
        now: With a time zone.

    Returns:
        When it ends.

    Raises:
        BadCertificate: It is malformed, no authority's, not signed by itself, or not valid now.
    """
    certificate = _authority(pem)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= now <= ends:
        raise BadCertificate(
            f"the authority's certificate is good from {begins:%Y-%m-%d} to {ends:%Y-%m-%d} only",
            todo="look at this machine's clock, then ask the coordinator",
        )
    return ends


def check_server(
    chain: bytes, *, ca: bytes, host: str, now: datetime, public: bytes = b""
) -> datetime:
    """Accept a server's certificate by returning; hospitals' TLS accepts the same ones.

    Args:
        chain: PEM, the server's certificate first.
        ca: The authority's certificate, PEM.
        host: Under which name or IP address hospitals reach the server.
        now: With a time zone.
        public: The server's public key, SubjectPublicKeyInfo in DER, if it must be this one.

    Returns:
        When the first certificate of the chain ends.

    Raises:
        BadCertificate: It is malformed, of another authority, host or key, or not valid now.
    """
    try:
        server, *above = x509.load_pem_x509_certificates(chain)
        subject = x509.IPAddress(ipaddress.ip_address(host)) if is_ip(host) else x509.DNSName(host)
        authority = _authority(ca)
        store = verification.Store([authority])
        policy = verification.PolicyBuilder().store(store).time(now)
        policy.build_server_verifier(subject).verify(server, above)
        found = _der(server.public_key())
    except (*_UNREADABLE, verification.VerificationError) as error:
        raise BadCertificate(
            f"the certificate does not prove that a server is {host} ({error!s:.200})",
            todo="ask the coordinator for a new one: fedward consortium certify",
        ) from None
    if public and found != public:
        raise BadCertificate(
            "the certificate belongs to another key",
            todo="ask the coordinator for one for this key's request",
        )
    return min(each.not_valid_after_utc for each in (server, *above, authority))


def _wanted(request: bytes) -> tuple[tuple[str, ...], ec.EllipticCurvePublicKey]:
    if len(request) > LARGEST_PEM:
        raise _no_request("it is larger than 64 KiB")
    try:
        found = x509.load_pem_x509_csr(request)
        public = found.public_key()
        hosts = _possible(_hosts(found.extensions))
        if not found.is_signature_valid:
            raise ValueError("it is not signed by its own key")
    except _UNREADABLE as error:
        raise _no_request(str(error)) from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, _CURVES):
        raise _no_request("its key is not on P-256 or P-384")
    return hosts, public


def _authority(pem: bytes) -> x509.Certificate:
    if len(pem) > LARGEST_PEM:
        raise _no_authority("it is larger than 64 KiB")
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem)
        certificate.verify_directly_issued_by(certificate)
        limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except _UNREADABLE:
        raise _no_authority("it is not one certificate in PEM, signed by itself") from None
    if not limits.ca:
        raise _no_authority("it may not sign others")
    if certificate.public_bytes(Encoding.PEM) != pem:
        raise _no_authority("there is more in it than a certificate")
    return certificate


def _der(public: CertificatePublicKeyTypes) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        x509.IPAddress(ipaddress.ip_address(host)) if is_ip(host) else x509.DNSName(host)
        for host in hosts
    )


def _hosts(extensions: x509.Extensions) -> list[str]:
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if strange := [n for n in names if not isinstance(n, x509.DNSName | x509.IPAddress)]:
        raise ValueError(f"it names something that is no host: {strange[0]!r:.80}")
    return [str(name.value) for name in names]


def _possible(hosts: Sequence[str]) -> tuple[str, ...]:
    if not 1 <= len(hosts) <= _MOST_HOSTS:
        raise ValueError(f"1 to {_MOST_HOSTS} hosts are wanted")
    if wrong := [host for host in hosts if not is_host(host)]:
        raise ValueError(f"no host's name in lower case and no IP address: {wrong[0]!r:.80}")
    return tuple(hosts)


def _no_request(why: str) -> BadCertificate:
    return BadCertificate(
        f"not a request for a server's certificate ({why:.200})",
        todo="give the file that `fedward aggregator init` wrote",
    )


def _no_authority(why: str) -> BadCertificate:
    return BadCertificate(
        f"not an authority's certificate ({why:.200})", todo="ask the coordinator for it again"
    )
