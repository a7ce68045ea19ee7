"""Secure sums among neighbours: the plain sum, whoever drops out, as long as enough are near."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.neighbours import closed_neighbourhoods, ring_of
from fedward.privacy.protocol_errors import BadRequest, BadShare, Replayed, TooFew
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_hospital import Trust
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest
from tests.privacy.conftest import (
    Consortium,
    Nearby,
    Words,
    fast_folder,
    names_of,
    plain_sum,
    random_words,
)

SIZE = 3
Names = frozenset[str]


class Large:
    """A consortium whose rounds are counted, so that many tests can share it."""

    def __init__(self, consortium: Consortium) -> None:
        self.consortium = consortium
        self._rounds = count(1)

    def start(self, invited: int) -> Scene:
        """A new round of the first hospitals."""
        names = self.consortium.names[:invited]
        told = b"what the aggregator need not know"
        attempt = self.consortium.attempt(names, server_round=next(self._rounds), told=told)
        return Scene(self.consortium, attempt)


class Scene:
    """One round among neighbours, and what came of it."""

    def __init__(self, consortium: Consortium, attempt: Attempt) -> None:
        self.consortium = consortium
        self.attempt = attempt
        trust, n = consortium.trust, len(attempt.adverts)
        self.threshold, self.nearby = trust.threshold(n), trust.neighbourhood(n)
        ring = ring_of(attempt)
        self.near = closed_neighbourhoods(attempt.invited, ring=ring, size=self.nearby)
        self.data = {
            name: random_words(attempt.round * 1000 + at, SIZE)
            for at, name in enumerate(attempt.invited)
        }
        self.masked: dict[str, Masked] = {}

    def total(self, survivors: Names) -> SecureSum:
        """The sum of those who survive, who mask now if they have not."""
        late = sorted(survivors - self.masked.keys())
        self.masked |= self.consortium.mask(self.attempt, {n: self.data[n] for n in late})
        attempt = replace(self.attempt, told=b"")  # the aggregator's own
        total = SecureSum(attempt, size=SIZE, threshold=self.threshold, nearby=self.nearby)
        for name in sorted(survivors):
            total.add(name, self.masked[name])
        return total

    def request(self, name: str, survivors: Names) -> UnmaskRequest:
        """What an honest aggregator asks."""
        shares = {n: self.masked[n].shares[name] for n in self.near[name] if n in survivors}
        return UnmaskRequest(self.attempt, tuple(sorted(survivors)), shares)

    def answers(self, requests: Mapping[str, UnmaskRequest]) -> dict[str, Unmasking]:
        return {
            name: self.consortium[name].unmask(replace(ask, attempt=self.attempt))
            for name, ask in requests.items()
        }

    def left(self, name: str, some: Names) -> Names:
        return some.intersection(self.near[name])

    def plain(self, survivors: Names) -> Words:
        return plain_sum([self.data[name] for name in survivors], SIZE)


def check_round(scene: Scene, dropped: Names, silent: Names) -> bool:
    """Whether the round went through, after checking that it did exactly if it could."""
    invited = frozenset(scene.attempt.invited)
    survivors = invited - dropped
    total = scene.total(survivors)
    lonely = [n for n in survivors if len(scene.left(n, survivors)) < scene.threshold]
    if lonely or not survivors:
        with pytest.raises(TooFew):
            total.unmask_requests()
        for name in lonely:  # nor if the aggregator asks all the same
            with pytest.raises(TooFew):
                scene.consortium[name].unmask(scene.request(name, survivors))
        return False
    answers = scene.answers(total.unmask_requests())
    spoke = survivors - silent
    for name in sorted(spoke):
        total.take(name, answers[name])
    missed = any(scene.left(name, dropped) for name in silent & survivors)
    if missed or any(len(scene.left(n, spoke)) < scene.threshold for n in survivors):
        with pytest.raises(TooFew):
            total.total()
        for name in sorted(silent & survivors):  # they were only late
            total.take(name, answers[name])

    assert np.array_equal(total.total(), scene.plain(survivors))
    assert total.survivors == tuple(sorted(survivors))
    return True


# --- Neighbourhoods of a few ----------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), n=st.integers(6, 16), reach=st.integers(1, 4), c=st.integers(0, 1))
def test_among_a_few_neighbours_the_secure_sum_is_the_plain_sum(
    data: st.DataObject, n: int, reach: int, c: int
) -> None:
    names = st.sampled_from(names_of(n))
    dropped = data.draw(st.frozensets(names, max_size=reach))
    silent = data.draw(st.frozensets(names, max_size=reach))
    with fast_folder() as folder:
        large = Large(Consortium(folder, n, Nearby(c, 2, near=2 * reach + 1)))
        check_round(large.start(n), dropped, silent)


def test_rounds_go_through_and_fail_in_about_equal_parts() -> None:
    """That the test above meets both."""
    rng = np.random.default_rng(5)
    with fast_folder() as folder:
        large = Large(Consortium(folder, 14, Nearby(0, 2, near=7)))
        names = np.array(large.consortium.names)
        went = [
            check_round(large.start(14), frozenset(rng.choice(names, 3).tolist()), frozenset())
            for _ in range(40)
        ]

    assert 5 < sum(went) < 35


# --- With the real numbers ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Iterator[Large]:
    with fast_folder() as folder:
        yield Large(Consortium(folder, 130, Trust(0, 2)))


FEW_OR_MANY = st.sampled_from([0, 1, 8, 24, 40])


@settings(max_examples=8)
@given(
    n=st.integers(65, 80),
    drops=FEW_OR_MANY,
    silences=FEW_OR_MANY,
    order=st.permutations(names_of(130)),
)
def test_above_64_hospitals_the_secure_sum_is_the_plain_sum(
    large: Large, n: int, drops: int, silences: int, order: list[str]
) -> None:
    scene = large.start(n)
    names = [name for name in order if name in scene.near]
    check_round(scene, frozenset(names[:drops]), frozenset(names[-silences:] if silences else []))


def test_and_so_among_many_more_than_are_neighbours(large: Large) -> None:
    names = large.consortium.names
    scene = large.start(130)

    assert check_round(scene, frozenset(names[::4]), frozenset())  # every fourth drops out
    assert {len(masked.shares) for masked in scene.masked.values()} == {65}


def test_only_neighbours_are_told_of_and_given_anything(large: Large) -> None:
    scene = large.start(90)
    dropped = frozenset(scene.attempt.invited[:9])
    survivors = frozenset(scene.attempt.invited) - dropped
    requests = scene.total(survivors).unmask_requests()

    for name, answer in scene.answers(requests).items():
        near = set(scene.near[name])
        assert requests[name].survivors == tuple(sorted(survivors))
        assert requests[name].shares.keys() == answer.self_shares.keys() == near & survivors
        assert answer.pair_seeds.keys() == near & dropped  # for nobody ever both
        assert len(near) == 65
        assert scene.masked[name].shares.keys() == near


def test_above_64_hospitals_a_repeated_attempt_invites_the_same(large: Large) -> None:
    scene = large.start(70)
    names, words = scene.attempt.invited, random_words(1, SIZE)
    hospital, now = large.consortium[names[0]], scene.attempt.round
    hospital.mask(scene.attempt, words.copy())

    for fewer in (69, 65, 64, 3):
        other = large.consortium.attempt(
            names[:fewer], number=2, server_round=now, told=scene.attempt.told
        )
        with pytest.raises(Replayed, match="over other hospitals"):
            hospital.mask(other, words.copy())
    hospital.mask(replace(scene.attempt, attempt=2), words.copy())


# --- Who is silent, and whom it matters to --------------------------------------------------------


def test_the_silence_of_whoever_is_far_from_the_dropped_does_not_matter(large: Large) -> None:
    scene = large.start(88)
    gone = scene.attempt.invited[40]
    survivors = frozenset(scene.attempt.invited) - {gone}
    far = survivors.difference(scene.near[gone])
    answers = scene.answers(scene.total(survivors).unmask_requests())

    assert len(far) == 88 - 65
    total = scene.total(survivors)
    for name in sorted(survivors - far):
        total.take(name, answers[name])
    assert np.array_equal(total.total(), scene.plain(survivors))

    for name in scene.near[gone]:  # each of these is needed
        if name != gone:
            total = scene.total(survivors)
            for other in sorted(survivors - {name}):
                total.take(other, answers[other])
            with pytest.raises(TooFew):
                total.total()


@pytest.fixture
def small() -> Iterator[Scene]:
    """13 hospitals, 7 in a neighbourhood, of which 5 are needed."""
    with fast_folder() as folder:
        yield Large(Consortium(folder, 13, Nearby(0, 2, near=7))).start(13)


def round_the_ring(scene: Scene) -> list[str]:
    """The hospitals in the order of the ring: the next has one neighbour less in common."""
    order = [scene.attempt.invited[0]]
    while len(order) < len(scene.attempt.invited):
        here = set(scene.near[order[-1]])
        shared = {n: len(here & set(scene.near[n])) for n in scene.near if n not in order}
        order.append(max(sorted(shared), key=shared.__getitem__))
    return order


def test_nobody_may_be_left_with_too_few_neighbours_however_many_survive(small: Scene) -> None:
    """Three in a row drop out: four are left near those beside them, and ten in all."""
    order = round_the_ring(small)
    survivors = frozenset(order[3:])
    lonely = {name for name in survivors if len(small.left(name, survivors)) < 5}
    total = small.total(survivors)

    assert lonely == {order[3], order[12]}
    with pytest.raises(TooFew, match="4 hospitals of 7 answered, 5 are needed"):
        total.unmask_requests()
    for name in sorted(survivors):
        ask = small.request(name, survivors)
        if name in lonely:
            with pytest.raises(TooFew, match="4 survivors of 7, the study's terms need 5"):
                small.consortium[name].unmask(ask)
        else:
            small.consortium[name].unmask(ask)


def test_silence_of_too_many_in_one_neighbourhood_matters(small: Scene) -> None:
    """Nobody dropped out. Three of a hospital's neighbours are silent, or three spread out."""
    order = round_the_ring(small)
    survivors = frozenset(order)
    answers = small.answers(small.total(survivors).unmask_requests())
    for silent, enough in ((order[:3], False), (order[:2], True), (order[::5], True)):
        total = small.total(survivors)
        for name in sorted(survivors.difference(silent)):
            total.take(name, answers[name])
        if enough:
            assert np.array_equal(total.total(), small.plain(survivors))
        else:
            with pytest.raises(TooFew, match="10 of 13 survivors helped"):
                total.total()


# --- What is not about the neighbours is refused --------------------------------------------------


def test_shares_for_others_than_the_neighbours_are_refused(small: Scene) -> None:
    name, *others = small.attempt.invited
    masked = small.consortium.mask(small.attempt, {name: small.data[name]})[name]
    far = next(other for other in others if other not in small.near[name])
    total = small.total(frozenset())

    for shares in (
        {**masked.shares, far: b""},
        dict.fromkeys(small.attempt.invited, b""),
        {n: share for n, share in masked.shares.items() if n != name},
        {far if n == name else n: share for n, share in masked.shares.items()},
    ):
        with pytest.raises(BadShare, match="for others"):
            total.add(name, replace(masked, shares=shares))
    total.add(name, masked)


def test_answers_about_others_than_the_neighbours_are_refused(small: Scene) -> None:
    order = round_the_ring(small)
    gone, name, far_gone = order[0], order[1], order[6]
    survivors = frozenset(order) - {gone, far_gone}
    total = small.total(survivors)
    answer = small.answers(total.unmask_requests())[name]
    far = next(n for n in sorted(survivors) if n not in small.near[name])

    assert answer.pair_seeds.keys() == {gone}
    for other in (
        replace(answer, pair_seeds={**answer.pair_seeds, far_gone: bytes(32)}),
        replace(answer, pair_seeds={}),
        replace(answer, self_shares={**answer.self_shares, far: answer.self_shares[name]}),
        replace(answer, self_shares={name: answer.self_shares[name]}),
    ):
        with pytest.raises(BadShare, match="other shares than asked"):
            total.take(name, other)
    total.take(name, answer)


def test_a_hospital_refuses_shares_of_others_than_its_surviving_neighbours(small: Scene) -> None:
    name = small.attempt.invited[0]
    everybody = frozenset(small.attempt.invited)
    small.total(everybody)
    ask = small.request(name, everybody)
    far = next(other for other in sorted(everybody) if other not in small.near[name])
    near = next(other for other in small.near[name] if other != name)

    for forged in (
        replace(ask, shares={**ask.shares, far: ask.shares[near]}),
        replace(ask, shares={n: share for n, share in ask.shares.items() if n != near}),
        replace(ask, survivors=tuple(n for n in ask.survivors if n != near)),
        replace(ask, survivors=tuple(n for n in ask.survivors if n != name)),
        replace(ask, survivors=(*ask.survivors, far)),
        replace(ask, survivors=(*ask.survivors, "zz")),
    ):
        with pytest.raises(BadRequest):
            small.consortium[name].unmask(forged)
    small.consortium[name].unmask(ask)


def test_whoever_is_far_away_counts_as_a_survivor_all_the_same(small: Scene) -> None:
    """A hospital keeps to one V as a whole, also where it says nothing about its neighbours."""
    name = small.attempt.invited[0]
    everybody = frozenset(small.attempt.invited)
    small.total(everybody)
    far = next(other for other in sorted(everybody) if other not in small.near[name])
    small.consortium[name].unmask(small.request(name, everybody))

    with pytest.raises(Replayed, match="for other survivors"):
        small.consortium[name].unmask(small.request(name, everybody - {far}))
