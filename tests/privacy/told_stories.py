"""What real hospitals answer to every V there is, and the sums that their answers expose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations

from fedward.privacy.protocol_errors import ProtocolError
from fedward.privacy.secure_hospital import Trust
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest
from tests.privacy.conftest import Consortium, Words, fast_folder, random_words

SIZE = 8
TERMS = [(n, c, k) for n in (3, 4, 5) for c in range(n - 1) for k in range(2, n - c + 1)]

Names = frozenset[str]
Story = Mapping[str, Unmasking]
"""What the honest hospitals said, each to its own V; who was asked nothing is missing."""


class Loose(Trust):
    """The study's terms with a threshold that is too low by one."""

    def threshold(self, invited: int) -> int:
        return super().threshold(invited) - 1


@dataclass(frozen=True)
class Scene:
    """One attempt that all hospitals masked for, and every answer that they would give."""

    consortium: Consortium
    attempt: Attempt
    colluders: tuple[str, ...]
    honest: tuple[str, ...]
    data: Mapping[str, Words]
    masked: Mapping[str, Masked]
    answers: Mapping[str, Mapping[Names, Unmasking]]

    @property
    def threshold(self) -> int:
        return self.consortium.trust.threshold(len(self.attempt.adverts))


@contextmanager
def scene_of(n: int, c: int, trust: Trust) -> Iterator[Scene]:
    with fast_folder() as folder:
        consortium = Consortium(folder, n, trust)
        colluders = consortium.names[1 : 1 + c]
        honest = tuple(name for name in consortium.names if name not in colluders)
        yield scene_in(consortium, consortium.attempt(), colluders, honest)


def scene_in(
    consortium: Consortium, attempt: Attempt, colluders: tuple[str, ...], honest: tuple[str, ...]
) -> Scene:
    data = {name: random_words(ord(name), SIZE) for name in attempt.invited}
    masked = consortium.mask(attempt, data)
    answers = {name: every_answer(consortium, name, attempt, masked) for name in honest}
    return Scene(consortium, attempt, colluders, honest, data, masked, answers)


def every_answer(
    consortium: Consortium, name: str, attempt: Attempt, masked: Mapping[str, Masked]
) -> dict[Names, Unmasking]:
    """What the real hospital says to every V at all; those that it refuses are missing."""
    found = {}
    for some in subsets(attempt.invited):
        shares = {sender: masked[sender].shares[name] for sender in some}
        try:
            answer = consortium.twin(name).unmask(UnmaskRequest(attempt, some, shares))
        except ProtocolError:
            continue
        found[frozenset(some)] = answer
    return found


def subsets(names: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


# --- The graph ------------------------------------------------------------------------------------


@cache
def exposed(honest: int, cut: frozenset[tuple[int, int]], rebuilt: frozenset[int]) -> list[int]:
    """The components whose sums come out, as bit masks over the honest hospitals."""
    left, found = set(range(honest)), []
    while left:
        component = {left.pop()}
        edge = set(component)
        while edge:
            at = edge.pop()
            reached = {x for x in left if (min(x, at), max(x, at)) not in cut}
            left -= reached
            component |= reached
            edge |= reached
        if component <= rebuilt:
            found.append(sum(1 << x for x in component))
    return found


class Graph:
    """What combinations of answers expose; answers are packed so that millions are quick."""

    def __init__(self, honest: Sequence[str], always: int, threshold: int) -> None:
        """`always`: the colluders among the invited, who hold one share of everybody's each."""
        self._place = {name: at for at, name in enumerate(honest)}
        self._pairs = list(combinations(range(len(honest)), 2))
        self._always = always
        self._threshold = threshold
        self._seen: dict[tuple[int, int], list[int]] = {}

    def packed(self, name: str, answer: Unmasking) -> tuple[int, int]:
        """Edges that an answer cuts, one bit each; shares that it gives, four bits each."""
        me, place = self._place[name], self._place
        gone = [place[other] for other in answer.pair_seeds if other in place]
        cut = sum(1 << self._pairs.index((min(me, x), max(me, x))) for x in gone)
        return cut, sum(1 << 4 * place[other] for other in answer.self_shares if other in place)

    def exposed(self, story: Iterable[tuple[int, int]]) -> list[int]:
        cut, shares = 0, 0
        for edges, given in story:
            cut |= edges
            shares += given
        if (cut, shares) not in self._seen:
            self._seen[cut, shares] = self._exposed(cut, shares)
        return self._seen[cut, shares]

    def _exposed(self, cut: int, shares: int) -> list[int]:
        count = {x: (shares >> 4 * x & 15) + self._always for x in self._place.values()}
        rebuilt = frozenset(x for x, found in count.items() if found >= self._threshold)
        edges = frozenset(pair for at, pair in enumerate(self._pairs) if cut >> at & 1)
        return exposed(len(self._place), edges, rebuilt)


def graph_of(scene: Scene) -> Graph:
    return Graph(scene.honest, len(scene.colluders), scene.threshold)
