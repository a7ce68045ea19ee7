"""A hospital's key for one run, and the signed advert that makes it known.

X25519 as in RFC 7748, section 6.1. The aggregator carries the adverts and cannot make one: each is
signed by an identity of the roster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedward.privacy.framing import framed, unframed
from fedward.privacy.identity import SIGNATURE_SIZE, Identity, verify
from fedward.privacy.key_file import read_key, unusable_key, write_key
from fedward.privacy.protocol_errors import BadAdvert, BadSignature
from fedward.privacy.roster import Roster, is_name
from fedward.study.errors import DataError

_PURPOSE = "advert"
_KEY_SIZE = 32
_LONGEST = 128  # characters of a study's digest, and of a run's name
_LARGEST = 2048  # bytes of a packed advert; the longest has 1540


@dataclass(frozen=True)
class Advert:
    """What a hospital makes known once per run; nothing of it is secret.

    Attributes:
        study: Digest of the study, 1 to 128 printable characters.
        run: Name of the run, 1 to 128 printable characters.
        hospital: Its name in the roster.
        public_key: X25519, 32 bytes.
        signature: Ed25519 over all of the above, 64 bytes.
    """

    study: str
    run: str
    hospital: str
    public_key: bytes
    signature: bytes


class RunKey:
    """One hospital's key agreement key for one run. Its repr shows the public half.

    Attributes:
        public: 32 bytes, for the advert.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public: bytes = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> RunKey:
        """A new key, from the operating system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def kept(cls, path: Path) -> RunKey:
        """The key in a file, made when it is first asked for.

        A run may outlive this process, and be answered by several at once: they all get one key.

        Raises:
            DataError: The file cannot be written, or is no such key of its owner's alone.
        """
        if not path.exists():
            try:
                write_key(path, X25519PrivateKey.generate())
            except DataError:
                if not path.exists():  # else another process was first, and its key holds
                    raise
        key = read_key(path)
        if not isinstance(key, X25519PrivateKey):
            raise unusable_key(path, "the key is of another kind than X25519")
        return cls(key)

    def agree(self, other_public: bytes) -> bytes:
        """The secret shared with another key's owner.

        Args:
            other_public: 32 bytes, from a checked advert.

        Returns:
            32 bytes, raw: only ever an input of the key schedule.

        Raises:
            BadAdvert: The key has another length or gives the all-zero secret (a point of small
                order; RFC 7748, section 6.1).
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(other_public))
        except ValueError:
            raise _bad("its key is no usable X25519 point") from None

    def __repr__(self) -> str:
        return f"RunKey(public={self.public.hex()})"


def make_advert(
    identity: Identity, run_key: RunKey, *, study: str, run: str, hospital: str
) -> Advert:
    """This hospital's advert for this run.

    Raises:
        ValueError: A name is empty, too long or not a name.
    """
    unsigned = Advert(study, run, hospital, run_key.public, bytes(SIGNATURE_SIZE))
    if fault := _fault(unsigned):
        raise ValueError(fault)
    signature = identity.sign(_PURPOSE, _signed(unsigned))
    return Advert(study, run, hospital, run_key.public, signature)


def check_advert(advert: Advert, roster: Roster, *, study: str, run: str) -> None:
    """Accept an advert by returning.

    Raises:
        BadAdvert: It is malformed, for another study or run, from nobody in the roster, or its
            signature is not that member's.
    """
    if fault := _fault(advert):
        raise _bad(fault)
    if (advert.study, advert.run) != (study, run):
        raise _bad(f"{advert.hospital} signed it for another study or run")
    if advert.hospital not in roster.members:
        raise _bad(f"{advert.hospital} is not in the roster")
    identity = roster.members[advert.hospital]
    try:
        verify(identity, _PURPOSE, _signed(advert), advert.signature)
    except BadSignature:
        raise _bad(f"the signature is not that of {advert.hospital}") from None


def pack(advert: Advert) -> bytes:
    """The advert as at most 2 KiB; `unpack` gives it back.

    Raises:
        ValueError: A field is malformed.
    """
    if fault := _fault(advert):
        raise ValueError(fault)
    return _signed(advert) + framed(advert.signature)


def unpack(packed: bytes) -> Advert:
    """The advert that was packed; `pack(unpack(p)) == p`. Its signature is not looked at.

    Raises:
        BadAdvert: It is not what `pack` gives.
    """
    if len(packed) > _LARGEST:
        raise _bad("it is too large")
    try:
        study, run, hospital, public_key, signature = unframed(packed)
        advert = Advert(study.decode(), run.decode(), hospital.decode(), public_key, signature)
    except ValueError:
        raise _bad("it is malformed") from None
    if fault := _fault(advert):
        raise _bad(fault)
    return advert


def _signed(advert: Advert) -> bytes:
    return framed(advert.study, advert.run, advert.hospital, advert.public_key)


def _fault(advert: Advert) -> str | None:
    for text in (advert.study, advert.run):
        if not (1 <= len(text) <= _LONGEST and text.isprintable()):
            return f"a study or run is not named by 1 to {_LONGEST} printable characters"
    if not is_name(advert.hospital):
        return "it names no possible hospital"
    if (len(advert.public_key), len(advert.signature)) != (_KEY_SIZE, SIGNATURE_SIZE):
        return "its key or signature has another length"
    return None


def _bad(why: str) -> BadAdvert:
    return BadAdvert(
        f"an advert cannot be trusted: {why}", todo="that hospital must advertise anew"
    )
