"""A hospital masks for one honest request; any other has its own named refusal.

After each refusal the honest request is answered, and gives the sum: nothing was used up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedward.privacy.advert import RunKey
from fedward.privacy.protocol_errors import BadAdvert, BadRequest, ProtocolError, Replayed, TooFew
from fedward.privacy.secure_hospital import Trust
from fedward.privacy.secure_messages import Attempt
from tests.privacy.conftest import Consortium, fast_folder, random_words
from tests.privacy.forgeries.forged_adverts import (
    FORGED_ADVERTS,
    OUT_OF_RANGE,
    SMALL_ORDER,
    Forge,
    advert_of,
    flipped,
    with_advert,
    with_change,
    without,
)
from tests.privacy.forgeries.second_attempt import SIZE, Scene, then_all_goes_well

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


def refuses_to_mask(scene: Scene, attempt: Attempt, kind: type[ProtocolError]) -> None:
    words, before = scene.data["a"].copy(), scene.entries()

    with pytest.raises(ProtocolError) as caught:
        scene.consortium["a"].mask(attempt, words)

    assert type(caught.value) is kind
    assert caught.value.what
    assert caught.value.todo
    assert np.array_equal(words, scene.data["a"])  # not masked for anybody
    assert scene.entries() == before


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
