"""Every way in which a lying aggregator can tell hospitals different stories about who is left.

The answers are those of the real hospitals: each is asked for every V there is, each time with a
fresh copy of its journal. What follows from a combination of answers is a graph: its vertices are
the honest hospitals, its edges the pair seeds that neither end gave away. A connected component's
sum comes out exactly if all its self masks can be rebuilt; then it must have k members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, product

import numpy as np
import pytest

from fedward.privacy.key_schedule import pair_seed, round_context, seal_key
from fedward.privacy.masks import add_masks
from fedward.privacy.protocol_errors import BadShare, ProtocolError
from fedward.privacy.sealing import unseal
from fedward.privacy.secure_hospital import Trust
from fedward.privacy.secure_messages import Attempt, Unmasking, UnmaskRequest
from fedward.privacy.shamir import combine
from tests.privacy.conftest import Consortium, fast_folder, plain_sum
from tests.privacy.told_stories import (
    SIZE,
    TERMS,
    Loose,
    Names,
    Scene,
    Story,
    graph_of,
    scene_in,
    scene_of,
    subsets,
)

SPARE = [(5, 0, 4)]
"""Where one share less would be safe too."""


def stories(scene: Scene) -> Iterator[dict[str, Unmasking]]:
    """Every combination: each honest hospital is asked for a V that it accepts, or not at all."""
    options = [[None, *scene.answers[name].values()] for name in scene.honest]
    for choice in product(*options):
        said = zip(scene.honest, choice, strict=True)
        yield {name: answer for name, answer in said if answer is not None}


def count_leaks(scene: Scene, min_honest: int) -> tuple[int, int, int]:
    """Combinations, those that expose something, and those that expose fewer than k."""
    graph = graph_of(scene)
    options = [
        [(0, 0), *(graph.packed(name, answer) for answer in scene.answers[name].values())]
        for name in scene.honest
    ]
    count = opened = leaks = 0
    for choice in product(*options):
        found = graph.exposed(choice)
        count += 1
        opened += bool(found)
        leaks += any(component.bit_count() < min_honest for component in found)
    return count, opened, leaks


def components(scene: Scene, story: Story) -> list[Names]:
    graph = graph_of(scene)
    found = graph.exposed([graph.packed(name, answer) for name, answer in story.items()])
    return [
        frozenset(name for at, name in enumerate(scene.honest) if component >> at & 1)
        for component in found
    ]


# --- The exhaustive check -------------------------------------------------------------------------


def expected_stories(n: int, c: int, threshold: int) -> int:
    """Each honest hospital: nothing, or any V with itself and at least t - 1 of the others."""
    others = range(n)
    accepted = sum(
        len(list(combinations(others[1:], size - 1))) for size in range(threshold, n + 1)
    )
    return int((accepted + 1) ** (n - c))


@pytest.mark.parametrize(("n", "c", "k"), TERMS)
def test_no_story_exposes_fewer_than_k_honest_hospitals(n: int, c: int, k: int) -> None:
    with scene_of(n, c, Trust(c, k)) as scene:
        count, opened, leaks = count_leaks(scene, k)

        assert count == expected_stories(n, c, scene.threshold) > 1
        assert opened > 0  # else it would prove nothing
        assert leaks == 0


@pytest.mark.parametrize(("n", "c", "k"), [terms for terms in TERMS if terms not in SPARE])
def test_a_threshold_lower_by_one_leaks(n: int, c: int, k: int) -> None:
    """The check can fail; and no smaller number than the study's would do."""
    with scene_of(n, c, Loose(c, k)) as scene:
        count, _, leaks = count_leaks(scene, k)

        assert count == expected_stories(n, c, Trust(c, k).threshold(n) - 1)
        assert leaks > 0
        story, few = first_leak(scene, k)
        assert 0 < len(few) < k
        assert Knowledge(scene, story).opens(few)  # the real numbers, not only the graph


@pytest.mark.parametrize(("n", "c", "k"), SPARE)
def test_where_a_lower_threshold_would_do(n: int, c: int, k: int) -> None:
    with scene_of(n, c, Loose(c, k)) as scene:
        _, opened, leaks = count_leaks(scene, k)

    assert opened > 0
    assert leaks == 0


def first_leak(scene: Scene, min_honest: int) -> tuple[Story, Names]:
    for story in stories(scene):
        for component in components(scene, story):
            if len(component) < min_honest:
                return story, component
    raise AssertionError("nothing leaks")


@pytest.mark.parametrize(("n", "c", "k"), TERMS)
def test_a_hospital_answers_for_v_with_itself_and_t_members_and_for_no_other(
    n: int, c: int, k: int
) -> None:
    with scene_of(n, c, Trust(c, k)) as scene:
        invited = frozenset(scene.attempt.invited)
        for name in scene.honest:
            every = map(frozenset, subsets(scene.attempt.invited))
            wanted = {some for some in every if name in some and len(some) >= scene.threshold}
            assert scene.answers[name].keys() == wanted
            for some, answer in scene.answers[name].items():
                assert answer.self_shares.keys() == some
                assert answer.pair_seeds.keys() == invited - some  # for nobody ever both


# --- With the real numbers ------------------------------------------------------------------------


class Knowledge:
    """What the aggregator and the colluders can compute: every seed, and what is left of a sum."""

    def __init__(self, scene: Scene, story: Story) -> None:
        self._scene = scene
        self._pairs = {
            (name, other): seed
            for name, answer in story.items()
            for other, seed in answer.pair_seeds.items()
        }
        shares = {
            name: [
                answer.self_shares[name] for answer in story.values() if name in answer.self_shares
            ]
            for name in scene.honest
        }
        for colluder in scene.colluders:
            self._collude(colluder, shares)
        self._selves = {
            name: seed for name in scene.honest if (seed := self._rebuilt(shares[name])) is not None
        }
        for name, seed in self._selves.items():
            assert hashlib.sha256(seed).digest() == scene.masked[name].commitment
        for (one, other), seed in self._pairs.items():
            assert self._pairs.get((other, one), seed) == seed

    def opens(self, some: Names) -> bool:
        """Whether the sum of these hospitals' masked vectors, less every known mask, is plain."""
        scene = self._scene
        words = plain_sum([scene.masked[name].words for name in some], SIZE)
        masks = [(self._selves[name], -1) for name in some if name in self._selves]
        for name, other in product(sorted(some), scene.attempt.invited):
            seed = self._pairs.get((name, other)) or self._pairs.get((other, name))
            if other not in some and seed is not None:
                masks.append((seed, -1 if name < other else 1))
        add_masks(words, masks)
        return np.array_equal(words, plain_sum([scene.data[name] for name in some], SIZE))

    def _collude(self, colluder: str, shares: Mapping[str, list[bytes]]) -> None:
        scene, context = self._scene, context_of(self._scene.attempt)
        for name in scene.honest:
            consortium = scene.consortium
            secret = consortium.keys[colluder].agree(consortium.keys[name].public)
            self._pairs[colluder, name] = pair_seed(secret, context, colluder, name)
            key = seal_key(secret, context, name, colluder)
            token = scene.masked[name].shares[colluder]
            shares[name].append(unseal(key, token, bound_to=context))

    def _rebuilt(self, shares: Sequence[bytes]) -> bytes | None:
        try:
            return combine(shares, threshold=self._scene.threshold)
        except BadShare:
            return None


def context_of(attempt: Attempt) -> bytes:
    return round_context(
        study=attempt.study,
        run=attempt.run,
        round=attempt.round,
        attempt=attempt.attempt,
        adverts=attempt.adverts,
        told=attempt.told,
    )


def unions(parts: Sequence[Names]) -> set[Names]:
    """Every sum that follows from these."""
    return {
        frozenset[str]().union(*some)
        for size in range(1, len(parts) + 1)
        for some in combinations(parts, size)
    }


@pytest.mark.parametrize("trust", [Trust, Loose])
@pytest.mark.parametrize(("n", "c", "k"), TERMS)
def test_what_the_graph_says_is_what_the_numbers_give(
    n: int, c: int, k: int, trust: type[Trust]
) -> None:
    """All subsets of the honest, for all stories or 60 of them, half of which expose something."""
    with scene_of(n, c, trust(c, k)) as scene:
        every = list(stories(scene)) if n < 5 else sampled(scene)
        telling = [story for story in every if components(scene, story)]
        silent = [story for story in every if not components(scene, story)]
        assert telling
        assert silent
        for story in telling[:: max(1, len(telling) // 30)] + silent[:: max(1, len(silent) // 30)]:
            known = Knowledge(scene, story)
            some = map(frozenset, subsets(scene.honest))
            assert {sum_of for sum_of in some if sum_of and known.opens(sum_of)} == unions(
                components(scene, story)
            )


def sampled(scene: Scene) -> list[dict[str, Unmasking]]:
    """Some stories of many, the same each time, and those that tell everybody alike."""
    rng = np.random.default_rng(1)
    options = {name: [None, *answers.values()] for name, answers in scene.answers.items()}
    picked = [
        {name: some[int(rng.integers(len(some)))] for name, some in options.items()}
        for _ in range(1000)
    ]
    views = set(chain.from_iterable(answers for answers in scene.answers.values()))
    alike = [
        {name: answers.get(view) for name, answers in scene.answers.items()}
        for view in sorted(views, key=sorted)
    ]
    return [
        {name: answer for name, answer in story.items() if answer is not None}
        for story in picked + alike
    ]


# --- A lie about anything else makes noise --------------------------------------------------------


def seeds_with_c(consortium: Consortium, attempt: Attempt) -> tuple[bytes, bytes]:
    """The pair seeds of a and of b with c, which drops out, from hospitals that forgot the rest."""
    fresh = consortium.folder / hashlib.sha256(repr(attempt).encode()).hexdigest()
    some = [consortium.hospital(name, fresh / name) for name in "abd"]
    masked = [hospital.mask(attempt, np.zeros(1, dtype=np.uint32)) for hospital in some]

    def answer(at: int, name: str) -> Unmasking:
        shares = {sender: masked[i].shares[name] for i, sender in enumerate("abd")}
        return some[at].unmask(UnmaskRequest(attempt, ("a", "b", "d"), shares))

    return answer(0, "a").pair_seeds["c"], answer(1, "b").pair_seeds["c"]


def test_every_field_of_an_attempt_changes_every_pair_seed() -> None:
    with fast_folder() as folder:
        consortium = Consortium(folder, 4, Trust(0, 2))
        renewed = Consortium(folder, 4, Trust(0, 2))
        renewed.keys["d"] = type(renewed.keys["d"]).generate()
        base = consortium.attempt()
        contexts = [
            (consortium, base),
            (consortium, consortium.attempt(number=2)),
            (consortium, consortium.attempt(server_round=2)),
            (consortium, consortium.attempt(told=b"\x08" * 32)),
            (consortium, consortium.attempt(run="run-2")),
            (consortium, consortium.attempt(study="5e" * 32)),
            (renewed, renewed.attempt()),  # another advert of d, whom the seeds do not concern
        ]
        seeds = [seed for owner, attempt in contexts for seed in seeds_with_c(owner, attempt)]

        assert len(set(seeds)) == len(seeds) == 2 * len(contexts)
        backwards = replace(base, adverts=base.adverts[::-1])
        assert seeds_with_c(consortium, backwards) == tuple(seeds[:2])


def test_another_set_of_invited_hospitals_changes_every_pair_seed() -> None:
    with fast_folder() as folder:
        consortium = Consortium(folder, 5, Trust(0, 1 + 1))
        seeds = seeds_with_c(consortium, consortium.attempt("abcd"))
        fewer = Consortium(folder / "fewer", 4, Trust(0, 2))

        assert fewer.keys["a"].public == consortium.keys["a"].public
        with pytest.raises(ProtocolError):  # with five, three are too few
            seeds_with_c(consortium, consortium.attempt())
        five = scene_in(consortium, consortium.attempt(), (), tuple("abcde"))
        others = five.answers["a"][frozenset("abde")].pair_seeds["c"]
        assert others not in seeds
