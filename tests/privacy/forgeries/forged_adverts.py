"""An attempt in which one thing is forged: an advert, or a number out of its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict, Unpack

from fedward.privacy.advert import Advert, RunKey, make_advert
from fedward.privacy.identity import Identity
from fedward.privacy.secure_messages import Attempt
from tests.privacy.conftest import RUN, STUDY
from tests.privacy.forgeries.second_attempt import IDENTITY_OF_F, KEY_OF_F, Scene

SMALL_ORDER = bytes([1]) + bytes(31)


class AdvertFields(TypedDict, total=False):
    study: str
    run: str
    hospital: str
    public_key: bytes
    signature: bytes


def advert_of(
    scene: Scene, name: str, *, study: str = STUDY, run: str = RUN, key: RunKey | None = None
) -> Advert:
    """An advert that this member really signed, with other terms."""
    identity, used = scene.consortium.identities[name], key or scene.consortium.keys[name]
    return make_advert(identity, used, study=study, run=run, hospital=name)


def with_advert(attempt: Attempt, at: int, advert: Advert) -> Attempt:
    adverts = [*attempt.adverts]
    adverts[at] = advert
    return replace(attempt, adverts=tuple(adverts))


def with_change(attempt: Attempt, at: int, **changes: Unpack[AdvertFields]) -> Attempt:
    return with_advert(attempt, at, replace(attempt.adverts[at], **changes))


def without(attempt: Attempt, *places: int) -> Attempt:
    kept = tuple(advert for at, advert in enumerate(attempt.adverts) if at not in places)
    return replace(attempt, adverts=kept)


def flipped(value: bytes, bit: int = 0) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


Forge = Callable[[Scene, Attempt], Attempt]

FORGED_ADVERTS: dict[str, Forge] = {
    "key, first bit": lambda s, a: with_change(a, 1, public_key=flipped(a.adverts[1].public_key)),
    "key, last bit": lambda s, a: with_change(
        a, 1, public_key=flipped(a.adverts[1].public_key, 255)
    ),
    "key cut": lambda s, a: with_change(a, 1, public_key=a.adverts[1].public_key[:-1]),
    "key empty": lambda s, a: with_change(a, 1, public_key=b""),
    "signature, first bit": lambda s, a: with_change(
        a, 1, signature=flipped(a.adverts[1].signature)
    ),
    "signature, last bit": lambda s, a: with_change(
        a, 1, signature=flipped(a.adverts[1].signature, 511)
    ),
    "signature cut": lambda s, a: with_change(a, 1, signature=a.adverts[1].signature[:-1]),
    "signature missing": lambda s, a: with_change(a, 1, signature=b""),
    "name of another": lambda s, a: with_change(a, 1, hospital="f"),
    "name of nobody": lambda s, a: with_change(a, 1, hospital="zz"),
    "name impossible": lambda s, a: with_change(a, 1, hospital=" b"),
    "study changed": lambda s, a: with_change(a, 1, study="5e" * 32),
    "run changed": lambda s, a: with_change(a, 1, run="run-2"),
    "signed for another study": lambda s, a: with_advert(a, 1, advert_of(s, "b", study="5e" * 32)),
    "signed for another run": lambda s, a: with_advert(a, 1, advert_of(s, "b", run="run-2")),
    "signed by another member": lambda s, a: with_advert(
        a, 1, make_advert(IDENTITY_OF_F, KEY_OF_F, study=STUDY, run=RUN, hospital="b")
    ),
    "signed by a stranger": lambda s, a: with_advert(
        a, 1, make_advert(Identity.generate(), KEY_OF_F, study=STUDY, run=RUN, hospital="zz")
    ),
    "keys of two swapped": lambda s, a: with_change(
        with_change(a, 1, public_key=a.adverts[2].public_key),
        2,
        public_key=a.adverts[1].public_key,
    ),
    "signatures of two swapped": lambda s, a: with_change(
        with_change(a, 1, signature=a.adverts[2].signature), 2, signature=a.adverts[1].signature
    ),
    "the aggregator's key": lambda s, a: with_change(a, 1, public_key=KEY_OF_F.public),
    "no usable point": lambda s, a: with_change(a, 1, public_key=SMALL_ORDER),
    "one advert twice": lambda s, a: replace(a, adverts=(*a.adverts, a.adverts[1])),
    "one hospital with two keys": lambda s, a: replace(
        a, adverts=(*a.adverts, advert_of(s, "b", key=KEY_OF_F))
    ),
    "own advert twice": lambda s, a: replace(a, adverts=(*a.adverts, a.adverts[0])),
    "own advert missing": lambda s, a: without(a, 0),
    "own advert with another key": lambda s, a: with_advert(a, 0, advert_of(s, "a", key=KEY_OF_F)),
    "own advert of an earlier run": lambda s, a: with_advert(a, 0, advert_of(s, "a", run="run-0")),
    "own name, another's advert": lambda s, a: with_change(a, 0, hospital="b"),
    "own key, another's name": lambda s, a: replace(
        without(a, 0, 1),
        adverts=(advert_of(s, "b", key=s.consortium.keys["a"]), *a.adverts[2:]),
    ),
    "no adverts": lambda s, a: replace(a, adverts=()),
    "another study, adverts as they are": lambda s, a: replace(a, study="5e" * 32),
    "another run, adverts as they are": lambda s, a: replace(a, run="run-2"),
    "empty study": lambda s, a: replace(a, study=""),
    "a run, all adverts of it, own key of another": lambda s, a: replace(
        a,
        run="run-2",
        adverts=(
            advert_of(s, "a", run="run-2", key=KEY_OF_F),
            *s.consortium.adverts("bcde", run="run-2"),
        ),
    ),
}

OUT_OF_RANGE: dict[str, Forge] = {
    "attempt 0": lambda s, a: replace(a, attempt=0),
    "attempt -1": lambda s, a: replace(a, attempt=-1),
    "attempt 2**63": lambda s, a: replace(a, attempt=2**63),
    "attempt 2**64": lambda s, a: replace(a, attempt=2**64),
    "round -1": lambda s, a: replace(a, round=-1),
    "round 2**63": lambda s, a: replace(a, round=2**63),
    "round 2**64": lambda s, a: replace(a, round=2**64),
}
