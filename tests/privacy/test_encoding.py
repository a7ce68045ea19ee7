"""The sum of encoded contributions is the sum of the contributions, as fine as is promised."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.contribution import Layout, Summand, Total
from fedward.privacy.encoding import Encoding
from fedward.study.aggregation import FedAvg
from fedward.study.errors import TrainingError
from fedward.study.messages import Words

NEARLY_ONE = 1 - 2**-22  # rounding to float32 cannot bring it above 1
NO_METRICS = np.zeros(0)


@dataclass(frozen=True)
class Exchange:
    """The terms of one exchange, and what its hospitals add."""

    code: Encoding
    summands: list[Summand]
    clip: float
    largest: int
    room: int

    @property
    def promised(self) -> float:
        """Largest error of one coordinate of the sum of weight * update.

        A coordinate of weight / largest * update lies within the clip and becomes a whole number
        of at most `room`: its rounding is off by less than clip / room.
        """
        return len(self.summands) * self.largest * self.clip / self.room

    def decoded(self, seed: int = 0) -> Total:
        rng = np.random.default_rng(seed)
        return self.code.decode(added(self.code.encode(s, rng=rng) for s in self.summands))

    def weighted(self) -> NDArray[np.float64]:
        total = np.zeros(len(self.summands[0].update))
        for summand in self.summands:
            total += summand.weight * summand.update.astype(np.float64)
        return total


def added(vectors: Iterable[Words]) -> Words:
    """The sum modulo 2**32, through wider integers."""
    first, *others = vectors
    total = first.astype(np.uint64)
    for words in others:
        total += words
    return (total % 2**32).astype(np.uint32)


def room_of(hospitals: int) -> int:
    """Largest whole number of which so many never leave the signed 32 bits."""
    return (2**31 - 1) // hospitals


def code_for(
    hospitals: int, *, parameters: int = 0, metrics: int = 0, reals: tuple[int, ...] = ()
) -> Encoding:
    """A code with a clip of 1 and a largest weight of 100."""
    terms = FedAvg(clip=1.0, max_records=100)
    return Encoding(Layout(parameters, metrics, reals), terms, hospitals=hospitals)


def of_metrics(*values: float) -> Summand:
    return Summand(np.zeros(0, dtype=np.float32), 0.0, np.array(values))


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Any number of hospitals that the code was made for, or fewer of them that answer."""
    hospitals = draw(st.integers(2, 70))
    answering = draw(st.integers(1, hospitals))
    parameters = draw(st.sampled_from([0, 1, 2, 3, 7, 33]))
    clip = draw(st.sampled_from([1e-6, 0.5, 1.0, 100.0, 1e6]))
    largest = draw(st.sampled_from([1, 64, 10_000, 2**20]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    summands = []
    for _ in range(answering):
        direction = rng.normal(size=parameters) * (rng.random(parameters) < 0.7)
        length = math.sqrt(float(direction @ direction)) or 1.0
        size = draw(st.sampled_from([0.0, 1e-9, 0.3, NEARLY_ONE])) * clip
        weight = draw(st.sampled_from([0.0, 1e-9, 1.0, largest / 3, float(largest)]))
        update = (direction / length * size).astype(np.float32)
        summands.append(Summand(update, min(weight, largest), NO_METRICS))
    terms = FedAvg(clip=clip, max_records=largest)
    code = Encoding(Layout(parameters, 0), terms, hospitals=hospitals)
    return Exchange(code, summands, clip, largest, room_of(hospitals))


# --- The update -----------------------------------------------------------------------------------


@given(exchanges())
def test_the_sum_of_weighted_updates_is_within_the_promised_bound(exchange: Exchange) -> None:
    total = exchange.decoded()

    weight = sum(s.weight for s in exchange.summands)
    assert total.weight == pytest.approx(weight, abs=len(exchange.summands) * 2**-17)
    found = total.update * total.weight
    float_noise = 1e-12 * exchange.largest * exchange.clip
    if total.weight > 0:
        wrong = np.abs(found - exchange.weighted())
        assert (wrong <= exchange.promised + float_noise).all()
    else:
        assert not total.update.any()


@given(exchanges())
def test_the_code_itself_promises_the_same_bound(exchange: Exchange) -> None:
    one = exchange.promised / len(exchange.summands)

    assert exchange.code.error_bound == pytest.approx(one, rel=1e-12)


@given(st.integers(2, 70), st.sampled_from([-1.0, 1.0]))
def test_when_all_hospitals_add_the_largest_value_the_sum_does_not_wrap(
    hospitals: int, sign: float
) -> None:
    code = code_for(hospitals, parameters=1)
    one = Summand(np.array([sign], dtype=np.float32), 100.0, NO_METRICS)
    rng = np.random.default_rng(1)

    total = code.decode(added(code.encode(one, rng=rng) for _ in range(hospitals)))

    assert total.weight == hospitals * 100
    assert total.update == pytest.approx([sign], abs=1 / room_of(hospitals))


def test_a_million_values_keep_the_bound() -> None:
    hospitals, size = 4, 10**6 + 1
    code = code_for(hospitals, parameters=size)
    rng = np.random.default_rng(2)
    updates = [rng.uniform(-1e-3, 1e-3, size).astype(np.float32) for _ in range(hospitals)]
    weights = [100.0, 1.0, 0.0, 31.5]
    summands = [Summand(u, w, NO_METRICS) for u, w in zip(updates, weights, strict=True)]
    exchange = Exchange(code, summands, 1.0, 100, room_of(hospitals))

    total = exchange.decoded()

    assert total.update.shape == (size,)
    wrong = np.abs(total.update * total.weight - exchange.weighted()).max()
    assert wrong <= exchange.promised + 1e-12


def test_the_mean_is_the_weighted_one() -> None:
    """Known answer: (1 * 0.5 + 3 * -0.25) / 4."""
    code = code_for(2, parameters=1)
    rng = np.random.default_rng(0)
    one = Summand(np.array([0.5], dtype=np.float32), 1.0, NO_METRICS)
    other = Summand(np.array([-0.25], dtype=np.float32), 3.0, NO_METRICS)

    total = code.decode(added(code.encode(s, rng=rng) for s in (one, other)))

    assert total.weight == 4
    assert total.update == pytest.approx([-0.0625], abs=2 * 100 / room_of(2) / 4)


def test_a_sum_of_no_weight_is_no_update() -> None:
    code = code_for(3, parameters=2)
    nothing = Summand(np.array([0.5, -0.5], dtype=np.float32), 0.0, NO_METRICS)
    words = code.encode(nothing, rng=np.random.default_rng(0))

    total = code.decode(added([words, words]))

    assert total.weight == 0
    assert total.update.tolist() == [0, 0]


def test_rounding_is_right_on_average() -> None:
    """A value between two whole numbers becomes the upper one as often as it is near it."""
    hospitals, tries = 3, 40_000
    code = code_for(hospitals, parameters=tries)
    step = 1 / room_of(hospitals)
    update = np.full(tries, 0.3 * step, dtype=np.float32)
    rng = np.random.default_rng(11)
    words = code.encode(Summand(update, 100.0, NO_METRICS), rng=rng)[:tries]

    up = float(np.mean(words))

    assert set(np.unique(words)) == {0, 1}
    five_deviations = 5 * math.sqrt(0.3 * 0.7 / tries)
    assert up == pytest.approx(0.3, abs=five_deviations)


def test_rounding_of_a_negative_value_is_right_on_average_too() -> None:
    hospitals, tries = 3, 40_000
    code = code_for(hospitals, parameters=tries)
    update = np.full(tries, -0.3 / room_of(hospitals), dtype=np.float32)
    summand = Summand(update, 100.0, NO_METRICS)
    words = code.encode(summand, rng=np.random.default_rng(12))

    signed = words[:tries].view(np.int32)

    assert set(np.unique(signed)) == {-1, 0}
    assert float(signed.mean()) == pytest.approx(-0.3, abs=5 * math.sqrt(0.3 * 0.7 / tries))


@given(exchanges(), st.integers(0, 2**32))
def test_a_seeded_generator_gives_the_same_words_again(exchange: Exchange, seed: int) -> None:
    for summand in exchange.summands[:3]:
        one, other = (
            exchange.code.encode(summand, rng=np.random.default_rng(seed)) for _ in range(2)
        )
        assert np.array_equal(one, other)


def test_another_seed_rounds_differently() -> None:
    code = code_for(3, parameters=64)
    summand = Summand(np.full(64, 0.01234567, dtype=np.float32), 50.0, NO_METRICS)

    one, other = (code.encode(summand, rng=np.random.default_rng(seed)) for seed in (1, 2))

    assert not np.array_equal(one, other)


def test_encoding_leaves_what_it_was_given_alone() -> None:
    code = code_for(3, parameters=3, metrics=2, reals=(1,))
    update = np.array([0.1, -0.2, 0.3], dtype=np.float32)
    metrics = np.array([5.0, 2.5])

    code.encode(Summand(update, 7.0, metrics), rng=np.random.default_rng(0))

    assert update.tolist() == np.array([0.1, -0.2, 0.3], dtype=np.float32).tolist()
    assert metrics.tolist() == [5.0, 2.5]


# --- Counts and real numbers ----------------------------------------------------------------------


@given(st.integers(2, 70), st.integers(0, 12), st.data())
def test_counts_are_exact(hospitals: int, metrics: int, data: st.DataObject) -> None:
    room = room_of(hospitals)
    counts = data.draw(
        st.lists(
            st.lists(st.integers(-room, room), min_size=metrics, max_size=metrics),
            min_size=1,
            max_size=min(hospitals, 6),
        )
    )
    code = code_for(hospitals, metrics=metrics)
    rng = np.random.default_rng(0)

    total = code.decode(added(code.encode(of_metrics(*row), rng=rng) for row in counts))

    assert total.metrics.tolist() == [sum(column) for column in zip(*counts, strict=True)]


@given(st.integers(2, 70), st.sampled_from([-1, 1]))
def test_as_many_of_the_largest_count_as_there_are_hospitals_do_not_wrap(
    hospitals: int, sign: int
) -> None:
    code, count = code_for(hospitals, metrics=1), sign * room_of(hospitals)
    words = code.encode(of_metrics(count), rng=np.random.default_rng(0))

    assert code.decode(added([words] * hospitals)).metrics.tolist() == [hospitals * count]


@given(st.integers(2, 70), st.lists(st.booleans(), min_size=1, max_size=20))
def test_clipped_capped_and_failed_hospitals_are_counted(hospitals: int, flags: list[bool]) -> None:
    flags = flags[:hospitals]
    code, rng = code_for(hospitals), np.random.default_rng(0)
    empty = np.zeros(0, dtype=np.float32)
    summands = [Summand(empty, 1.0, NO_METRICS, f, not f, failed=f) for f in flags]

    total = code.decode(added(code.encode(s, rng=rng) for s in summands))

    assert (total.clipped, total.capped) == (sum(flags), len(flags) - sum(flags))
    assert total.failed == sum(flags)


@given(st.integers(2, 70), st.data())
def test_multiples_of_2_to_the_minus_16_are_exact(hospitals: int, data: st.DataObject) -> None:
    whole = st.integers(-(2**45), 2**45)  # 2**45 / 2**16 is a loss of 500 million
    losses = data.draw(st.lists(whole, min_size=1, max_size=min(hospitals, 6)))
    code, rng = code_for(hospitals, metrics=2, reals=(1,)), np.random.default_rng(0)

    total = code.decode(
        added(code.encode(of_metrics(3, loss * 2.0**-16), rng=rng) for loss in losses)
    )

    assert total.metrics.tolist() == [3 * len(losses), sum(losses) * 2.0**-16]


@given(st.integers(2, 70), st.data())
def test_any_loss_is_right_to_half_of_2_to_the_minus_16_a_hospital(
    hospitals: int, data: st.DataObject
) -> None:
    losses = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=min(hospitals, 6)))
    code, rng = code_for(hospitals, metrics=1, reals=(0,)), np.random.default_rng(0)

    total = code.decode(added(code.encode(of_metrics(loss), rng=rng) for loss in losses))

    # Half a step a hospital, and what the floating-point sum itself may be off by.
    allowed = len(losses) * (2**-17 + 1e6 * 2**-52)
    assert total.metrics[0] == pytest.approx(math.fsum(losses), rel=0, abs=allowed)


@given(st.integers(2, 70), st.sampled_from([-1, 1]))
def test_as_many_of_the_largest_real_number_as_there_are_hospitals_do_not_wrap(
    hospitals: int, sign: int
) -> None:
    """Room for a whole word above the bits that n hospitals need below: n * 2**bits <= 2**31."""
    bits = next(b for b in range(31, -1, -1) if hospitals * 2**b <= 2**31)
    largest = sign * room_of(hospitals) * 2**bits * 2.0**-16
    code = code_for(hospitals, metrics=1, reals=(0,))
    words = code.encode(of_metrics(largest), rng=np.random.default_rng(0))

    total = code.decode(added([words] * hospitals))

    assert total.metrics[0] == pytest.approx(hospitals * largest, rel=1e-15)


def test_a_negative_loss_comes_back_negative() -> None:
    code = code_for(3, metrics=1, reals=(0,))
    rng = np.random.default_rng(0)

    words = [code.encode(of_metrics(loss), rng=rng) for loss in (-0.5, -1000.25, 0.25)]

    assert code.decode(added(words)).metrics.tolist() == [-1000.5]


@given(st.integers(0, 40), st.integers(0, 9), st.integers(2, 70))
def test_the_words_are_as_many_as_the_code_says(
    parameters: int, metrics: int, hospitals: int
) -> None:
    reals = (1,) if metrics > 1 else ()
    code = code_for(hospitals, parameters=parameters, metrics=metrics, reals=reals)
    summand = Summand(np.zeros(parameters, dtype=np.float32), 1.0, np.zeros(metrics))

    words = code.encode(summand, rng=np.random.default_rng(0))

    assert words.dtype == np.uint32
    # The update, weight with three marks, the metrics; the weight and a loss take two.
    assert words.shape == (code.size,) == (parameters + 4 + metrics + 1 + len(reals),)


# --- What cannot be added up ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_metric_that_is_not_finite_is_refused(place: int, value: float) -> None:
    code = code_for(3, metrics=2, reals=(1,))
    metrics = [1.0, 1.0]
    metrics[place] = value

    with pytest.raises(TrainingError, match=r"not finite.*learning_rate"):
        code.encode(of_metrics(*metrics), rng=np.random.default_rng(0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    summand = Summand(np.zeros(0, dtype=np.float32), value, NO_METRICS)

    with pytest.raises(TrainingError, match="not finite"):
        code_for(3).encode(summand, rng=np.random.default_rng(0))


@given(st.integers(2, 70), st.sampled_from([-1, 1]))
def test_a_count_that_the_sum_has_no_room_for_is_refused(hospitals: int, sign: int) -> None:
    code = code_for(hospitals, metrics=1)

    with pytest.raises(TrainingError, match="too large to be added up"):
        code.encode(of_metrics(sign * (room_of(hospitals) + 1.0)), rng=np.random.default_rng(0))


@pytest.mark.parametrize("loss", [1e15, -1e15, 1e300])
@pytest.mark.parametrize("hospitals", [2, 3, 70])
def test_a_loss_that_the_sum_has_no_room_for_is_refused(hospitals: int, loss: float) -> None:
    """The largest room is that of two hospitals: 2**30 * 2**30 / 2**16, about 1.8e13."""
    code = code_for(hospitals, metrics=1, reals=(0,))

    with pytest.raises(TrainingError, match="too large to be added up"):
        code.encode(of_metrics(loss), rng=np.random.default_rng(0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    summand = Summand(np.array([0.1, value], dtype=np.float32), 1.0, NO_METRICS)

    with pytest.raises(TrainingError, match="not finite"):
        code_for(3, parameters=2).encode(summand, rng=np.random.default_rng(0))


def test_a_loss_near_the_largest_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="too large"):
        code_for(3, metrics=1, reals=(0,)).encode(of_metrics(1.7e308), rng=np.random.default_rng(0))
