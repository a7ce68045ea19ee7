"""A hospital answers one honest request once; whatever else it is sent has its own named refusal.

After each refusal the honest request is answered, and gives the sum: nothing was used up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import numpy as np
import pytest

from fedward.privacy.advert import Advert, RunKey, make_advert
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import (
    BadAdvert,
    BadRequest,
    BadSeal,
    BadShare,
    ProtocolError,
    Replayed,
    TooFew,
)
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_hospital import Trust
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest
from fedward.privacy.shamir import SHARE_SIZE
from tests.privacy.conftest import (
    RUN,
    STUDY,
    Consortium,
    Words,
    fast_folder,
    plain_sum,
    random_words,
)

SIZE = 9
NAMES = "abcde"
LEFT = "abcd"  # e drops out; four are just enough
SMALL_ORDER = bytes([1]) + bytes(31)


class AdvertFields(TypedDict, total=False):
    study: str
    run: str
    hospital: str
    public_key: bytes
    signature: bytes


class AttemptFields(TypedDict, total=False):
    round: int
    attempt: int
    told: bytes
    adverts: tuple[Advert, ...]


@dataclass
class Scene:
    """The second attempt at round 3 among a to e, and what came of it."""

    consortium: Consortium
    attempt: Attempt
    data: Mapping[str, Words]
    masked: dict[str, Masked]

    def request(self, name: str = "a", survivors: str = LEFT) -> UnmaskRequest:
        shares = {sender: self.masked[sender].shares[name] for sender in survivors}
        return UnmaskRequest(self.attempt, tuple(survivors), shares)

    def mask_all(self, attempt: Attempt) -> dict[str, Masked]:
        return self.consortium.mask(attempt, self.data)

    def total(self) -> SecureSum:
        return SecureSum(self.attempt, size=SIZE, threshold=4)

    def finish(self) -> None:
        """The honest round from here on gives the sum."""
        total = self.total()
        for name in LEFT:
            total.add(name, self.masked[name])
        for name, request in total.unmask_requests().items():
            total.take(name, self.consortium[name].unmask(request))
        assert np.array_equal(total.total(), self.plain())

    def plain(self) -> Words:
        return plain_sum([self.data[name] for name in LEFT], SIZE)

    def entries(self, name: str = "a") -> bytes:
        """The journal as it lies on disk."""
        return self.consortium.journal_file(name).read_bytes()


@pytest.fixture
def invited() -> Iterator[Scene]:
    """Nobody has masked yet; a has once, for the first attempt."""
    with fast_folder() as folder:
        consortium = Consortium(folder, 5, Trust(0, 2))
        consortium.roster = replace(
            consortium.roster, members={**consortium.roster.members, "f": IDENTITY_OF_F.public}
        )
        data = {name: random_words(ord(name), SIZE) for name in NAMES}
        first = consortium.attempt(server_round=3)
        consortium.mask(first, {"a": data["a"]})
        yield Scene(consortium, consortium.attempt(server_round=3, number=2), data, {})


@pytest.fixture
def scene(invited: Scene) -> Scene:
    """All have masked, and e is late."""
    invited.masked = invited.mask_all(invited.attempt)
    return invited


IDENTITY_OF_F = Identity.generate()
KEY_OF_F = RunKey.generate()


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


# --- Requests to mask -----------------------------------------------------------------------------

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

FORGED_MASKS: dict[str, tuple[Forge, type[ProtocolError]]] = {
    **{name: (forge, BadAdvert) for name, forge in FORGED_ADVERTS.items()},
    "invited alone": (lambda s, a: without(a, 1, 2, 3, 4), TooFew),
    "the first attempt again": (lambda s, a: replace(a, attempt=1), Replayed),
    "the first attempt, told otherwise": (
        lambda s, a: replace(a, attempt=1, told=b"other"),
        Replayed,
    ),
    "the first attempt with fewer": (lambda s, a: replace(without(a, 4), attempt=1), Replayed),
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


def refuses_to_mask(scene: Scene, attempt: Attempt, kind: type[ProtocolError]) -> None:
    words, before = scene.data["a"].copy(), scene.entries()

    with pytest.raises(ProtocolError) as caught:
        scene.consortium["a"].mask(attempt, words)

    assert type(caught.value) is kind
    assert caught.value.what
    assert caught.value.todo
    assert np.array_equal(words, scene.data["a"])  # not masked for anybody
    assert scene.entries() == before


def then_all_goes_well(scene: Scene) -> None:
    scene.masked = scene.mask_all(scene.attempt)
    scene.finish()


@pytest.mark.parametrize("name", FORGED_MASKS)
def test_a_forged_request_to_mask_is_refused_by_name_and_uses_nothing_up(
    name: str, invited: Scene
) -> None:
    forge, kind = FORGED_MASKS[name]

    refuses_to_mask(invited, forge(invited, invited.attempt), kind)
    then_all_goes_well(invited)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused_and_use_nothing_up(name: str, invited: Scene) -> None:
    refuses_to_mask(invited, OUT_OF_RANGE[name](invited, invited.attempt), BadRequest)
    then_all_goes_well(invited)


def test_a_member_s_own_key_of_small_order_is_refused_and_uses_nothing_up(invited: Scene) -> None:
    """Signed by its owner, who wants a secret with everybody that all can guess."""
    key = RunKey.generate()
    key.public = SMALL_ORDER
    forged = with_advert(invited.attempt, 1, advert_of(invited, "b", key=key))

    refuses_to_mask(invited, forged, BadAdvert)
    then_all_goes_well(invited)


@pytest.mark.parametrize("bit", range(0, 8 * 96, 31))
def test_no_bit_of_an_advert_may_change(bit: int, invited: Scene) -> None:
    advert = invited.attempt.adverts[4]
    fields = bytearray(flipped(advert.public_key + advert.signature, bit))
    forged = with_change(
        invited.attempt, 4, public_key=bytes(fields[:32]), signature=bytes(fields[32:])
    )

    refuses_to_mask(invited, forged, BadAdvert)


def test_one_attempt_is_masked_once(scene: Scene) -> None:
    refuses_to_mask(scene, scene.attempt, Replayed)
    refuses_to_mask(scene, replace(scene.attempt, told=b"another model"), Replayed)
    refuses_to_mask(scene, without(scene.attempt, 4), Replayed)
    scene.finish()


def test_a_lower_attempt_after_a_higher_one_is_refused(scene: Scene) -> None:
    skipping = replace(scene.attempt, attempt=9)
    scene.consortium.mask(skipping, {"a": scene.data["a"]})

    for number in (1, 2, 3, 8, 9):
        refuses_to_mask(scene, replace(scene.attempt, attempt=number), Replayed)
    scene.finish()


def test_too_few_invited_for_the_study_s_terms(invited: Scene) -> None:
    with fast_folder() as folder:
        strict = Consortium(folder, 5, Trust(2, 3))
        words = random_words(1, SIZE)
        for some in ("a", "ab", "abcd"):
            with pytest.raises(TooFew):
                strict["a"].mask(strict.attempt(some), words)
        assert np.array_equal(words, random_words(1, SIZE))

        strict["a"].mask(strict.attempt(), words)


# --- Requests to unmask ---------------------------------------------------------------------------

ForgeAsk = Callable[[Scene, UnmaskRequest], UnmaskRequest]


def with_share(ask: UnmaskRequest, sender: str, share: bytes) -> UnmaskRequest:
    return replace(ask, shares={**ask.shares, sender: share})


def with_attempt(ask: UnmaskRequest, **changes: Unpack[AttemptFields]) -> UnmaskRequest:
    return replace(ask, attempt=replace(ask.attempt, **changes))


def of_another(scene: Scene, ask: UnmaskRequest, **changes: Unpack[AttemptFields]) -> UnmaskRequest:
    """With b's share of another context, which b did mask for; a never did."""
    folder = scene.consortium.folder
    fresh = folder / f"b.{len(list(folder.iterdir()))}.fresh"  # it may be told otherwise
    b = scene.consortium.hospital("b", fresh)
    other = b.mask(replace(scene.attempt, **changes), scene.data["b"].copy())
    return with_share(ask, "b", other.shares["a"])


FORGED_ASKS: dict[str, tuple[ForgeAsk, type[ProtocolError]]] = {
    # V is not a set of survivors that a hospital may unmask for
    "V with a member not invited": (
        lambda s, q: replace(q, survivors=(*LEFT, "f"), shares={**q.shares, "f": q.shares["b"]}),
        BadRequest,
    ),
    "V with nobody's name": (
        lambda s, q: replace(q, survivors=("a", "b", "c", "zz")),
        BadRequest,
    ),
    "V without the hospital": (lambda s, q: s.request("a", "bcde"), BadRequest),
    "V with one doubled": (lambda s, q: replace(q, survivors=(*LEFT, "b")), BadRequest),
    "V with one doubled to be enough": (
        lambda s, q: replace(s.request("a", "abc"), survivors=("a", "b", "c", "c")),
        BadRequest,
    ),
    "V empty": (lambda s, q: replace(q, survivors=(), shares={}), BadRequest),
    "V too small": (lambda s, q: s.request("a", "abc"), TooFew),
    "V of the hospital alone": (lambda s, q: s.request("a", "a"), TooFew),
    "V larger than the shares": (
        lambda s, q: replace(q, survivors=(*LEFT, "e")),
        BadRequest,
    ),
    "V smaller than the shares": (
        lambda s, q: replace(s.request("a", "abcde"), survivors=tuple(LEFT)),
        BadRequest,
    ),
    # shares
    "no shares": (lambda s, q: replace(q, shares={}), BadRequest),
    "a share missing": (
        lambda s, q: replace(q, shares={n: q.shares[n] for n in "abc"}),
        BadRequest,
    ),
    "own share missing": (
        lambda s, q: replace(q, shares={n: q.shares[n] for n in "bcd"}),
        BadRequest,
    ),
    "a share of one who dropped": (
        lambda s, q: with_share(q, "e", s.masked["e"].shares["a"]),
        BadRequest,
    ),
    "a share of a stranger": (lambda s, q: with_share(q, "zz", q.shares["b"]), BadRequest),
    "shares of two swapped": (
        lambda s, q: with_share(with_share(q, "b", q.shares["c"]), "c", q.shares["b"]),
        BadSeal,
    ),
    "own share for another's": (lambda s, q: with_share(q, "b", q.shares["a"]), BadSeal),
    "the dropped one's share for another's": (
        lambda s, q: with_share(q, "b", s.masked["e"].shares["a"]),
        BadSeal,
    ),
    "a share sealed for another": (
        lambda s, q: with_share(q, "b", s.masked["b"].shares["c"]),
        BadSeal,
    ),
    "a share sent back to its sender": (
        lambda s, q: with_share(q, "b", s.masked["a"].shares["b"]),
        BadSeal,
    ),
    "all shares of another's request": (
        lambda s, q: replace(q, shares=s.request("b").shares),
        BadSeal,
    ),
    "a share, first bit": (lambda s, q: with_share(q, "b", flipped(q.shares["b"])), BadSeal),
    "a share, last bit": (
        lambda s, q: with_share(q, "d", flipped(q.shares["d"], 8 * len(q.shares["d"]) - 1)),
        BadSeal,
    ),
    "own share, one bit": (lambda s, q: with_share(q, "a", flipped(q.shares["a"], 99)), BadSeal),
    "a share cut": (lambda s, q: with_share(q, "b", q.shares["b"][:-1]), BadSeal),
    "a share cut to nothing": (lambda s, q: with_share(q, "b", b""), BadSeal),
    "a share made longer": (lambda s, q: with_share(q, "b", q.shares["b"] + b"\0"), BadSeal),
    "a share of another attempt": (lambda s, q: of_another(s, q, attempt=3), BadSeal),
    "a share of another round": (lambda s, q: of_another(s, q, round=4), BadSeal),
    "a share of one told otherwise": (
        lambda s, q: of_another(s, q, attempt=3, told=b"other"),
        BadSeal,
    ),
    # the attempt is not the one that was masked for
    "another attempt": (lambda s, q: with_attempt(q, attempt=3), BadSeal),
    "the first attempt": (lambda s, q: with_attempt(q, attempt=1), BadSeal),
    "another round": (lambda s, q: with_attempt(q, round=4), BadSeal),
    "told otherwise": (lambda s, q: with_attempt(q, told=b"other"), BadSeal),
    "told nothing": (lambda s, q: with_attempt(q, told=b""), BadSeal),
    "fewer invited": (
        lambda s, q: replace(q, attempt=without(q.attempt, 4)),
        BadSeal,
    ),
    "one more invited": (
        lambda s, q: with_attempt(
            q,
            adverts=(
                *q.attempt.adverts,
                make_advert(IDENTITY_OF_F, KEY_OF_F, study=STUDY, run=RUN, hospital="f"),
            ),
        ),
        BadSeal,
    ),
    "another key of one who dropped": (
        lambda s, q: replace(q, attempt=with_advert(q.attempt, 4, advert_of(s, "e", key=KEY_OF_F))),
        BadSeal,
    ),
    "another key of a survivor": (
        lambda s, q: replace(q, attempt=with_advert(q.attempt, 1, advert_of(s, "b", key=KEY_OF_F))),
        BadSeal,
    ),
    **{
        f"advert: {name}": (
            lambda s, q, forge=forge: replace(q, attempt=forge(s, q.attempt)),  # type: ignore[misc]
            BadAdvert,
        )
        for name, forge in FORGED_ADVERTS.items()
    },
}


def refuses_to_unmask(scene: Scene, request: UnmaskRequest, kind: type[ProtocolError]) -> str:
    before = scene.entries()

    with pytest.raises(ProtocolError) as caught:
        scene.consortium["a"].unmask(request)

    assert type(caught.value) is kind
    assert caught.value.what
    assert caught.value.todo
    assert scene.entries() == before
    return caught.value.line()


@pytest.mark.parametrize("name", FORGED_ASKS)
def test_a_forged_request_to_unmask_is_refused_by_name_and_uses_nothing_up(
    name: str, scene: Scene
) -> None:
    forge, kind = FORGED_ASKS[name]

    refuses_to_unmask(scene, forge(scene, scene.request()), kind)
    scene.finish()


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_unmasking_numbers_out_of_range_is_refused(name: str, scene: Scene) -> None:
    request = replace(scene.request(), attempt=OUT_OF_RANGE[name](scene, scene.attempt))

    refuses_to_unmask(scene, request, BadRequest)
    scene.finish()


@pytest.mark.parametrize("sender", LEFT)
def test_the_refusal_says_whose_share_it_was(sender: str, scene: Scene) -> None:
    request = scene.request()
    said = refuses_to_unmask(scene, with_share(request, sender, bytes(64)), BadSeal)

    assert said.startswith(f"the share of {sender}: ")


def test_a_small_order_key_is_refused_when_unmasking(scene: Scene) -> None:
    key = RunKey.generate()
    key.public = SMALL_ORDER
    forged = with_advert(scene.attempt, 1, advert_of(scene, "b", key=key))

    refuses_to_unmask(scene, replace(scene.request(), attempt=forged), BadAdvert)
    scene.finish()


def test_unmasking_before_masking_is_refused(invited: Scene) -> None:
    """The others masked; there is no share of a's own that a could have sealed."""
    others = invited.consortium.mask(invited.attempt, {name: invited.data[name] for name in "bcde"})
    shares = {name: answer.shares["a"] for name, answer in others.items()}
    shares["a"] = shares.pop("e")
    request = UnmaskRequest(invited.attempt, tuple("abcd"), shares)

    refuses_to_unmask(invited, request, BadSeal)
    without_a = replace(request, survivors=tuple("bcd"), shares={n: shares[n] for n in "bcd"})
    refuses_to_unmask(invited, without_a, BadRequest)
    masked_late = invited.consortium.mask(invited.attempt, {"a": invited.data["a"]})
    invited.masked = {**others, **masked_late}
    invited.finish()


def test_what_is_not_in_the_journal_is_not_unmasked(scene: Scene) -> None:
    """A hospital whose journal was lost or exchanged does not trust its own seal alone."""
    lost = scene.consortium.hospital("a", scene.consortium.folder / "lost.journal")

    with pytest.raises(BadRequest, match="never masked here"):
        lost.unmask(scene.request())
    scene.finish()


def test_an_attempt_is_unmasked_for_one_set_of_survivors(scene: Scene) -> None:
    before = scene.consortium.twin("a")
    answer = scene.consortium["a"].unmask(scene.request())

    assert answer == before.unmask(scene.request())  # what it said is all that it would have said
    assert answer.self_shares.keys() == set(LEFT)
    assert answer.pair_seeds.keys() == {"e"}
    for survivors in ("abcde", "abce", "acde"):
        refuses_to_unmask(scene, scene.request("a", survivors), Replayed)
    reordered = replace(scene.attempt, adverts=scene.attempt.adverts[::-1])
    for same in (
        scene.request(),  # an answer can be lost on its way, and says nothing new the second time
        replace(scene.request(), survivors=tuple(reversed(LEFT))),
        replace(scene.request(), attempt=reordered),
    ):
        assert scene.consortium["a"].unmask(same) == answer


def test_after_an_answer_forged_requests_keep_their_names_and_rounds_go_on(scene: Scene) -> None:
    scene.consortium["a"].unmask(scene.request())

    for name, (forge, kind) in FORGED_ASKS.items():
        if kind is not Replayed:
            refuses_to_unmask(scene, forge(scene, scene.request()), kind)
        assert name
    scene.attempt = scene.consortium.attempt(server_round=4)
    then_all_goes_well(scene)


def test_an_earlier_attempt_is_unmasked_for_the_same_survivors_only(scene: Scene) -> None:
    """Requests out of order: the second attempt is unmasked, then the third, then the first."""
    third = replace(scene.attempt, attempt=3)
    masked = scene.consortium.mask(third, scene.data)
    scene.consortium["a"].unmask(scene.request())
    shares = {sender: masked[sender].shares["a"] for sender in LEFT}

    answer = scene.consortium["a"].unmask(UnmaskRequest(third, tuple(LEFT), shares))

    assert answer.pair_seeds.keys() == {"e"}
    assert answer.pair_seeds["e"] != b""
    others = {sender: masked[sender].shares["a"] for sender in "abce"}
    refuses_to_unmask(scene, UnmaskRequest(third, tuple("abce"), others), Replayed)


def test_an_answer_holds_each_hospital_once(scene: Scene) -> None:
    answer = scene.consortium["a"].unmask(scene.request())

    assert not answer.self_shares.keys() & answer.pair_seeds.keys()
    assert {len(share) for share in answer.self_shares.values()} == {SHARE_SIZE}
    assert {len(seed) for seed in answer.pair_seeds.values()} == {32}


def test_no_refusal_quotes_what_is_sealed_or_secret(scene: Scene) -> None:
    answer = scene.consortium.twin("a").unmask(scene.request())
    secrets = [*answer.self_shares.values(), *answer.pair_seeds.values()]
    for forge, kind in FORGED_ASKS.values():
        said = refuses_to_unmask(scene, forge(scene, scene.request()), kind)
        assert not any(secret.hex() in said or repr(secret)[2:-1] in said for secret in secrets)


# --- The aggregator -------------------------------------------------------------------------------


def sum_of(scene: Scene, some: str = LEFT) -> SecureSum:
    total = scene.total()
    for name in some:
        total.add(name, scene.masked[name])
    return total


FORGED_ADDS: dict[str, tuple[str, Callable[[Masked], Masked]]] = {
    "a stranger": ("zz", lambda m: m),
    "a member not invited": ("f", lambda m: m),
    "nobody": ("", lambda m: m),
    "one who answered": ("a", lambda m: m),
    "too short": ("d", lambda m: replace(m, words=m.words[:-1].copy())),
    "too long": ("d", lambda m: replace(m, words=np.append(m.words, m.words))),
    "empty": ("d", lambda m: replace(m, words=m.words[:0])),
    "one word for all": ("d", lambda m: replace(m, words=m.words[:1])),
    "a matrix": ("d", lambda m: replace(m, words=m.words.reshape(3, 3))),
    "no shares": ("d", lambda m: replace(m, shares={})),
    "a share missing": (
        "d",
        lambda m: replace(m, shares={n: m.shares[n] for n in "abcd"}),
    ),
    "own share missing": ("d", lambda m: replace(m, shares={n: m.shares[n] for n in "abce"})),
    "a share for a stranger": ("d", lambda m: replace(m, shares={**m.shares, "zz": b""})),
    "a share for a stranger instead": (
        "d",
        lambda m: replace(m, shares={**{n: m.shares[n] for n in "abcd"}, "zz": b""}),
    ),
}

WRONG_KINDS: dict[str, Callable[[Masked], Masked]] = {
    "bytes": lambda m: replace(m, words=m.words.astype(np.uint8)),
    "wide": lambda m: replace(m, words=m.words.astype(np.uint64)),
    "signed": lambda m: replace(m, words=m.words.view(np.int32)),
    "floats": lambda m: replace(m, words=m.words.astype(np.float32)),
}


@pytest.mark.parametrize("name", FORGED_ADDS)
def test_the_sum_takes_each_invited_hospital_once_and_whole(name: str, scene: Scene) -> None:
    who, change = FORGED_ADDS[name]
    total = sum_of(scene, "abc")
    before = total._words.copy()

    with pytest.raises(BadShare):
        total.add(who, change(scene.masked["d"]))

    assert total.survivors == tuple("abc")
    assert np.array_equal(total._words, before)
    total.add("d", scene.masked["d"])
    finish(scene, total)


@pytest.mark.parametrize("name", WRONG_KINDS)
def test_the_sum_takes_no_other_kind_of_words(name: str, scene: Scene) -> None:
    total = sum_of(scene, "abc")

    with pytest.raises(BadShare):
        total.add("d", WRONG_KINDS[name](scene.masked["d"]))

    total.add("d", scene.masked["d"])
    finish(scene, total)


def finish(scene: Scene, total: SecureSum, silent: str = "") -> None:
    for name, request in total.unmask_requests().items():
        if name not in silent:
            total.take(name, scene.consortium[name].unmask(request))
    assert np.array_equal(total.total(), scene.plain())


def test_the_sum_leaves_what_it_is_given_as_it_is(scene: Scene) -> None:
    before = {name: scene.masked[name].words.copy() for name in LEFT}
    finish(scene, sum_of(scene))

    assert all(np.array_equal(scene.masked[name].words, before[name]) for name in LEFT)


def test_who_comes_after_the_others_were_asked_is_too_late(scene: Scene) -> None:
    """Reordered: e's vector arrives when a was already asked about a to d."""
    total = sum_of(scene)
    requests = total.unmask_requests()
    total.take("a", scene.consortium["a"].unmask(requests["a"]))

    with pytest.raises(BadShare):
        total.add("e", scene.masked["e"])

    for name in "bcd":
        total.take(name, scene.consortium[name].unmask(requests[name]))
    assert np.array_equal(total.total(), scene.plain())


Answer = Callable[[Unmasking], Unmasking]

FORGED_ANSWERS: dict[str, tuple[str, Answer]] = {
    "a stranger": ("zz", lambda u: u),
    "one who dropped": ("e", lambda u: u),
    "one who answered": ("a", lambda u: u),
    "no shares": ("d", lambda u: replace(u, self_shares={})),
    "a share missing": (
        "d",
        lambda u: replace(u, self_shares={n: u.self_shares[n] for n in "abc"}),
    ),
    "a share too many": (
        "d",
        lambda u: replace(u, self_shares={**u.self_shares, "e": u.self_shares["a"]}),
    ),
    "a share of a stranger": (
        "d",
        lambda u: replace(u, self_shares={**u.self_shares, "zz": u.self_shares["a"]}),
    ),
    "no seeds": ("d", lambda u: replace(u, pair_seeds={})),
    "a seed too many": ("d", lambda u: replace(u, pair_seeds={**u.pair_seeds, "a": bytes(32)})),
    "a stranger's seed": ("d", lambda u: replace(u, pair_seeds={"zz": bytes(32)})),
}


@pytest.mark.parametrize("name", FORGED_ANSWERS)
def test_the_sum_takes_each_survivor_s_answer_once_and_whole(name: str, scene: Scene) -> None:
    who, change = FORGED_ANSWERS[name]
    total = sum_of(scene)
    requests = total.unmask_requests()
    answers = {name: scene.consortium[name].unmask(requests[name]) for name in LEFT}
    for other in "abc":
        total.take(other, answers[other])
    before = total._words.copy()

    with pytest.raises(BadShare):
        total.take(who, change(answers["d"]))

    assert np.array_equal(total._words, before)
    with pytest.raises(TooFew):
        total.total()
    total.take("d", answers["d"])
    assert np.array_equal(total.total(), scene.plain())


FALSE_SHARES: dict[str, Callable[[Mapping[str, bytes]], Mapping[str, bytes]]] = {
    "another value": lambda shares: {**shares, "b": flipped(shares["b"], 8 * SHARE_SIZE - 8)},
    "another place": lambda shares: {**shares, "b": flipped(shares["b"], 10)},
    "two swapped": lambda shares: {**shares, "b": shares["c"], "c": shares["b"]},
    "cut": lambda shares: {**shares, "b": shares["b"][:-1]},
    "empty": lambda shares: {**shares, "b": b""},
    "zeros": lambda shares: {**shares, "b": bytes(SHARE_SIZE)},
    "out of the field": lambda shares: {**shares, "b": shares["b"][:2] + b"\xff" * 33},
}


@pytest.mark.parametrize("liar", "ad")
@pytest.mark.parametrize("name", FALSE_SHARES)
def test_false_shares_are_noticed_and_leave_the_sum_alone(
    name: str, liar: str, scene: Scene
) -> None:
    total = sum_of(scene)
    for who, request in total.unmask_requests().items():
        answer = scene.consortium[who].unmask(request)
        if who == liar:
            answer = replace(answer, self_shares=FALSE_SHARES[name](answer.self_shares))
        total.take(who, answer)
    before = total._words.copy()

    for _ in range(2):
        with pytest.raises(BadShare):
            total.total()
        assert np.array_equal(total._words, before)
    scene.attempt = replace(scene.attempt, attempt=3)  # the same update once more
    then_all_goes_well(scene)


def test_a_false_commitment_is_noticed(scene: Scene) -> None:
    for false in (bytes(32), b"", scene.masked["c"].commitment):
        twins = {name: scene.consortium.twin(name) for name in LEFT}
        total = scene.total()
        for name in LEFT:
            masked = scene.masked[name]
            total.add(name, replace(masked, commitment=false) if name == "b" else masked)
        for name, request in total.unmask_requests().items():
            total.take(name, twins[name].unmask(request))
        before = total._words.copy()

        with pytest.raises(BadShare, match="shares of b are false"):
            total.total()
        assert np.array_equal(total._words, before)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed: bytes, scene: Scene) -> None:
    total = sum_of(scene)
    answers = {n: scene.consortium[n].unmask(ask) for n, ask in total.unmask_requests().items()}
    for name in "abc":
        total.take(name, answers[name])

    with pytest.raises(BadShare):
        total.take("d", replace(answers["d"], pair_seeds={"e": seed}))

    total.take("d", answers["d"])
    assert np.array_equal(total.total(), scene.plain())


def test_the_total_is_the_same_when_asked_again(scene: Scene) -> None:
    total = sum_of(scene)
    finish(scene, total)

    assert np.array_equal(total.total(), scene.plain())


def test_a_sum_of_nobody_is_too_few(scene: Scene) -> None:
    total = scene.total()

    with pytest.raises(TooFew):
        total.total()
    with pytest.raises(TooFew):
        total.unmask_requests()
    assert total.survivors == ()


def test_more_than_enough_answers_do_as_well(scene: Scene) -> None:
    """All five survived, and any four answers rebuild the self masks."""
    for silent in ("", *NAMES):
        total = sum_of(scene, NAMES)
        twins = {name: scene.consortium.twin(name) for name in NAMES}
        for name, request in total.unmask_requests().items():
            if name != silent:
                total.take(name, twins[name].unmask(request))
        assert np.array_equal(total.total(), plain_sum(scene.data.values(), SIZE))
