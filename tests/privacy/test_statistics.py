"""What scaling constants are made of: sums over patients, and what one patient can change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedward.privacy.contribution import judged
from fedward.privacy.encoding import Encoding
from fedward.privacy.statistics import (
    LEAST_DEVIATION,
    NOISY_LEAST_DEVIATION,
    clipped_sum,
    layout_of,
    norm_of,
    patient_vectors,
    scaling_of,
)
from fedward.study.aggregation import FedAvg
from fedward.study.table_data import Feature, TableData

Array = NDArray[np.float64]

# Columns: age, not measured, sugar, sugar is absent.
DATA = TableData(
    kind="table",
    label="ill",
    scaling="measured",
    features={
        "age": Feature(bounds=(20.0, 90.0)),
        "sex": Feature(),
        "sugar": Feature(bounds=(100.0, 400.0), absent=0.0),
    },
)
LOW, HIGH = np.array([20.0, 100.0]), np.array([90.0, 400.0])


def table(ages: Any, sugars: Any) -> Array:  # noqa: ANN401 - numbers
    """Inputs as the reader gives them; a sugar of 0 is none."""
    sugar = np.asarray(sugars, dtype=float)
    return np.stack([np.asarray(ages, float), np.ones(len(sugar)), sugar, sugar == 0], axis=1)


@st.composite
def tables(draw: st.DrawFn, least: int = 1) -> tuple[Array, NDArray[np.int64]]:
    """Records within the bounds, and whose they are."""
    count = draw(st.integers(least, 30))
    ages = draw(hnp.arrays(float, count, elements=st.floats(20, 90)))
    sugars = draw(hnp.arrays(float, count, elements=st.just(0.0) | st.floats(100, 400)))
    patients = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 9)))
    return table(ages, sugars), patients


def sums(inputs: Array, patients: NDArray[np.int64]) -> Array:
    vectors = patient_vectors(inputs, patients, DATA)
    return np.concatenate([[len(vectors)], vectors.sum(axis=0)])


def by_hand(inputs: Array, patients: NDArray[np.int64]) -> list[tuple[float, float]]:
    """Mean and deviation of each feature; a record weighs 1 over its patient's records."""
    weight = np.array([1 / np.sum(patients == patient) for patient in patients])
    found = []
    for place, there in ((0, np.ones(len(inputs), bool)), (2, inputs[:, 3] == 0)):
        if not there.any():
            found.append((math.nan, math.nan))
            continue
        values, w = inputs[there, place], weight[there]
        mean = float(np.sum(w * values) / np.sum(w))
        found.append((mean, math.sqrt(float(np.sum(w * (values - mean) ** 2) / np.sum(w)))))
    return found


@given(tables())
def test_center_and_scale_are_mean_and_deviation_over_patients(
    records: tuple[Array, NDArray[np.int64]],
) -> None:
    inputs, patients = records
    found = sums(inputs, patients)
    scaling = scaling_of(found, DATA)

    half = (HIGH - LOW) / 2
    for number, there in enumerate((found[0], found[0] - found[-1])):
        if there < 1:  # fewer than one patient has a value
            wanted = (float(LOW[number] + half[number]), float(half[number]))
        else:
            mean, deviation = by_hand(inputs, patients)[number]
            wanted = (mean, max(deviation, LEAST_DEVIATION * float(half[number])))
        assert scaling.centers[number] == pytest.approx(wanted[0], rel=1e-9)
        assert scaling.scales[number] == pytest.approx(wanted[1], rel=1e-6)
    assert scaling.fault(DATA) == ""


@given(tables(least=2), st.randoms(use_true_random=False))
def test_hospitals_sums_add_up_to_those_of_all(
    records: tuple[Array, NDArray[np.int64]],
    random: Any,  # noqa: ANN401
) -> None:
    inputs, patients = records
    here = np.array([random.random() < 0.5 for _ in range(10)])[patients]
    each = [sums(inputs[mask], patients[mask]) for mask in (here, ~here) if mask.any()]

    np.testing.assert_allclose(np.sum(each, axis=0), sums(inputs, patients), atol=1e-9)


@given(tables(), st.lists(st.floats(-1e18, 1e18), min_size=2, max_size=20))
def test_a_patient_moves_the_clipped_sum_by_at_most_the_norm(
    records: tuple[Array, NDArray[np.int64]], odd: list[float]
) -> None:
    """Whatever the patient's values are, and however many records they have."""
    inputs, patients = records
    more = np.concatenate([inputs, table(odd, odd)])
    theirs = np.concatenate([patients, np.full(len(odd), 99)])
    norm = norm_of(DATA)

    whole = clipped_sum(patient_vectors(more, theirs, DATA), norm)
    rest = clipped_sum(patient_vectors(inputs, patients, DATA), norm)

    assert np.linalg.norm(whole - rest) <= norm * (1 + 1e-12)


def test_one_patient_can_move_it_by_the_whole_norm_and_unclipped_by_more() -> None:
    vectors = patient_vectors(table([90.0], [400.0]), np.array([0]), DATA)

    assert np.linalg.norm(vectors.sum(axis=0)) == pytest.approx(2.0)  # sqrt(2 d)
    assert np.linalg.norm(clipped_sum(vectors, norm_of(DATA))) == pytest.approx(math.sqrt(2))


def test_values_beyond_the_bounds_count_as_the_bound_and_nan_as_the_middle() -> None:
    vectors = patient_vectors(table([1000.0, -5.0, math.nan], [200.0] * 3), np.arange(3), DATA)

    assert vectors[:, :2].tolist() == [[1, 1], [-1, 1], [0, 0]]


NOISY = st.floats(-1e6, 1e6)


@given(st.floats(0, 1e6), st.lists(NOISY, min_size=5, max_size=5))
def test_whatever_noise_makes_of_the_sums_the_constants_are_possible(
    count: float, noisy: list[float]
) -> None:
    scaling = scaling_of(np.array([count, *noisy]), DATA, noisy=True)

    assert scaling.fault(DATA) == ""
    half = (HIGH - LOW) / 2
    for scale, width in zip(scaling.scales, half, strict=True):
        assert NOISY_LEAST_DEVIATION * width * (1 - 1e-12) <= scale <= width


@given(st.lists(tables(), min_size=1, max_size=4))
def test_in_fixed_point_the_sums_are_off_by_half_a_step_for_each_hospital(
    hospitals: list[tuple[Array, NDArray[np.int64]]],
) -> None:
    layout = layout_of(DATA)
    code = Encoding(layout, FedAvg(), hospitals=4)
    rng = np.random.default_rng(0)
    each = [sums(*records) for records in hospitals]
    words = [code.encode(judged(one), rng=rng) for one in each]
    total = code.decode(np.sum(words, axis=0, dtype=np.uint32)).metrics

    assert total[0] == sum(one[0] for one in each)  # the count is exact
    assert np.abs(total - np.sum(each, axis=0)).max() <= len(each) * 2**-17 + 1e-12
