"""Who belongs to the consortium: names and public identities, signed by its coordinator.

The document is JSON in one canonical form (sorted keys, no spaces, ASCII), so a roster has exactly
one document and one digest: `{"members":{"a":"<hex>"},"signature":"<hex>","version":1}`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from fedward.privacy.identity import PUBLIC_SIZE, SIGNATURE_SIZE, Identity, verify
from fedward.privacy.protocol_errors import BadRequest

_PURPOSE = "roster"
_LONGEST = 100  # characters of a name, as in hospital.toml
_LARGEST = 4 << 20  # bytes; room for tens of thousands of members


@dataclass(frozen=True)
class Roster:
    """The members of a consortium.

    Attributes:
        version: From 1; a higher version replaces a lower one.
        members: Name (see `is_name`) to Ed25519 public key, 32 bytes, no key twice: one hospital
            under two names would count for two.
    """

    version: int
    members: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Refuse a roster that cannot be, with ValueError; keep a copy of the members."""
        if type(self.version) is not int or not 1 <= self.version < 2**63:
            raise ValueError("the version of a roster is a whole number from 1")
        for name, key in self.members.items():
            if not is_name(name):
                raise ValueError(f"not a hospital's name: {name!r:.80}")
            if len(key) != PUBLIC_SIZE:
                raise ValueError(f"the public key of {name} does not have {PUBLIC_SIZE} bytes")
        if len(set(self.members.values())) != len(self.members):
            raise ValueError("two members have the same public key")
        object.__setattr__(self, "members", dict(self.members))


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
    document = _document(roster, coordinator.sign(_PURPOSE, _body(roster)))
    if len(document) > _LARGEST:
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
    if len(document) > _LARGEST:
        raise _malformed("it is larger than 4 MiB")
    try:
        roster, signature = _parsed(json.loads(document))
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from None
    if _document(roster, signature) != document:
        raise _malformed("it is not in the canonical form")
    verify(coordinator, _PURPOSE, _body(roster), signature)
    return roster


def _parsed(value: object) -> tuple[Roster, bytes]:
    match value:
        case {"members": dict(members), "signature": str(signature), "version": int(version)}:
            keys = {str(name): _unhex(key) for name, key in members.items()}
            return Roster(version, keys), _unhex(signature, SIGNATURE_SIZE)
    raise ValueError("members, signature and version are wanted")


def _unhex(text: object, size: int = PUBLIC_SIZE) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * size:
        raise ValueError(f"{size} bytes in hexadecimal are wanted")
    return bytes.fromhex(text)  # also takes what is not canonical, which is refused later


def _body(roster: Roster) -> bytes:
    members = {name: key.hex() for name, key in roster.members.items()}
    return _canonical({"members": members, "version": roster.version})


def _document(roster: Roster, signature: bytes) -> bytes:
    return _canonical({**json.loads(_body(roster)), "signature": signature.hex()})


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _malformed(why: str) -> BadRequest:
    return BadRequest(f"not a roster ({why:.200})", todo="ask the coordinator for the roster again")
