"""How a hospital becomes a member: a request goes out, the coordinator's answer comes in.

Only public keys are in them, so both may travel by e-mail. What makes them trustworthy is a
telephone call: the coordinator compares the request's fingerprint with the hospital's staff, and
they compare the fingerprint of the coordinator's key. Whoever exchanges a file on its way cannot
make the fingerprints agree.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from fedward.privacy.address import split_address
from fedward.privacy.framing import framed
from fedward.privacy.identity import PUBLIC_SIZE, Identity, verify
from fedward.privacy.protocol_errors import BadRequest
from fedward.privacy.roster import Roster, is_name, read_roster
from fedward.privacy.signed_json import canonical, read_signed, unhex, write_signed
from fedward.privacy.transport import PUBLIC_SIZE as TRANSPORT_SIZE
from fedward.privacy.transport import TransportKey, is_transport

LARGEST_REQUEST = 4 << 10  # bytes
LARGEST_ANSWER = 8 << 20  # bytes: a roster, whose quotation marks are escaped in it, and some more
_LARGEST_PEM = 64 << 10
_FORMAT = 1
_REQUEST = "enrolment request"
_ANSWER = "enrolment answer"
_SHOWN = 16  # bytes of a fingerprint


def fingerprint(public: bytes) -> str:
    """What two people compare by telephone: 8 groups of 4 hexadecimal digits.

    Args:
        public: A public key, or other public bytes.

    Returns:
        The first 128 bits of its SHA-256, as in `9f0c-...-77ab`.
    """
    digits = hashlib.sha256(public).digest()[:_SHOWN].hex()
    return "-".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def same_fingerprint(given: str, right: str) -> bool:
    """Whether a typed fingerprint is the right one, in constant time.

    Args:
        given: As a person types it: groups with hyphens, spaces, colons or nothing between them,
            in any case.
        right: From `fingerprint`.
    """
    digits = re.sub(r"[\s:-]", "", given).lower()
    return hmac.compare_digest(digits.encode(), right.replace("-", "").encode())


@dataclass(frozen=True)
class EnrolmentRequest:
    """What a hospital asks the coordinator to enter into the roster.

    Attributes:
        name: See `is_name`.
        identity: Ed25519 public key, 32 bytes.
        transport: EC P-384 public key, SubjectPublicKeyInfo in DER, 120 bytes.
    """

    name: str
    identity: bytes
    transport: bytes

    def __post_init__(self) -> None:
        """Refuse a request that cannot be, with ValueError."""
        if not is_name(self.name):
            raise ValueError(f"not a hospital's name: {self.name!r:.80}")
        if len(self.identity) != PUBLIC_SIZE:
            raise ValueError(f"an identity does not have {PUBLIC_SIZE} bytes")
        if not is_transport(self.transport):
            raise ValueError("the transport key is no public key on P-384")

    @property
    def fingerprint(self) -> str:
        """For the telephone; it covers the name and both keys, so an older request has another."""
        return fingerprint(framed(_REQUEST, self.name, self.identity, self.transport))


def sign_request(name: str, identity: Identity, transport: TransportKey) -> bytes:
    """A hospital's request as a document; the same keys give the same document.

    Raises:
        ValueError: The name is no hospital's name.
    """
    request = EnrolmentRequest(name, identity.public, transport.public)
    return write_signed(_request_body(request), _REQUEST, identity)


def read_request(document: bytes) -> EnrolmentRequest:
    """Check a request, as far as it can be without the telephone.

    Raises:
        BadRequest: It is larger than 4 KiB, malformed, not canonical, or no possible request.
        BadSignature: It is not signed by the identity in it.
    """
    try:
        body, signature = read_signed(document, largest=LARGEST_REQUEST)
        request = _parsed_request(body)
    except ValueError as error:
        raise _no_request(str(error)) from None
    if canonical(_request_body(request)) != canonical(body):
        raise _no_request("it has other keys than this version of fedward writes")
    verify(request.identity, _REQUEST, canonical(body), signature)
    return request


@dataclass(frozen=True)
class EnrolmentAnswer:
    """What a member needs to take part.

    Attributes:
        roster: The signed document of the roster.
        coordinator: The coordinator's public key, 32 bytes.
        ca: Certificate of the consortium's authority, PEM.
        address: Where the aggregator is reached, `host:port`.
        certificate: An aggregator's own certificate and those above it, PEM; a hospital has none.
    """

    roster: bytes
    coordinator: bytes
    ca: bytes
    address: str
    certificate: bytes = b""

    def __post_init__(self) -> None:
        """Refuse an answer that cannot be, with ValueError; signatures are not looked at."""
        if len(self.coordinator) != PUBLIC_SIZE:
            raise ValueError(f"a coordinator's key does not have {PUBLIC_SIZE} bytes")
        split_address(self.address)
        for pem in (self.ca, self.certificate):
            if len(pem) > _LARGEST_PEM or not pem.isascii():
                raise ValueError("a certificate is ASCII text of at most 64 KiB")
        if not self.ca:
            raise ValueError("the authority's certificate is missing")
        if not self.roster.isascii():
            raise ValueError("a roster's document is ASCII text")

    def read_roster(self) -> Roster:
        """The roster in it.

        Raises:
            BadRequest: It is no roster.
            BadSignature: The coordinator did not sign it.
        """
        return read_roster(self.roster, self.coordinator)


def sign_answer(answer: EnrolmentAnswer, coordinator: Identity) -> bytes:
    """The document of an answer.

    Raises:
        ValueError: It names another coordinator than the one who signs, or is larger than 8 MiB.
    """
    if answer.coordinator != coordinator.public:
        raise ValueError("an answer is signed by the coordinator that it names")
    document = write_signed(_answer_body(answer), _ANSWER, coordinator)
    if len(document) > LARGEST_ANSWER:
        raise ValueError("an answer's document cannot be larger than 8 MiB")
    return document


def claimed_coordinator(document: bytes) -> bytes:
    """The key that an answer says is the coordinator's, 32 bytes, for comparison by telephone.

    Nothing else of the answer is to be believed before that; then `read_answer` checks it.

    Raises:
        BadRequest: It is larger than 8 MiB, malformed, not canonical, or no possible answer.
    """
    return _parsed_answer(document)[0].coordinator


def read_answer(document: bytes, coordinator: bytes) -> EnrolmentAnswer:
    """Check an answer and the roster in it.

    Args:
        document: At most 8 MiB.
        coordinator: The coordinator's public key, 32 bytes, as compared by telephone.

    Raises:
        BadRequest: It is too large, malformed, not canonical, or no possible answer.
        BadSignature: The coordinator did not sign it, or not the roster in it.
    """
    answer, body, signature = _parsed_answer(document)
    verify(coordinator, _ANSWER, canonical(body), signature)
    if answer.coordinator != coordinator:
        raise _no_answer("it names another coordinator than the one who signed it")
    answer.read_roster()
    return answer


def _parsed_request(body: dict[str, object]) -> EnrolmentRequest:
    match body:
        case {"format": int(_), "identity": identity, "name": str(name), "transport": transport}:
            return EnrolmentRequest(
                name, unhex(identity, PUBLIC_SIZE), unhex(transport, TRANSPORT_SIZE)
            )
    raise ValueError("format, identity, name, signature and transport are wanted")


def _request_body(request: EnrolmentRequest) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "identity": request.identity.hex(),
        "name": request.name,
        "transport": request.transport.hex(),
    }


def _parsed_answer(document: bytes) -> tuple[EnrolmentAnswer, dict[str, object], bytes]:
    try:
        body, signature = read_signed(document, largest=LARGEST_ANSWER)
        answer = _answer_of(body)
    except ValueError as error:
        raise _no_answer(str(error)) from None
    if canonical(_answer_body(answer)) != canonical(body):
        raise _no_answer("it has other keys than this version of fedward writes")
    return answer, body, signature


def _answer_of(body: dict[str, object]) -> EnrolmentAnswer:
    match {"certificate": "", **body}:
        case {
            "address": str(address),
            "ca": str(ca),
            "certificate": str(certificate),
            "coordinator": coordinator,
            "roster": str(roster),
        }:
            return EnrolmentAnswer(
                roster.encode(),
                unhex(coordinator, PUBLIC_SIZE),
                ca.encode(),
                address,
                certificate.encode(),
            )
    raise ValueError("address, ca, coordinator, format, roster and signature are wanted")


def _answer_body(answer: EnrolmentAnswer) -> dict[str, object]:
    further = {"certificate": answer.certificate.decode()} if answer.certificate else {}
    return {
        "address": answer.address,
        "ca": answer.ca.decode(),
        "coordinator": answer.coordinator.hex(),
        "format": _FORMAT,
        "roster": answer.roster.decode(),
        **further,
    }


def _no_request(why: str) -> BadRequest:
    return BadRequest(
        f"not an enrolment request ({why:.200})",
        todo="ask the hospital for the file that `fedward hospital enroll` wrote",
    )


def _no_answer(why: str) -> BadRequest:
    return BadRequest(
        f"not an enrolment answer ({why:.200})",
        todo="ask the coordinator for the file that `fedward consortium` wrote",
    )
