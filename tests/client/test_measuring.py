"""A hospital is asked for what scaling constants are made of, and given the constants."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from fedward.client.asked import told_digest
from fedward.client.data.records import Records
from fedward.client.scaling import scaled
from fedward.client.site import Site
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.plain_sum import PlainSum
from fedward.privacy.schedule import noise_of
from fedward.privacy.statistics import layout_of, patient_vectors, scaling_of
from fedward.study.messages import Contribution, MeasureRequest, Request
from fedward.study.privacy import LocalPrivacy
from fedward.study.scaling import Scaling
from fedward.study.study import Study
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    House,
    StudyWith,
    answer,
    judging,
    refusal_from,
    spent,
    training,
    vector_from,
)

FEATURES: dict[str, Any] = {
    "age": {"bounds": [20.0, 90.0]},
    "sex": {"categories": ["f", "m"]},
}
MEASURED: dict[str, object] = {"data.features": FEATURES, "data.scaling": "measured"}
NOISE = 3.0
PAID = PRIVATE | {"statistics_noise_multiplier": NOISE}
CONSTANTS = Scaling((55.0,), (20.0,))
ONCE = SampledGaussian(NOISE, 1.0, 1)


@pytest.fixture
def measured(plain_study: StudyWith, house: House) -> Study:
    """An approved study without privacy that measures the age."""
    found = plain_study(MEASURED)
    house.approve(found)
    return found


@pytest.fixture
def paid(plain_study: StudyWith, house: House) -> Study:
    """The same with privacy."""
    found = plain_study({**MEASURED, "privacy": PAID})
    house.approve(found)
    return found


def measuring(study: Study, **changes: Any) -> MeasureRequest:  # noqa: ANN401
    return dataclasses.replace(MeasureRequest(study.digest(), "run-1"), **changes)


def sums_from(site: Site, study: Study, asked: Request) -> Any:  # noqa: ANN401 - an array
    given = answer(site, asked)
    assert isinstance(given, Contribution), given
    total = PlainSum(layout_of(study.data))
    total.add(given.vector)
    return total.total().metrics


def ages(site: Site, study: Study) -> Any:  # noqa: ANN401 - an array
    """Of the training patients, in years."""
    return site.load(study.digest()).parts["train"].whole[:, 0].numpy().astype(float)


def test_without_privacy_it_adds_exact_sums(measured: Study, house: House) -> None:
    site = house.site(**SEED)
    known = ages(site, measured)

    sums = sums_from(site, measured, measuring(measured))
    scaling = scaling_of(sums, measured.data)

    assert sums[0] == len(known)
    assert scaling.centers[0] == pytest.approx(known.mean(), rel=1e-6)
    assert scaling.scales[0] == pytest.approx(known.std(), rel=1e-5)
    assert not (house.folder / "state" / "ledger.sqlite").exists()


def test_with_privacy_it_adds_noise_and_the_number_that_it_declared(
    paid: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    value = np.clip((ages(site, paid) - 55) / 35, -1, 1)

    sums = sums_from(site, paid, measuring(paid))
    off = sums[1:] - [value.sum(), (value**2).sum()]

    assert sums[0] == 50
    assert np.all(np.abs(off) < 6 * NOISE)
    assert np.all(np.abs(off) > 1e-3)


def test_the_noise_has_the_deviation_that_is_paid_for(paid: Study, house: House) -> None:
    """Standard deviation: the noise multiplier times the norm, which is 1 for one feature."""
    site = house.site(**SEED, **DECLARED)
    value = np.clip((ages(site, paid) - 55) / 35, -1, 1)
    exact = np.array([value.sum(), (value**2).sum()])
    off = [
        sums_from(site, paid, measuring(paid, run=f"run-{number}"))[1:] - exact
        for number in range(150)
    ]

    assert np.std(off) == pytest.approx(NOISE, rel=0.15)
    assert np.mean(off) == pytest.approx(0, abs=4 * NOISE / math.sqrt(300))


def test_it_is_charged_exactly_once_however_often_it_is_asked(paid: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)
    first = vector_from(site, measuring(paid))
    again = vector_from(site, measuring(paid))
    restarted = vector_from(house.site(**SEED, **DECLARED), measuring(paid))

    assert first.tobytes() == again.tobytes() == restarted.tobytes()
    (entry,) = site.ledger.entries()
    assert (entry.charge.round, entry.charge.steps) == (0, ONCE)
    assert entry.charge.told == told_digest(measuring(paid)).hex()
    assert spent(site) == epsilon_of([ONCE], 1e-5, "rdp")


def test_the_charge_is_on_disk_before_the_records_are_looked_at(
    paid: Study, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = house.site(**SEED, **DECLARED)
    charged: list[int] = []

    def watched(*given: Any) -> Any:  # noqa: ANN401
        charged.append(len(house.site().ledger.entries()))
        return patient_vectors(*given)

    monkeypatch.setattr("fedward.client.scaling.patient_vectors", watched)
    vector_from(site, measuring(paid))

    assert charged == [1]


def test_rounds_follow_and_all_of_it_adds_up(paid: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, measuring(paid))
    for number in (1, 2, 3):
        vector_from(site, training(paid, number, scaling=CONSTANTS))
    vector_from(site, judging(paid, scaling=CONSTANTS))

    rounds = SampledGaussian(1.0, 0.5, 2 * 3)
    assert [entry.charge.round for entry in site.ledger.entries()] == [0, 1, 2, 3]
    assert spent(site) == epsilon_of([ONCE, rounds], 1e-5, "rdp")


def test_a_run_s_noise_is_that_of_its_rounds_also_after_a_restart(
    plain_study: StudyWith, house: House
) -> None:
    budget = {k: v for k, v in PAID.items() if k != "noise_multiplier"} | {"epsilon": 4.0}
    study = plain_study({**MEASURED, "privacy": budget})
    house.approve(study)
    vector_from(house.site(**SEED, **DECLARED), measuring(study))
    for number in (1, 2, 3):
        vector_from(house.site(**SEED, **DECLARED), training(study, number, scaling=CONSTANTS))

    site, privacy = house.site(), study.privacy
    assert isinstance(privacy, LocalPrivacy)
    (noise,) = {e.charge.steps.noise_multiplier for e in site.ledger.entries() if e.charge.round}
    assert noise == noise_of(study, privacy, 0.5)
    assert 3.9 < spent(site) <= 4.0


def test_it_is_not_measured_after_a_round_or_for_other_patients(paid: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, training(paid, 1, scaling=CONSTANTS))

    assert refusal_from(site, measuring(paid)).error == "RoundIsOver"

    vector_from(site, measuring(paid, run="run-2"))
    house.write("age,sex,diagnosis\n" + "50,f,0\n51,m,1\n" * 20)
    other = house.site(**SEED, **DECLARED)
    refused = refusal_from(other, training(paid, 1, run="run-2", scaling=CONSTANTS))
    assert refused.error == "PopulationChanged"


def test_a_cap_holds_for_it_too(paid: Study, house: House) -> None:
    cap = epsilon_of([ONCE], 1e-5, "rdp")
    limits = {"declared_patients": 50, "delta": 1e-5}
    tight = house.site(**SEED, limits=limits | {"epsilon": 0.99 * cap})
    wide = house.site(**SEED, limits=limits | {"epsilon": 1.01 * cap})

    assert refusal_from(tight, measuring(paid)).error == "BudgetError"
    vector_from(wide, measuring(paid))


def test_a_study_that_measures_nothing_is_not_measured(study: Study, house: House) -> None:
    assert refusal_from(house.site(**SEED), measuring(study)).error == "RefusedError"


def test_there_is_no_second_measuring(measured: Study, house: House) -> None:
    assert refusal_from(house.site(**SEED), measuring(measured, round=1)).error == "RefusedError"


ODD = [
    None,
    Scaling((), ()),
    Scaling((55.0, 55.0), (1.0, 1.0)),
    *(Scaling((odd,), (1.0,)) for odd in (math.nan, math.inf, 19.0, 91.0)),
    *(Scaling((55.0,), (odd,)) for odd in (math.nan, math.inf, 0.0, -1.0)),
]


@pytest.mark.parametrize("scaling", ODD, ids=str)
def test_constants_that_cannot_be_are_refused_and_cost_nothing(
    scaling: Scaling | None, paid: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    for asked in (training(paid, scaling=scaling), judging(paid, scaling=scaling)):
        refusal = refusal_from(site, asked)
        assert refusal.error == "RefusedError"
        assert "scaling constants" in refusal.what
    assert site.ledger.entries() == []


def test_constants_for_a_study_that_gives_its_own_are_refused(study: Study, house: House) -> None:
    refusal = refusal_from(house.site(**SEED), training(study, scaling=CONSTANTS))

    assert refusal.error == "RefusedError"


def test_other_constants_are_another_question(measured: Study) -> None:
    other = Scaling((55.0,), (21.0,))
    for ask in (training, judging):
        digests = {
            told_digest(ask(measured, scaling=scaling)) for scaling in (None, CONSTANTS, other)
        }
        assert len(digests) == 3


def test_a_round_answered_with_other_constants_is_refused(paid: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, training(paid, scaling=CONSTANTS))
    other = training(paid, scaling=Scaling((56.0,), (20.0,)))

    assert refusal_from(site, other).error == "AnotherModel"


def test_it_trains_as_on_a_study_that_gives_these_constants(
    measured: Study, plain_study: StudyWith, house: House
) -> None:
    given = plain_study({"data.features": FEATURES | {"age": {"center": 55.0, "scale": 20.0}}})
    one = vector_from(house.site(**SEED), training(measured, scaling=CONSTANTS))
    judged_one = vector_from(house.site(**SEED), judging(measured, scaling=CONSTANTS))
    house.approve(given)
    other = vector_from(house.site(**SEED), training(given))
    judged_other = vector_from(house.site(**SEED), judging(given))

    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(judged_one, judged_other, rtol=1e-4, atol=1e-4)


def test_a_value_beyond_the_bounds_is_the_bound_and_an_absent_one_stays_zero(
    plain_study: StudyWith, house: House
) -> None:
    house.write("age,sex,diagnosis\n" + "".join(f"{a},f,0\n" for a in (0, 10, 55, 200) * 10))
    age = {"bounds": [20.0, 90.0], "absent": 0.0}
    study = plain_study({**MEASURED, "data.features": FEATURES | {"age": age}})
    house.approve(study)
    parts = house.site(**SEED).load(study.digest()).parts
    raw: Records = parts["train"]

    found = scaled(parts, study.data, CONSTANTS)["train"].whole

    assert {tuple(row[:2]) for row in raw.whole.tolist()} == {(0, 1), (20, 0), (55, 0), (90, 0)}
    assert {tuple(row[:2]) for row in found.tolist()} == {(0, 1), (-1.75, 0), (0, 0), (1.75, 0)}
    assert found[:, 2:].equal(raw.whole[:, 2:])
