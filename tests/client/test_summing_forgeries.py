"""Whoever tries what is possible learns nothing, costs nothing and breaks nothing.

Every message that does not hold together has a name of its own in the hospital's log, and one and
the same refusal on the wire. After each the honest attempt is answered and gives the same sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedward.privacy.advert import Advert, RunKey, make_advert, pack, unpack
from fedward.privacy.framing import framed
from fedward.privacy.identity import Identity
from fedward.study.messages import (
    Answer,
    Masked,
    Query,
    Refusal,
    Request,
    TrainRequest,
    UnmaskQuery,
    Words,
)
from fedward.study.wire import pack_answer
from tests.privacy.conftest import fast_folder
from tests.secure_sites import PRIVATE, Run, Sites, study_of

LEFT = "abc"  # d is always late; three of four are just enough
TRAININGS = dict.fromkeys("abcd", 3)  # of rounds 1 and 2, and of another run's round 1
SMALL_ORDER = bytes([1]) + bytes(31)
STRANGER = Identity.generate()
STRANGERS_KEY = RunKey.generate()


@dataclass
class Scene:
    """Round 1 is over; round 2 is asked again and again, and forgeries come in between.

    Attributes:
        run: The run that all this happens in.
        other: Another run of the same study.
        request: The latest honest request for round 2.
        masked: What was answered to it.
        sum: Over a, b and c, in every attempt.
        older: Round 1's request and answers, and round 2's first ones.
    """

    run: Run
    other: Run
    request: TrainRequest
    masked: dict[str, Masked]
    sum: Words
    older: dict[int, tuple[TrainRequest, dict[str, Masked]]] = field(default_factory=dict)

    def attempt(self) -> Words:
        """The next honest attempt at round 2, which everybody helps with."""
        assert self.request.invitation is not None
        self.request = self.run.train(2, attempt=self.request.invitation.attempt + 1)
        self.masked = self.run.mask(self.request)
        left = {name: self.masked[name] for name in LEFT}
        return self.run.open(self.request, left)

    def next(self) -> TrainRequest:
        """The request that an honest aggregator would send next."""
        assert self.request.invitation is not None
        return self.run.train(2, attempt=self.request.invitation.attempt + 1)

    def query(self, survivors: str = LEFT, holder: str = "a") -> UnmaskQuery:
        """What an honest aggregator would ask after the latest attempt."""
        return self.run.queries(self.request, self.masked, survivors)[holder]

    def memory(self) -> tuple[object, ...]:
        """What it cost so far."""
        return (self.run.sites.charges(), [self.run.sites.masked(name) for name in "abcd"])

    def identity(self, name: str) -> Identity:
        """A member's real identity, for a member that lies."""
        return Identity.load(self.run.sites.files[name].parent / "identity.pem")

    def signed(self, name: str, public: RunKey | None = None, **terms: str) -> bytes:
        """An advert that a member really signed, with another key or other terms."""
        given = {"study": self.run.study.digest(), "run": self.run.name, **terms}
        key = public or STRANGERS_KEY
        return pack(make_advert(self.identity(name), key, hospital=name, **given))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Four hospitals, whose every training is charged."""
    study = study_of(privacy=PRIVATE, participation={"hospitals": 4, "min_hospitals": 3})
    with fast_folder() as folder:
        sites = Sites(folder, study)
        run, other = Run(sites, study), Run(sites, study, "run-2")
        first = run.train(1)
        masked = run.mask(first)
        run.open(first, masked)
        request = run.train(2)
        answers = run.mask(request)
        summed = run.open(request, {name: answers[name] for name in LEFT})
        other.mask(other.train(1))
        older = {1: (first, masked), 2: (request, answers)}
        found = Scene(run, other, request, answers, summed, older)
        found.attempt()
        yield found


def wire(answer: Answer) -> bytes:
    """An answer's terms as the bytes that leave the hospital."""
    assert isinstance(answer, Refusal), answer
    terms = pack_answer(answer).config_records["terms"]
    assert isinstance(terms, ConfigRecord)
    return terms.deflate()


def flipped(value: bytes, place: int = 0) -> bytes:
    changed = bytearray(value)
    changed[place] ^= 1
    return bytes(changed)


def check(
    scene: Scene, message: Request | Query, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is refused under this name, costs nothing, and the honest attempt still works."""
    site, before = scene.run.sites["a"], scene.memory()
    caplog.clear()

    answer = site.answer(lambda: message)

    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [name]
    assert scene.memory() == before
    nothing = replace(scene.next(), round=0)
    assert wire(answer) == wire(site.answer(lambda: nothing))
    assert np.array_equal(scene.attempt(), scene.sum)
    assert scene.run.sites.charges() == TRAININGS


def test_the_honest_round_is_opened_again_and_again(scene: Scene) -> None:
    for _ in range(3):
        assert np.array_equal(scene.attempt(), scene.sum)

    assert scene.run.sites.charges() == TRAININGS


def test_the_refusal_names_nobody_and_nothing(scene: Scene) -> None:
    answer = scene.run.sites["a"].answer(lambda: replace(scene.next(), round=0))

    assert answer == Refusal(
        "a", "ProtocolError", "the secure sum's protocol was not kept to", "see its own log"
    )


# --- Requests to mask -----------------------------------------------------------------------------

Forge = Callable[[Scene, TrainRequest], TrainRequest]


def invited(request: TrainRequest) -> tuple[bytes, ...]:
    assert request.invitation is not None
    return request.invitation.adverts


def with_adverts(request: TrainRequest, *adverts: bytes) -> TrainRequest:
    assert request.invitation is not None
    return replace(request, invitation=replace(request.invitation, adverts=adverts))


def with_second(request: TrainRequest, packed: bytes) -> TrainRequest:
    """The request with another advert in b's place."""
    own, _, *others = invited(request)
    return with_adverts(request, own, packed, *others)


def with_own(request: TrainRequest, packed: bytes) -> TrainRequest:
    return with_adverts(request, packed, *invited(request)[1:])


def raw(advert: Advert) -> bytes:
    """Any fields at all, as an advert is packed."""
    terms = framed(advert.study, advert.run, advert.hospital, advert.public_key)
    return terms + framed(advert.signature)


def changed(request: TrainRequest, **changes: object) -> TrainRequest:
    """The request with b's advert changed."""
    return with_second(request, raw(replace(unpack(invited(request)[1]), **changes)))  # type: ignore[arg-type]


def swapped(request: TrainRequest, what: str) -> TrainRequest:
    own, *others = invited(request)
    b, c, d = map(unpack, others)
    mixed = replace(b, **{what: getattr(c, what)}), replace(c, **{what: getattr(b, what)})
    return with_adverts(request, own, *map(raw, mixed), raw(d))


def b_of(request: TrainRequest) -> Advert:
    return unpack(invited(request)[1])


FORGED_ADVERTS: dict[str, Forge] = {
    "nothing": lambda s, r: with_second(r, b""),
    "noise": lambda s, r: with_second(r, b"\x00\xff" * 90),
    "cut short": lambda s, r: with_second(r, invited(r)[1][:-1]),
    "cut in half": lambda s, r: with_second(r, invited(r)[1][:90]),
    "one byte more": lambda s, r: with_second(r, invited(r)[1] + b"\x00"),
    "too long": lambda s, r: with_second(r, invited(r)[1] + framed(bytes(2048))),
    "first byte": lambda s, r: with_second(r, flipped(invited(r)[1])),
    "last byte": lambda s, r: with_second(r, flipped(invited(r)[1], -1)),
    "key changed": lambda s, r: changed(r, public_key=flipped(b_of(r).public_key)),
    "key cut": lambda s, r: changed(r, public_key=b_of(r).public_key[:-1]),
    "the aggregator's key": lambda s, r: changed(r, public_key=STRANGERS_KEY.public),
    "no usable point, unsigned": lambda s, r: changed(r, public_key=SMALL_ORDER),
    "signature changed": lambda s, r: changed(r, signature=flipped(b_of(r).signature)),
    "signature cut": lambda s, r: changed(r, signature=b_of(r).signature[:-1]),
    "signature missing": lambda s, r: changed(r, signature=b""),
    "name of nobody": lambda s, r: changed(r, hospital="zz"),
    "name impossible": lambda s, r: changed(r, hospital=" b"),
    "run renamed": lambda s, r: changed(r, run="run-2"),
    "study renamed": lambda s, r: changed(r, study="5e" * 32),
    "keys of two swapped": lambda s, r: swapped(r, "public_key"),
    "names of two swapped": lambda s, r: swapped(r, "hospital"),
    "signatures of two swapped": lambda s, r: swapped(r, "signature"),
    "of another run": lambda s, r: with_second(r, s.other.adverts["b"]),
    "of another study": lambda s, r: with_second(r, s.signed("b", study="5e" * 32)),
    "signed by a stranger": lambda s, r: with_second(
        r,
        pack(
            make_advert(STRANGER, STRANGERS_KEY, study=r.study, run=r.run, hospital="b"),
        ),
    ),
    "signed by another member": lambda s, r: with_second(
        r,
        pack(make_advert(s.identity("c"), STRANGERS_KEY, study=r.study, run=r.run, hospital="b")),
    ),
    "a member twice": lambda s, r: with_second(r, invited(r)[2]),
    "a member with two keys": lambda s, r: with_second(r, s.signed("c")),
    "its own twice": lambda s, r: with_second(r, invited(r)[0]),
    "its own missing": lambda s, r: with_adverts(r, *invited(r)[1:]),
    "its own with another key": lambda s, r: with_own(r, s.signed("a")),
    "its own of another run": lambda s, r: with_own(r, s.other.adverts["a"]),
    "all of another run": lambda s, r: with_adverts(r, *s.other.adverts.values()),
}


@pytest.mark.parametrize("fresh", [False, True], ids=["asked again", "asked first"])
@pytest.mark.parametrize("what", FORGED_ADVERTS)
def test_a_forged_advert_is_refused_before_any_work(
    what: str, fresh: bool, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    honest = scene.run.train(3) if fresh else scene.next()

    check(scene, FORGED_ADVERTS[what](scene, honest), "BadAdvert", caplog)


def with_attempt(request: TrainRequest, number: int) -> TrainRequest:
    assert request.invitation is not None
    return replace(request, invitation=replace(request.invitation, attempt=number))


LIES: dict[str, tuple[str, Forge]] = {
    "nobody is invited": ("BadAdvert", lambda s, r: with_adverts(r)),
    "it alone is invited": ("TooFew", lambda s, r: with_adverts(r, invited(r)[0])),
    "one more than there are": (
        "BadRequest",
        lambda s, r: with_adverts(r, *invited(r), invited(r)[1]),
    ),
    "round 0": ("BadRequest", lambda s, r: replace(r, round=0)),
    "a round beyond all numbers": ("BadRequest", lambda s, r: replace(r, round=2**63)),
    "attempt 0": ("BadRequest", lambda s, r: with_attempt(r, 0)),
    "an attempt beyond all numbers": ("BadRequest", lambda s, r: with_attempt(r, 2**63)),
    "the attempt that was answered": ("Replayed", lambda s, r: s.request),
    "the first attempt": ("Replayed", lambda s, r: s.older[2][0]),
    "fewer than in the first attempt": (
        "Replayed",
        lambda s, r: with_adverts(r, *invited(r)[:3]),
    ),
    "the first attempt, of fewer": (
        "Replayed",
        lambda s, r: with_attempt(with_adverts(r, *invited(r)[:3]), 1),
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_an_impossible_or_repeated_attempt_is_refused(
    what: str, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    name, forge = LIES[what]

    check(scene, forge(scene, scene.next()), name, caplog)


def test_a_request_to_judge_is_held_to_the_same_rules(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    honest = scene.run.evaluate("validation")
    assert honest.invitation is not None
    adverts = honest.invitation.adverts
    forged = replace(honest.invitation, adverts=(adverts[0], scene.other.adverts["b"]))

    check(scene, replace(honest, invitation=forged), "BadAdvert", caplog)


# --- Requests to unmask ---------------------------------------------------------------------------

ForgeQuery = Callable[[Scene, UnmaskQuery], UnmaskQuery]


def shares(query: UnmaskQuery, **changes: bytes) -> UnmaskQuery:
    return replace(query, shares={**query.shares, **changes})


def without(shares_of: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    return {sender: share for sender, share in shares_of.items() if sender != name}


def for_adverts(query: UnmaskQuery, *adverts: bytes) -> UnmaskQuery:
    return replace(query, invitation=replace(query.invitation, adverts=adverts))


def for_attempt(query: UnmaskQuery, number: int) -> UnmaskQuery:
    return replace(query, invitation=replace(query.invitation, attempt=number))


FORGED_QUERIES: dict[str, tuple[str, ForgeQuery]] = {
    "an advert changed": (
        "BadAdvert",
        lambda s, q: for_adverts(
            q,
            q.invitation.adverts[0],
            flipped(q.invitation.adverts[1], -1),
            *q.invitation.adverts[2:],
        ),
    ),
    "an advert of another run": (
        "BadAdvert",
        lambda s, q: for_adverts(q, *q.invitation.adverts[:3], s.other.adverts["d"]),
    ),
    "an advert less": ("BadSeal", lambda s, q: for_adverts(q, *q.invitation.adverts[:3])),
    "an advert with another key": (
        "BadSeal",
        lambda s, q: for_adverts(q, *q.invitation.adverts[:3], s.signed("d")),
    ),
    "an attempt that never was": ("BadRequest", lambda s, q: for_attempt(q, 10**6)),
    "a round that never was": ("BadRequest", lambda s, q: replace(q, round=3)),
    "a run that never was": ("BadRequest", lambda s, q: replace(q, run="run-9")),
    "another run": ("BadRequest", lambda s, q: replace(q, run="run-2")),
    "another attempt's shares": ("BadSeal", lambda s, q: for_attempt(q, 1)),
    "the round before": ("BadSeal", lambda s, q: for_attempt(replace(q, round=1), 1)),
    "a stranger survived": (
        "BadRequest",
        lambda s, q: replace(q, survivors=(*LEFT, "zz"), shares={**q.shares, "zz": b"x"}),
    ),
    "a survivor twice": ("BadRequest", lambda s, q: replace(q, survivors=(*LEFT, "b"))),
    "it did not survive itself": (
        "BadRequest",
        lambda s, q: replace(q, survivors=("b", "c", "d")),
    ),
    "too few survived": (
        "TooFew",
        lambda s, q: replace(q, survivors=("a", "b"), shares=without(q.shares, "c")),
    ),
    "nobody survived": ("BadRequest", lambda s, q: replace(q, survivors=(), shares={})),
    "a share missing": ("BadRequest", lambda s, q: replace(q, shares=without(q.shares, "b"))),
    "a share too many": ("BadRequest", lambda s, q: shares(q, d=s.masked["d"].shares["a"])),
    "its own share missing": ("BadRequest", lambda s, q: replace(q, shares=without(q.shares, "a"))),
    "a share changed": ("BadSeal", lambda s, q: shares(q, b=flipped(q.shares["b"]))),
    "a share's end changed": ("BadSeal", lambda s, q: shares(q, b=flipped(q.shares["b"], -1))),
    "a share cut short": ("BadSeal", lambda s, q: shares(q, b=q.shares["b"][:-1])),
    "a share made longer": ("BadSeal", lambda s, q: shares(q, b=q.shares["b"] + b"\x00")),
    "an empty share": ("BadSeal", lambda s, q: shares(q, b=b"")),
    "shares of two swapped": (
        "BadSeal",
        lambda s, q: shares(q, b=q.shares["c"], c=q.shares["b"]),
    ),
    "a share for another": ("BadSeal", lambda s, q: shares(q, b=s.masked["b"].shares["c"])),
    "a share of its own sending": ("BadSeal", lambda s, q: shares(q, b=s.masked["a"].shares["b"])),
    "a share of the round before": (
        "BadSeal",
        lambda s, q: shares(q, b=s.older[1][1]["b"].shares["a"]),
    ),
    "a share of an earlier attempt": (
        "BadSeal",
        lambda s, q: shares(q, b=s.older[2][1]["b"].shares["a"]),
    ),
    "everybody survived after all": ("Replayed", lambda s, q: s.query("abcd")),
    "others survived after all": ("Replayed", lambda s, q: s.query("abd")),
}


@pytest.mark.parametrize("what", FORGED_QUERIES)
def test_a_forged_question_is_refused_and_nothing_is_given_away(
    what: str, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    name, forge = FORGED_QUERIES[what]

    check(scene, forge(scene, scene.query()), name, caplog)


def test_a_new_attempt_does_not_free_a_hospital_from_its_survivors(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Two sums of the same updates, over different hospitals, subtract to a single one."""
    scene.request = scene.next()
    scene.masked = scene.run.mask(scene.request)

    for survivors in ("abcd", "abd", "acd"):
        check(scene, scene.query(survivors), "Replayed", caplog)
