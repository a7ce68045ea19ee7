"""The secure sum is the plain sum, whoever drops out, and looks like noise before it is one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.fixed_point import FixedPoint
from fedward.privacy.masks import add_masks
from fedward.privacy.protocol_errors import BadSeal, Replayed, TooFew
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest
from tests.privacy.conftest import (
    Consortium,
    Words,
    consortium_of,
    plain_sum,
    random_words,
)

SIZES = [0, 1, 2, 3, 5, 64, 1001, 4099]


@dataclass(frozen=True)
class Case:
    """One round: who takes part, on what terms, and who fails when."""

    hospitals: int
    colluding: int
    min_honest: int
    size: int
    seed: int
    dropped: frozenset[str]
    silent: frozenset[str]


@st.composite
def cases(draw: st.DrawFn, hospitals: st.SearchStrategy[int]) -> Case:
    """Any round that can be answered; whoever is silent may be anybody who was left."""
    n = draw(hospitals)
    c = draw(st.integers(0, n - 2))
    k = draw(st.integers(2, n - c))
    names = draw(st.permutations("abcdefghijklmnopqrstuvwxyz"[:n]))
    most = n - ((n + c + k - 1) // 2 + 1)  # the design's t, written again
    drops = draw(st.integers(0, most))
    silent = draw(st.integers(0, n - drops))
    return Case(
        hospitals=n,
        colluding=c,
        min_honest=k,
        size=draw(st.sampled_from(SIZES)),
        seed=draw(st.integers(0, 2**32)),
        dropped=frozenset(names[:drops]),
        silent=frozenset(names[drops : drops + silent]),
    )


def data_of(names: Iterable[str], case_seed: int, size: int) -> dict[str, Words]:
    return {name: random_words(case_seed + ord(name), size) for name in names}


def reordered(attempt: Attempt, name: str) -> Attempt:
    """The same attempt with the adverts in an order that only this hospital sees."""
    turn = ord(name) % len(attempt.adverts)
    return replace(attempt, adverts=attempt.adverts[turn:] + attempt.adverts[:turn])


def summed(
    consortium: Consortium, attempt: Attempt, data: Mapping[str, Words], size: int
) -> SecureSum:
    """The sum of all who answer."""
    total = SecureSum(
        attempt, size=size, threshold=consortium.trust.threshold(len(attempt.adverts))
    )
    for name, words in data.items():
        total.add(name, consortium[name].mask(reordered(attempt, name), words.copy()))
    return total


def answers_of(
    consortium: Consortium, requests: Mapping[str, UnmaskRequest]
) -> dict[str, Unmasking]:
    return {
        name: consortium[name].unmask(replace(ask, attempt=reordered(ask.attempt, name)))
        for name, ask in requests.items()
    }


def unmasked(consortium: Consortium, total: SecureSum) -> Words:
    for name, answer in answers_of(consortium, total.unmask_requests()).items():
        total.take(name, answer)
    return total.total()


# --- The sum --------------------------------------------------------------------------------------


def check_case(case: Case) -> None:
    with consortium_of(
        case.hospitals, colluding=case.colluding, min_honest=case.min_honest
    ) as consortium:
        attempt = consortium.attempt()
        data = data_of(sorted(set(consortium.names) - case.dropped), case.seed, case.size)
        total = summed(consortium, attempt, data, case.size)
        answers = answers_of(consortium, total.unmask_requests())
        for name in sorted(set(answers) - case.silent):
            total.take(name, answers[name])
        enough = len(data) - len(case.silent) >= consortium.threshold
        if not enough or (case.dropped and case.silent):
            with pytest.raises(TooFew):
                total.total()
            for name in sorted(case.silent):  # they were only late
                total.take(name, answers[name])

        found = total.total()

        assert total.survivors == tuple(data)
        assert found.dtype == np.uint32
        assert np.array_equal(found, plain_sum(data.values(), case.size))


@settings(max_examples=120)
@given(cases(st.integers(3, 8)))
def test_the_secure_sum_is_the_plain_sum(case: Case) -> None:
    check_case(case)


@settings(max_examples=6)
@given(cases(st.just(20)))
def test_and_so_with_twenty_hospitals(case: Case) -> None:
    check_case(case)


@settings(max_examples=40)
@given(
    case=cases(st.integers(3, 8)),
    bound=st.floats(1e-3, 1e3),
    peak=st.sampled_from([0.0, 1e-9, 0.5, 1.0]),
)
def test_decoded_it_is_the_float_sum_within_the_bound(
    case: Case, bound: float, peak: float
) -> None:
    code = FixedPoint.for_bound(bound, case.hospitals)
    rng = np.random.default_rng(case.seed)
    with consortium_of(
        case.hospitals, colluding=case.colluding, min_honest=case.min_honest
    ) as consortium:
        there = sorted(set(consortium.names) - case.dropped)
        reals = {name: rng.uniform(-bound * peak, bound * peak, case.size) for name in there}
        data = {name: encoded(code, values, rng) for name, values in reals.items()}
        found = code.decode(
            unmasked(consortium, summed(consortium, consortium.attempt(), data, case.size))
        )

    wanted = np.sum([*reals.values(), np.zeros(case.size)], axis=0)
    assert np.all(np.abs(found - wanted) <= case.hospitals * code.error_bound * (1 + 1e-9))


def encoded(code: FixedPoint, values: NDArray[np.float64], rng: np.random.Generator) -> Words:
    return code.encode(values, rng=rng)


@pytest.mark.slow
def test_a_million_words() -> None:
    size = 1_000_000
    code = FixedPoint.for_bound(1.0, 6)
    rng = np.random.default_rng(1)
    with consortium_of(6, colluding=1) as consortium:
        reals = {name: rng.uniform(-1, 1, size) for name in consortium.names[1:]}
        data = {name: code.encode(values, rng=rng) for name, values in reals.items()}
        total = summed(consortium, consortium.attempt(), data, size)
        found = unmasked(consortium, total)

    assert np.array_equal(found, plain_sum(data.values(), size))
    wanted = np.sum(list(reals.values()), axis=0)
    assert np.abs(code.decode(found) - wanted).max() <= 5 * code.error_bound * (1 + 1e-9)


# --- Too few --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(case=cases(st.integers(3, 8)), left=st.integers(0, 7))
def test_too_few_survivors_are_unmasked_by_nobody(case: Case, left: int) -> None:
    with consortium_of(
        case.hospitals, colluding=case.colluding, min_honest=case.min_honest
    ) as consortium:
        some = consortium.names[: min(left, consortium.threshold - 1)]
        attempt = consortium.attempt()
        masked = consortium.mask(attempt, data_of(some, case.seed, 5))
        total = SecureSum(attempt, size=5, threshold=consortium.threshold)
        for name in some:
            total.add(name, masked[name])

        with pytest.raises(TooFew):
            total.unmask_requests()
        for name in some:  # nor when the aggregator asks all the same
            with pytest.raises(TooFew):
                consortium[name].unmask(request_for(name, attempt, masked))


def request_for(name: str, attempt: Attempt, masked: Mapping[str, Masked]) -> UnmaskRequest:
    shares = {sender: answer.shares[name] for sender, answer in masked.items()}
    return UnmaskRequest(attempt, tuple(sorted(masked)), shares)


# --- A repeated attempt ---------------------------------------------------------------------------


@settings(max_examples=60)
@given(case=cases(st.integers(3, 8)), data_strategy=st.data())
def test_a_repeated_attempt_gives_the_sum_unless_it_would_be_another_sum(
    case: Case, data_strategy: st.DataObject
) -> None:
    """Who answered for one V answers for no other V of the same update, and always for the same."""
    with consortium_of(
        case.hospitals, colluding=case.colluding, min_honest=case.min_honest
    ) as consortium:
        data = data_of(consortium.names, case.seed, case.size)
        first = {name: data[name] for name in data if name not in case.dropped}
        requests = summed(consortium, consortium.attempt(), first, case.size).unmask_requests()
        asked = {name: ask for name, ask in requests.items() if name not in case.silent}
        answers_of(consortium, asked)

        left_out = data_strategy.draw(
            st.sets(st.sampled_from(consortium.names), max_size=len(case.dropped) + 1)
            if consortium.threshold < case.hospitals
            else st.just(set[str]())
        )
        second = {name: data[name] for name in sorted(set(data) - left_out)}
        if len(second) < consortium.threshold:
            second = first
        total = summed(consortium, consortium.attempt(number=2), second, case.size)
        for name, ask in total.unmask_requests().items():
            if name in asked and set(first) != set(second):
                with pytest.raises(Replayed):
                    consortium[name].unmask(ask)
            else:
                total.take(name, consortium[name].unmask(ask))

        if set(first) == set(second) or not asked.keys() & second.keys():
            assert np.array_equal(total.total(), plain_sum(second.values(), case.size))


def test_hospitals_that_start_again_remember() -> None:
    with consortium_of(5) as consortium:
        data = data_of(consortium.names, 1, 9)
        first = consortium.attempt()
        masked = consortium.mask(first, data)
        four = {name: masked[name] for name in "abcd"}
        consortium["a"].unmask(request_for("a", first, four))

        again = consortium.hospital("a", consortium.journal_file("a"))
        with pytest.raises(Replayed):
            again.mask(first, data["a"].copy())
        with pytest.raises(Replayed):
            again.unmask(request_for("a", first, masked))
        second = consortium.attempt(number=2)
        masked = {**consortium.mask(second, {name: data[name] for name in "bcde"})}
        masked["a"] = again.mask(second, data["a"].copy())
        with pytest.raises(Replayed):
            again.unmask(request_for("a", second, masked))
        four = {name: masked[name] for name in "abcd"}
        assert set(again.unmask(request_for("a", second, four)).pair_seeds) == {"e"}


def test_the_next_round_may_have_other_survivors() -> None:
    with consortium_of(4) as consortium:
        data = data_of(consortium.names, 1, 9)
        for number, there in enumerate(("abc", "abcd", "bcd"), start=1):
            some = {name: data[name] + np.uint32(number) for name in there}
            attempt = consortium.attempt(server_round=number)

            found = unmasked(consortium, summed(consortium, attempt, some, 9))

            assert np.array_equal(found, plain_sum(some.values(), 9))


# --- What the aggregator sees ---------------------------------------------------------------------

MANY = 100_000


def looks_uniform(words: Words) -> bool:
    """Bytes at all four places; a fair vector fails less than once in 10**15 times."""
    for place in range(4):
        counts = np.bincount(words.view(np.uint8)[place::4], minlength=256)
        chi_square = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
        if not 255 - 9 * 510**0.5 < chi_square < 255 + 12 * 510**0.5:
            return False
    return True


def test_the_bound_of_uniformity_tells_noise_from_data() -> None:
    small = np.random.default_rng(1).integers(0, 2**31, MANY, dtype=np.uint32)

    assert looks_uniform(random_words(1, MANY))
    assert not looks_uniform(small)
    assert not looks_uniform(np.zeros(MANY, dtype=np.uint32))


@pytest.mark.parametrize("there", ["abc", "abcd"])
def test_masked_vectors_and_their_sum_look_uniform(there: str) -> None:
    nothing = np.zeros(MANY, dtype=np.uint32)
    with consortium_of(4) as consortium:
        attempt = consortium.attempt()
        masked = consortium.mask(attempt, dict.fromkeys(there, nothing))
        seen = [answer.words for answer in masked.values()]

        assert all(looks_uniform(words) for words in seen)
        assert all(looks_uniform(plain_sum(seen[:some], MANY)) for some in range(2, len(there) + 1))
        assert all(looks_uniform(one - other) for one in seen for other in seen if one is not other)


def test_two_masked_vectors_of_the_same_data_are_never_equal() -> None:
    data = dict.fromkeys("abc", random_words(1, 8))
    with consortium_of(3) as consortium:
        seen = [
            answer.words.tobytes()
            for number in range(1, 30)
            for answer in consortium.mask(consortium.attempt(number=number), data).values()
        ]

    assert len(set(seen)) == len(seen) == 87
    assert data["a"].tobytes() not in seen


def test_the_same_attempt_with_a_journal_lost_gives_another_vector() -> None:
    """The self mask is fresh even then."""
    with consortium_of(3) as consortium:
        attempt, words = consortium.attempt(), random_words(1, 8)
        consortium.journal_file("a")
        lost = [consortium.hospital("a", consortium.folder / f"{i}.journal") for i in range(2)]
        one, other = (hospital.mask(attempt, words.copy()) for hospital in lost)

    assert not np.array_equal(one.words, other.words)
    assert one.commitment != other.commitment
    assert not set(one.shares.values()) & set(other.shares.values())


def test_a_hospital_that_was_told_something_else_stays_alone_and_hidden() -> None:
    """Pasquini, Francati and Ateniese 2022: d alone gets another model, the others a dead one."""
    nothing = np.zeros(MANY, dtype=np.uint32)
    with consortium_of(4) as consortium:
        attempt = consortium.attempt()
        other = replace(attempt, told=hashlib.sha256(b"a model for d alone").digest())
        masked = consortium.mask(attempt, dict.fromkeys("abc", nothing))
        masked |= consortium.mask(other, {"d": nothing})

        for name in "abcd":
            with pytest.raises(BadSeal):
                consortium[name].unmask(request_for(name, attempt, masked))
        three = {name: masked[name] for name in "abc"}
        answers = [consortium[name].unmask(request_for(name, attempt, three)) for name in three]
        with pytest.raises(BadSeal):
            consortium["d"].unmask(request_for("d", other, masked))

        # All seeds between d and the others that anybody gives away are of another context.
        given_away = [(answer.pair_seeds["d"], 1) for answer in answers]
        words = masked["d"].words.copy()
        assert looks_uniform(words)
        add_masks(words, given_away)
        assert looks_uniform(words)
        assert len(given_away) == 3
