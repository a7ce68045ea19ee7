"""Who belongs to the consortium: names and public identities, signed by its coordinator.

The document is JSON in one canonical form (sorted keys, no spaces, ASCII), so a roster has exactly
one document and one digest: `{"members":{"a":"<hex>"},"signature":"<hex>","version":1}`. Members
that connect over a network have a second key each, under `transports`; in a simulation there are
none, and then the document has no such key.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedward.privacy import transport
from fedward.privacy.identity import PUBLIC_SIZE, Identity, verify
from fedward.privacy.protocol_errors import BadRequest
from fedward.privacy.signed_json import canonical, read_signed, unhex, write_signed

_PURPOSE = "roster"
_LONGEST = 100  # characters of a name, as in hospital.toml
LARGEST_ROSTER = 4 << 20  # bytes; room for tens of thousands of members


@dataclass(frozen=True)
class Roster:
    """The members of a consortium.

    Attributes:
        version: From 1; a higher version replaces a lower one.
        members: Name (see `is_name`) to Ed25519 public key, 32 bytes, no key twice: one hospital
            under two names would count for two.
        transports: Name of a member to its public transport key (EC P-384, SubjectPublicKeyInfo in
            DER, 120 bytes), no key twice. A member without one cannot connect.
    """

    version: int
    members: Mapping[str, bytes]
    transports: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a roster that cannot be, with ValueError; keep copies of the members and keys."""
        if type(self.version) is not int or not 1 <= self.version < 2**63:
            raise ValueError("the version of a roster is a whole number from 1")
        for name, key in self.members.items():
            if not is_name(name):
                raise ValueError(f"not a hospital's name: {name!r:.80}")
            if len(key) != PUBLIC_SIZE:
                raise ValueError(f"the public key of {name} does not have {PUBLIC_SIZE} bytes")
        if len(set(self.members.values())) != len(self.members):
            raise ValueError("two members have the same public key")
        self._refuse_impossible_transports()
        object.__setattr__(self, "members", dict(self.members))
        object.__setattr__(self, "transports", dict(self.transports))

    def _refuse_impossible_transports(self) -> None:
        for name, key in self.transports.items():
            if name not in self.members:
                raise ValueError(f"a transport key of {name!r:.80}, who is no member")
            if not transport.is_transport(key):
                raise ValueError(f"the transport key of {name} is no public key on P-384")
        if len(set(self.transports.values())) != len(self.transports):
            raise ValueError("two members have the same transport key")


def is_name(text: str) -> bool:
    """Whether this can be a hospital's name: 1 to 100 printable characters, in Unicode's NFC.

    Two names can then not look alike through invisible or differently composed characters.
    """
    fits = 1 <= len(text) <= _LONGEST and text.isprintable() and text == text.strip()
    return fits and unicodedata.is_normalized("NFC", text)


def sign_roster(roster: Roster, coordinator: Identity) -> bytes:
    """The signed document, UTF-8; `read_roster` gives the same roster again.

    Raises:
        ValueError: The document would be larger than 4 MiB.
    """
    document = write_signed(_body(roster), _PURPOSE, coordinator)
    if len(document) > LARGEST_ROSTER:
        raise ValueError("a roster's document cannot be larger than 4 MiB")
    return document


def read_roster(document: bytes, coordinator: bytes) -> Roster:
    """Check a document and take the roster out of it.

    Args:
        document: At most 4 MiB; looked at no further if it is larger.
        coordinator: The coordinator's public key, 32 bytes, as pinned.

    Raises:
        BadRequest: It is too large, malformed, not canonical, or no possible roster.
        BadSignature: The coordinator did not sign it.
    """
    try:
        body, signature = read_signed(document, largest=LARGEST_ROSTER)
        roster = _parsed(body)
    except ValueError as error:
        raise _malformed(str(error)) from None
    if canonical(_body(roster)) != canonical(body):
        raise _malformed("it has more keys than a roster")
    verify(coordinator, _PURPOSE, canonical(body), signature)
    return roster


def _parsed(body: dict[str, object]) -> Roster:
    match {"transports": {}, **body}:
        case {"members": dict(members), "version": int(version), "transports": dict(transports)}:
            return Roster(
                version, _keys(members, PUBLIC_SIZE), _keys(transports, transport.PUBLIC_SIZE)
            )
    raise ValueError("members, signature and version are wanted")


def _keys(named: dict[str, object], size: int) -> dict[str, bytes]:
    return {name: unhex(key, size) for name, key in named.items()}


def _body(roster: Roster) -> dict[str, object]:
    members = {name: key.hex() for name, key in roster.members.items()}
    transports = {name: key.hex() for name, key in roster.transports.items()}
    further = {"transports": transports} if transports else {}
    return {"members": members, "version": roster.version, **further}


def _malformed(why: str) -> BadRequest:
    return BadRequest(f"not a roster ({why:.200})", todo="ask the coordinator for the roster again")
