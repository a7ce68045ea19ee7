"""A lying aggregator among neighbours: different stories to different hospitals, in small rings.

As in `test_lying_aggregator`, the answers are those of real hospitals, and what follows from them
is a graph: vertices are the honest hospitals, edges the pair seeds that neither end gave away. A
component's sum comes out exactly if all its self masks can be rebuilt. What a hospital says
depends on its own neighbourhood alone, so those are all the stories there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, combinations, product
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fedward.privacy.journal import Journal
from fedward.privacy.masks import add_masks
from fedward.privacy.neighbours import closed_neighbourhoods, ring_of
from fedward.privacy.protocol_errors import ProtocolError, Replayed
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_hospital import SecureHospital, Trust
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest
from fedward.privacy.shamir import combine
from tests.privacy.conftest import (
    Consortium,
    Forgetful,
    Nearby,
    Words,
    fast_folder,
    random_words,
)

SIZE = 8
Names = frozenset[str]


class Loose(Nearby):
    """The study's terms with a threshold that is too low by one."""

    def threshold(self, invited: int) -> int:
        return super().threshold(invited) - 1


class Unbound(Journal):
    """A journal by which a hospital says all that it could say, to one V after the other."""

    def unmask(self, *, context: bytes, survivors: Collection[str]) -> None:
        pass


def hospital_with(consortium: Consortium, name: str, journal: type[Journal]) -> SecureHospital:
    """The hospital with another kind of journal, which is empty."""
    return SecureHospital(
        name=name,
        identity=consortium.identities[name],
        run_key=consortium.keys[name],
        roster=consortium.roster,
        trust=consortium.trust,
        journal=journal(consortium.folder / f"{name}.{journal.__name__}"),
    )


@dataclass(frozen=True)
class Said:
    """One answer: to which neighbours left, and in bits, whom it cuts off and gives shares of."""

    left: Names
    cuts: int
    shares: int


class Scene:
    """One attempt that all masked for, and everything that each honest hospital would say."""

    def __init__(self, consortium: Consortium, colluding: int) -> None:
        self.consortium = consortium
        self.attempt = consortium.attempt()
        self.near = neighbourhoods(consortium, self.attempt)
        self.data = {name: random_words(ord(name), SIZE) for name in consortium.names}
        self.masked = consortium.mask(self.attempt, self.data)
        victim = consortium.names[0]  # has all colluders for neighbours
        self.colluders = [name for name in self.near[victim] if name != victim][:colluding]
        self.honest = [name for name in consortium.names if name not in self.colluders]
        self.threshold = consortium.trust.threshold(len(consortium.names))
        self.answers = {name: self._every_answer(name) for name in self.honest}
        self._place = {name: at for at, name in enumerate(self.honest)}
        self.said = {
            name: [self._packed(left, answer) for left, answer in self.answers[name].items()]
            for name in self.honest
        }
        self.edges = [self.bits(set(self.near[name]) - {name}) for name in self.honest]
        # Every colluder nearby holds one share.
        self.held = [len(set(self.near[name]).intersection(self.colluders)) for name in self.honest]

    def bits(self, names: Iterable[str]) -> int:
        return sum(1 << self._place[name] for name in names if name in self._place)

    def exposed(self, story: Sequence[Said | None]) -> list[int]:
        """The components whose sums come out, in bits, when these are the answers."""
        edges, held = list(self.edges), list(self.held)
        for at, said in enumerate(story):
            if said is not None:
                edges[at] &= ~said.cuts
                for other in ones(said.cuts):
                    edges[other] &= ~(1 << at)
                for other in ones(said.shares):
                    held[other] += 1
        rebuilt = sum(1 << at for at, shares in enumerate(held) if shares >= self.threshold)
        return [part for part in components(edges) if part & ~rebuilt == 0]

    def told(self, story: Sequence[Said | None]) -> dict[str, Unmasking]:
        """The answers of a story as they were given."""
        said = zip(self.honest, story, strict=True)
        return {name: self.answers[name][some.left] for name, some in said if some is not None}

    def _every_answer(self, name: str) -> dict[Names, Unmasking]:
        """By the neighbours that are left; those that the real hospital refuses are missing."""
        near = self.near[name]
        hospital = hospital_with(self.consortium, name, Unbound)
        found = {}
        for left in chain.from_iterable(combinations(near, size) for size in range(len(near) + 1)):
            far = set(self.consortium.names).difference(near)
            shares = {sender: self.masked[sender].shares[name] for sender in left}
            ask = UnmaskRequest(self.attempt, (*left, *far), shares)
            try:
                found[frozenset(left)] = hospital.unmask(ask)
            except ProtocolError:
                continue
        return found

    def _packed(self, left: Names, answer: Unmasking) -> Said:
        return Said(left, self.bits(answer.pair_seeds), self.bits(answer.self_shares))


def neighbourhoods(consortium: Consortium, attempt: Attempt) -> dict[str, tuple[str, ...]]:
    size = consortium.trust.neighbourhood(len(attempt.adverts))
    return closed_neighbourhoods(attempt.invited, ring=ring_of(attempt), size=size)


@contextmanager
def scene_of(n: int, trust: Trust) -> Iterator[Scene]:
    with fast_folder() as folder:
        yield Scene(Consortium(folder, n, trust), trust.colluding)


def ones(bits: int) -> Iterator[int]:
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def components(edges: Sequence[int]) -> list[int]:
    left, found = (1 << len(edges)) - 1, []
    while left:
        part = edge = left & -left
        while edge:
            reached = 0
            for at in ones(edge):
                reached |= edges[at]
            edge = reached & ~part
            part |= edge
        found.append(part)
        left &= ~part
    return found


# --- One attempt ----------------------------------------------------------------------------------

Story = Sequence[Said | None]


def stories(scene: Scene, number: int, seed: int = 1) -> Iterator[Story]:
    """Random ones, half of which are after a few hospitals in particular."""
    rng = Random(seed)
    for count in range(number):
        prey = frozenset(rng.sample(scene.near[rng.choice(scene.honest)], 1 + count % 3))
        yield [
            told(rng, scene.said[name], prey, inside=name in prey)
            if count % 2
            else rng.choice([None, *scene.said[name]])
            for name in scene.honest
        ]


def told(rng: Random, said: Sequence[Said], prey: Names, *, inside: bool) -> Said | None:
    """To the prey any story, to the others one that cuts them off or opens them, if there is."""
    if inside:
        return rng.choice(said)
    reach = [some for some in said if (some.left & prey) == (prey if rng.random() < 0.5 else set())]
    return rng.choice(reach or [None, *said])


STORIES = 10_000
TERMS = [
    (9, Nearby(0, 2, near=5)),
    (12, Nearby(0, 2, near=7)),
    (9, Nearby(0, 4, near=5)),
    (11, Nearby(1, 2, near=5)),
    (13, Nearby(2, 2, near=7)),
]


@pytest.mark.parametrize(("n", "trust"), TERMS)
def test_no_story_exposes_fewer_than_k_honest_hospitals(n: int, trust: Nearby) -> None:
    with scene_of(n, trust) as scene:
        found = [scene.exposed(story) for story in stories(scene, STORIES)]

    sizes = {part.bit_count() for parts in found for part in parts}
    assert sum(map(bool, found)) > 50  # else it would prove nothing
    assert min(sizes) >= trust.min_honest
    # Where it can be, parts were cut out, not only everybody.
    assert min(sizes) < n - trust.colluding or trust.threshold(n) == trust.near


@pytest.mark.parametrize(("n", "trust"), TERMS)
def test_a_threshold_lower_by_one_leaks(n: int, trust: Nearby) -> None:
    loose = Loose(trust.colluding, trust.min_honest, near=trust.near)
    with scene_of(n, loose) as scene:
        sizes = {
            part.bit_count() for story in stories(scene, STORIES) for part in scene.exposed(story)
        }

    assert min(sizes) < trust.min_honest


def every_story(scene: Scene) -> Iterator[Story]:
    return product(*([None, *scene.said[name]] for name in scene.honest))


def test_with_three_in_a_neighbourhood_all_stories_can_be_tried() -> None:
    with scene_of(7, Nearby(0, 2, near=3)) as scene:
        found = [scene.exposed(story) for story in every_story(scene)]
    assert len(found) == 2**7  # everybody near has survived, or no answer
    assert {part.bit_count() for parts in found for part in parts} == {7}

    with scene_of(7, Loose(0, 2, near=3)) as scene:
        found = [scene.exposed(story) for story in every_story(scene)]
    assert len(found) == 4**7
    assert {part.bit_count() for parts in found for part in parts} >= {1, 2, 7}


def test_what_the_graph_exposes_comes_out_of_the_real_numbers() -> None:
    """And nothing smaller does, however the threshold is."""
    with scene_of(9, Loose(0, 2, near=5)) as scene:
        telling = [(s, scene.exposed(s)) for s in stories(scene, 3000)]
        alone = [(s, f) for s, f in telling if any(part.bit_count() == 1 for part in f)]
        assert len(alone) > 20
        for story, found in alone[:20]:
            for at, name in enumerate(scene.honest):
                assert opens(scene, story, name) == (1 << at in found)


def opens(scene: Scene, story: Story, name: str) -> bool:
    """Whether one hospital's masked vector, less every known mask, is its data."""
    answers = scene.told(story)
    shares = [said.self_shares[name] for said in answers.values() if name in said.self_shares]
    if len(shares) < scene.threshold:
        return False
    masks = [(combine(shares, threshold=scene.threshold), -1)]
    for other in scene.near[name]:
        seed = seed_between(answers, name, other)
        if seed is not None:
            masks.append((seed, -1 if name < other else 1))
    words = scene.masked[name].words.copy()
    add_masks(words, masks)
    return np.array_equal(words, scene.data[name])


def seed_between(answers: Mapping[str, Unmasking], one: str, other: str) -> bytes | None:
    for name, about in ((one, other), (other, one)):
        if name in answers and about in answers[name].pair_seeds:
            return answers[name].pair_seeds[about]
    return None


# --- Many attempts at a round ---------------------------------------------------------------------


def test_attempts_on_one_ring_expose_no_more_than_one_attempt_that_all_answer() -> None:
    """Each hospital keeps to one V, and answers in some attempts: only unions of parts come out.

    So no combination of the sums of several attempts is about fewer than k hospitals either.
    """
    rng = Random(3)
    exposed = coarser = 0
    with scene_of(14, Nearby(1, 2, near=5)) as scene:
        for story in stories(scene, STORIES, seed=2):
            parts = scene.exposed(story)
            for _ in range(200 if len(parts) > 1 else 1):
                fewer = [said if rng.random() < 0.9 else None for said in story]
                for some in scene.exposed(fewer):
                    assert some == sum(part for part in parts if part & some == part)
                    exposed += 1
                    coarser += some not in parts

    assert exposed > 1000
    assert coarser > 10


@dataclass(frozen=True)
class TwoRings:
    """An update masked on two rings: a hospital's neighbours on one are far from it on the other.

    `invited` and `again` differ in one hospital that never answers. All are told one V, and the
    same in both attempts: to the `victim`'s neighbours on the first ring, it has dropped out.
    """

    consortium: Consortium
    victim: str
    invited: Attempt
    again: Attempt
    told: Mapping[str, Names]


def two_rings(folder: Path) -> TwoRings:
    consortium = Consortium(folder, 26, Nearby(0, 2, near=7))
    *names, last = consortium.names
    for other in names[10:]:  # somebody else is left out of the first attempt
        invited = consortium.attempt([name for name in consortium.names if name != other])
        again = consortium.attempt(number=2)
        first, second = neighbourhoods(consortium, invited), neighbourhoods(consortium, again)
        for victim in first:
            if set(first[victim]) & set(second[victim]) == {victim} and other != last:
                everybody = frozenset(first)
                told = {
                    name: everybody - {victim}
                    if name in first[victim] and name != victim
                    else everybody
                    for name in everybody
                }
                return TwoRings(consortium, victim, invited, again, told)
    raise AssertionError("no two such rings")


def sum_by_lying(
    scene: TwoRings,
    hospitals: Mapping[str, SecureHospital],
    attempt: Attempt,
    survivors: Names,
    masked: Mapping[str, Masked],
) -> Words:
    """What an aggregator computes for itself, having told each hospital its own V."""
    near = neighbourhoods(scene.consortium, attempt)
    total = SecureSum(attempt, size=SIZE, threshold=5, nearby=7)
    for name in sorted(survivors):
        total.add(name, masked[name])
    for name in total.unmask_requests():
        told = scene.told[name]
        shares = {n: masked[n].shares[name] for n in near[name] if n in told}
        ask = UnmaskRequest(attempt, tuple(sorted(told)), shares)
        total.take(name, hospitals[name].unmask(ask))
    return total.total()


def test_one_update_on_two_rings_would_be_the_difference_of_two_sums() -> None:
    """Every hospital keeps to one V, has t survivors near it, and nobody colludes."""
    with fast_folder() as folder:
        scene = two_rings(folder)
        everybody = frozenset(scene.told)
        data = {name: random_words(ord(name), SIZE) for name in sorted(everybody)}
        hospitals = {n: hospital_with(scene.consortium, n, Forgetful) for n in sorted(everybody)}
        sums = []
        for attempt, some in (
            (scene.invited, everybody - {scene.victim}),
            (scene.again, everybody),
        ):
            masked = {n: hospitals[n].mask(attempt, words.copy()) for n, words in data.items()}
            sums.append(sum_by_lying(scene, hospitals, attempt, some, masked))

    assert np.array_equal(sums[1] - sums[0], data[scene.victim])


def test_so_a_round_keeps_to_its_first_ring() -> None:
    words = random_words(1, SIZE)
    with fast_folder() as folder:
        consortium = Consortium(folder, 10, Nearby(0, 2, near=7))
        everybody, names = consortium.attempt(), consortium.names
        a = consortium["a"]
        a.mask(everybody, words.copy())

        for fewer in (names[:9], names[:8], names[:7], names[:5]):  # 7 and 5: all are neighbours
            for number in (2, 3):
                other = words.copy()
                with pytest.raises(Replayed, match="over other hospitals"):
                    a.mask(consortium.attempt(fewer, number=number), other)
                assert np.array_equal(other, words)
        a.mask(consortium.attempt(number=2), words.copy())  # the same once more
        a.mask(replace(consortium.attempt(number=3), adverts=everybody.adverts[::-1]), words.copy())
        restarted = consortium.hospital("a", consortium.journal_file("a"))
        with pytest.raises(Replayed, match="over other hospitals"):
            restarted.mask(consortium.attempt(names[:9], number=9), words.copy())
        a.mask(consortium.attempt(names[:9], server_round=2), words.copy())  # another update
