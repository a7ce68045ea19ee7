"""The aggregator takes each hospital's words and answer once and whole, and notices false ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from fedward.privacy.protocol_errors import BadShare, TooFew
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_messages import Masked, Unmasking
from fedward.privacy.shamir import SHARE_SIZE
from tests.privacy.conftest import plain_sum
from tests.privacy.forgeries.forged_adverts import flipped
from tests.privacy.forgeries.second_attempt import LEFT, NAMES, SIZE, Scene, then_all_goes_well


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
