"""A hospital unmasks for one set of survivors; any other request has its own named refusal.

After each refusal the honest request is answered, and gives the sum: nothing was used up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict, Unpack

import pytest

from fedward.privacy.advert import Advert, RunKey, make_advert
from fedward.privacy.protocol_errors import (
    BadAdvert,
    BadRequest,
    BadSeal,
    ProtocolError,
    Replayed,
    TooFew,
)
from fedward.privacy.secure_messages import UnmaskRequest
from fedward.privacy.shamir import SHARE_SIZE
from tests.privacy.conftest import RUN, STUDY
from tests.privacy.forgeries.forged_adverts import (
    FORGED_ADVERTS,
    OUT_OF_RANGE,
    SMALL_ORDER,
    advert_of,
    flipped,
    with_advert,
    without,
)
from tests.privacy.forgeries.second_attempt import (
    IDENTITY_OF_F,
    KEY_OF_F,
    LEFT,
    Scene,
    then_all_goes_well,
)


class AttemptFields(TypedDict, total=False):
    round: int
    attempt: int
    told: bytes
    adverts: tuple[Advert, ...]


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
