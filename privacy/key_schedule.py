"""Every secret of a round, from the run keys and what both ends know of the round.

HKDF-SHA256 (RFC 5869): the shared X25519 secret is the keying material, the round's context the
salt, and a label with both names the info. Two hospitals who were told different rounds derive
different secrets, so a lie of the aggregator gives noise.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedward.privacy.advert import Advert
from fedward.privacy.framing import framed

_SIZE = 32
_CONTEXT = "fedward/1/round context"
_PAIR = "fedward/1/pair mask"
_SEAL = "fedward/1/share seal"


def round_context(
    *,
    study: str,
    run: str,
    round: int,
    attempt: int,
    adverts: Iterable[Advert],
    told: bytes = b"",
) -> bytes:
    """What must be the same for all hospitals of one attempt at one round, as 32 bytes.

    SHA-256 over the framed fields: label, study, run, round and attempt (8 bytes each, big-endian),
    `told`, and for each hospital in the order of names its five advert fields.

    Args:
        study: Digest of the study.
        run: Name of the run.
        round: 0 <= round < 2**64.
        attempt: 0 <= attempt < 2**64.
        adverts: Of the invited hospitals, in any order, checked before.
        told: Digest of whatever else the aggregator must have told everybody alike: the model
            above all. A hospital that alone gets a live model would else stand alone in the sum
            (Pasquini et al. 2022, "Eluding secure aggregation via model inconsistency").

    Raises:
        ValueError: A number is out of range, there is no advert, or a hospital has two.
    """
    invited = sorted(adverts, key=lambda advert: advert.hospital)
    names = [advert.hospital for advert in invited]
    if not names or len(set(names)) != len(names):
        raise ValueError("one advert is wanted for each invited hospital")
    head = framed(_CONTEXT, study, run, _number(round), _number(attempt), told)
    return hashlib.sha256(head + b"".join(map(_advert, invited))).digest()


def pair_seed(shared: bytes, context: bytes, first: str, second: str) -> bytes:
    """Seed of the mask between two hospitals, the same from both ends, in either order of names.

    Args:
        shared: Their X25519 secret, 32 bytes.
        context: Of the round, 32 bytes.
        first: Name of one.
        second: Name of the other.

    Returns:
        32 bytes.

    Raises:
        ValueError: Both names are the same, or a length is wrong.
    """
    if first == second:
        raise ValueError("a hospital has no mask with itself")
    return _derive(shared, context, framed(_PAIR, *sorted((first, second))))


def seal_key(shared: bytes, context: bytes, sender: str, receiver: str) -> bytes:
    """Key of the shares that one hospital seals for another; each direction has its own.

    Args:
        shared: Their X25519 secret, 32 bytes; of a hospital with itself for its own share.
        context: Of the round, 32 bytes.
        sender: Who seals.
        receiver: Who opens; may be the sender.

    Returns:
        32 bytes.

    Raises:
        ValueError: A length is wrong.
    """
    return _derive(shared, context, framed(_SEAL, sender, receiver))


def self_seed() -> bytes:
    """A fresh seed for a hospital's own mask: 32 bytes of the operating system's randomness."""
    return secrets.token_bytes(_SIZE)


def _derive(shared: bytes, context: bytes, info: bytes) -> bytes:
    if len(shared) != _SIZE or len(context) != _SIZE:
        raise ValueError(f"the shared secret and the context have {_SIZE} bytes each")
    return HKDF(algorithm=SHA256(), length=_SIZE, salt=context, info=info).derive(shared)


def _advert(advert: Advert) -> bytes:
    names = (advert.study, advert.run, advert.hospital)
    return framed(*names, advert.public_key, advert.signature)


def _number(value: int) -> bytes:
    if not 0 <= value < 2**64:
        raise ValueError(f"rounds and attempts lie in [0, 2**64), and {value} does not")
    return value.to_bytes(8, "big")
