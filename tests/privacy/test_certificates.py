"""The consortium's authority: real TLS accepts what it certified, and nothing else."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    Authority,
    check_server,
    read_authority,
    read_certificate_request,
    request_certificate,
)
from fedward.privacy.key_file import write_key
from fedward.privacy.protocol_errors import BadCertificate
from fedward.study.errors import DataError

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTS = ("fedward.example.org", "127.0.0.1", "::1")
AUTHORITY = Authority.generate(now=NOW)
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = request_certificate(KEY, HOSTS)
CHAIN = AUTHORITY.certify(REQUEST, now=NOW)
DAY = timedelta(days=1)


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    public = key.public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check(chain: bytes = CHAIN, *, host: str = HOSTS[0], now: datetime = NOW) -> None:
    check_server(chain, ca=AUTHORITY.pem, host=host, now=now)


# --- What TLS says --------------------------------------------------------------------------------


def shake_hands(folder: Path, *, chain: bytes, ca: bytes, host: str) -> None:
    """A real handshake of two sockets; the client's error, if any, is raised."""
    write_key(folder / "key.pem", KEY)
    (folder / "chain.pem").write_bytes(chain)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    client = ssl.create_default_context(cadata=ca.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    theirs.settimeout(20)

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:  # the client refused
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=host).close()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("host", HOSTS)
def test_a_strict_client_accepts_the_server_under_each_of_its_hosts(
    host: str, tmp_path: Path
) -> None:
    shake_hands(tmp_path, chain=CHAIN, ca=AUTHORITY.pem, host=host)


def test_a_client_refuses_another_host_another_authority_and_an_old_certificate(
    tmp_path: Path,
) -> None:
    old = AUTHORITY.certify(REQUEST, now=NOW - (SERVER_DAYS + 1) * DAY)
    cases = [
        (CHAIN, AUTHORITY.pem, "other.example.org", "mismatch"),
        (CHAIN, Authority.generate(now=NOW).pem, HOSTS[0], "self-signed|issuer|signature"),
        (old, AUTHORITY.pem, HOSTS[0], "expired|not yet valid"),
    ]
    for number, (chain, ca, host, why) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ssl.SSLCertVerificationError, match=f"(?i){why}"):
            shake_hands(tmp_path / str(number), chain=chain, ca=ca, host=host)


# --- What is in a certificate ---------------------------------------------------------------------


def test_a_certificate_is_a_server_s_only_and_can_sign_no_other() -> None:
    server, authority = x509.load_pem_x509_certificates(CHAIN)
    extensions = server.extensions

    uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    limits = extensions.get_extension_for_class(x509.BasicConstraints)
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert (limits.value.ca, limits.critical) == (False, True)
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert authority.public_bytes(Encoding.PEM) == AUTHORITY.pem
    above = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (above.value.ca, above.value.path_length, above.critical) == (True, 0, True)


def test_a_certificate_has_the_request_s_key_and_hosts() -> None:
    server = x509.load_pem_x509_certificates(CHAIN)[0]
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert server.public_key() == KEY.public_key()
    assert [str(name.value) for name in names] == list(HOSTS)


def test_it_is_good_for_397_days_also_where_the_clock_is_behind() -> None:
    check(now=NOW - timedelta(hours=23))
    check(now=NOW + (SERVER_DAYS - 1) * DAY)
    for now in (NOW - 2 * DAY, NOW + (SERVER_DAYS + 1) * DAY):
        with pytest.raises(BadCertificate):
            check(now=now)


def test_it_can_be_renewed_with_the_same_request() -> None:
    later = NOW + 390 * DAY
    renewed = AUTHORITY.certify(REQUEST, now=later)

    check(renewed, now=later + 390 * DAY)
    assert renewed != CHAIN


def test_no_certificate_outlives_its_authority() -> None:
    late = NOW + (AUTHORITY_DAYS - 10) * DAY
    chain = AUTHORITY.certify(REQUEST, now=late)

    assert x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc <= NOW + (
        AUTHORITY_DAYS * DAY
    )
    with pytest.raises(BadCertificate, match="authority's own certificate ends"):
        AUTHORITY.certify(REQUEST, now=NOW + AUTHORITY_DAYS * DAY)


# --- Requests -------------------------------------------------------------------------------------


def test_a_request_says_hosts_and_key() -> None:
    found = read_certificate_request(REQUEST)

    assert found.hosts == HOSTS
    assert found.public == der(KEY)


def asked(
    *names: x509.GeneralName,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | Ed25519PrivateKey = KEY,
) -> bytes:
    """A request as any other program might make it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder(name)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    how = None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, how).public_bytes(Encoding.PEM)


A = x509.DNSName("a")
REFUSED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"no request",
    "large": lambda: REQUEST + bytes(64 << 10),
    "cut": lambda: REQUEST[:200],
    "a certificate": lambda: CHAIN,
    "no host": lambda: asked(),
    "wildcard": lambda: asked(x509.DNSName("*.example.org")),
    "upper case": lambda: asked(x509.DNSName("EXAMPLE.org")),
    "a person": lambda: asked(A, x509.RFC822Name("a@example.org")),
    "many": lambda: asked(*(x509.DNSName(f"h{i}") for i in range(17))),
    "RSA": lambda: asked(A, key=rsa.generate_private_key(65537, 2048)),
    "Ed25519": lambda: asked(A, key=Ed25519PrivateKey.generate()),
    "P-521": lambda: asked(A, key=ec.generate_private_key(ec.SECP521R1())),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_request_that_cannot_be_met_is_refused(make: Callable[[], bytes]) -> None:
    request = make()
    for use in (read_certificate_request, lambda pem: AUTHORITY.certify(pem, now=NOW)):
        with pytest.raises(BadCertificate):
            use(request)


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    signed = x509.load_pem_x509_csr(REQUEST).public_bytes(Encoding.DER)
    other = der(ec.generate_private_key(ec.SECP256R1()))
    forged = x509.load_der_x509_csr(signed.replace(der(KEY), other)).public_bytes(Encoding.PEM)

    with pytest.raises(BadCertificate, match="own key"):
        read_certificate_request(forged)


@given(place=st.integers(0, len(REQUEST) - 1), byte=st.integers(0, 255))
def test_a_changed_request_is_refused_or_the_same(place: int, byte: int) -> None:
    changed = REQUEST[:place] + bytes([byte]) + REQUEST[place + 1 :]
    try:
        found = read_certificate_request(changed)
    except BadCertificate:
        return
    assert (found.hosts, found.public) == (HOSTS, der(KEY))  # a PEM may begin in another way


@pytest.mark.parametrize("hosts", [[], ["*.a"], ["a b"], ["h"] * 17])
def test_a_server_cannot_ask_for_such_hosts(hosts: list[str]) -> None:
    with pytest.raises(ValueError, match="host"):
        request_certificate(KEY, hosts)


def test_a_server_cannot_ask_with_a_key_on_another_curve() -> None:
    with pytest.raises(ValueError, match="P-256 or P-384"):
        request_certificate(ec.generate_private_key(ec.SECP521R1()), ["a"])


# --- Checking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_certificate_is_good_for_its_hosts_and_no_other(host: str) -> None:
    check(host=host)
    for other in ("example.org", "x.fedward.example.org", "127.0.0.2", "::2"):
        with pytest.raises(BadCertificate):
            check(host=other)


def test_a_certificate_of_another_authority_or_for_another_key_is_refused() -> None:
    other = Authority.generate(now=NOW)
    with pytest.raises(BadCertificate):
        check(other.certify(REQUEST, now=NOW))
    with pytest.raises(BadCertificate, match="another key"):
        check_server(CHAIN, ca=AUTHORITY.pem, host=HOSTS[0], now=NOW, public=b"another")
    check_server(CHAIN, ca=AUTHORITY.pem, host=HOSTS[0], now=NOW, public=der(KEY))


@pytest.mark.parametrize("chain", [b"", b"no chain", AUTHORITY.pem, CHAIN[:300]])
def test_what_is_no_server_s_chain_is_refused(chain: bytes) -> None:
    with pytest.raises(BadCertificate):
        check(chain)


def test_a_server_s_certificate_certifies_nobody() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    server = x509.load_pem_x509_certificates(CHAIN)[0]
    below = (
        x509.CertificateBuilder()
        .subject_name(server.subject)
        .issuer_name(server.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOSTS[0])]), critical=False)
        .sign(KEY, hashes.SHA256())
    )

    with pytest.raises(BadCertificate):
        check(below.public_bytes(Encoding.PEM) + CHAIN)


# --- The authority itself -------------------------------------------------------------------------


def test_an_authority_s_certificate_is_read_with_its_end() -> None:
    assert read_authority(AUTHORITY.pem, now=NOW) == NOW + AUTHORITY_DAYS * DAY


@pytest.mark.parametrize("now", [NOW - 2 * DAY, NOW + (AUTHORITY_DAYS + 1) * DAY])
def test_an_authority_out_of_its_time_is_refused(now: datetime) -> None:
    with pytest.raises(BadCertificate, match=r"good from .* to .* only"):
        read_authority(AUTHORITY.pem, now=now)


@pytest.mark.parametrize(
    "pem",
    [
        *(b"", b"text", CHAIN, AUTHORITY.pem * 2, AUTHORITY.pem + b"\n", b"# by\n" + AUTHORITY.pem),
        *(CHAIN[: CHAIN.index(AUTHORITY.pem)], AUTHORITY.pem[:-40], bytes((64 << 10) + 1)),
    ],
    ids=["empty", "text", "chain", "two", "longer", "note", "server", "cut", "large"],
)
def test_what_is_not_one_authority_s_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(BadCertificate, match="not an authority's certificate"):
        read_authority(pem, now=NOW)


@given(place=st.integers(0, len(AUTHORITY.pem) - 1), bit=st.integers(0, 7))
def test_no_bit_of_an_authority_s_certificate_may_change(place: int, bit: int) -> None:
    changed = bytearray(AUTHORITY.pem)
    changed[place] ^= 1 << bit

    with pytest.raises(BadCertificate):
        read_authority(bytes(changed), now=NOW)


def test_an_authority_is_saved_for_its_owner_alone_and_loaded_with_its_certificate(
    tmp_path: Path,
) -> None:
    AUTHORITY.save(tmp_path / "ca-key.pem")
    again = Authority.load(tmp_path / "ca-key.pem", AUTHORITY.pem)

    check(again.certify(REQUEST, now=NOW))
    assert stat.S_IMODE((tmp_path / "ca-key.pem").stat().st_mode) == 0o600
    with pytest.raises(DataError, match="another key"):
        Authority.load(tmp_path / "ca-key.pem", Authority.generate(now=NOW).pem)
    write_key(tmp_path / "ed.pem", Ed25519PrivateKey.generate())
    with pytest.raises(DataError, match="another kind than EC"):
        Authority.load(tmp_path / "ed.pem", AUTHORITY.pem)
