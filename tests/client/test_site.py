"""A hospital as the server meets it: a request in, an answer out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.study.errors import FederationError
from fedward.study.messages import Contribution, Part, Refusal, TrainRequest
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
    start_of,
    total_of,
    training,
    vector_from,
)

# --- Answers --------------------------------------------------------------------------------------


def test_the_answer_is_an_update_the_real_count_and_no_metrics(study: Study, house: House) -> None:
    given = answer(house.site(**SEED), training(study))

    assert isinstance(given, Contribution)
    assert given.hospital == "north"
    total = total_of(study, given.vector)
    assert total.weight == 28
    assert (total.clipped, total.capped) == (0, 0)
    assert np.abs(total.update).max() > 0
    assert not total.metrics.any()


def test_the_update_is_the_trained_model_minus_the_one_that_came(
    plain_study: StudyWith, house: House
) -> None:
    """A learning rate of almost nothing gives an update of almost nothing, whatever the model."""
    study = plain_study({"training.learning_rate": 1e-9})
    house.approve(study)
    far = start_of(study) + np.float32(2)

    vector = vector_from(house.site(**SEED), training(study, model=far))

    assert np.abs(total_of(study, vector).update).max() < 1e-5


@pytest.mark.parametrize(("part", "count"), [("train", 28), ("validation", 4), ("test", 8)])
def test_the_model_is_judged_as_it_came_on_the_part_that_was_asked_for(
    part: Part, count: int, study: Study, house: House
) -> None:
    site = house.site(**SEED)
    judged = vector_from(site, judging(study, part))

    trained = vector_from(site, training(study, monitor=part))

    metrics = total_of(study, judged, update=False).metrics
    assert metrics[0] == count
    assert np.array_equal(total_of(study, trained).metrics, metrics)


def test_watching_does_not_change_the_training(study: Study, house: House) -> None:
    site = house.site(**SEED)
    one, other = (
        total_of(study, vector_from(site, training(study, monitor=part))).update
        for part in (None, "test")
    )

    assert np.array_equal(one, other)


def test_uniform_weighting_weighs_every_hospital_the_same(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"aggregation.weighting": "uniform"})
    house.approve(study)

    total = total_of(study, vector_from(house.site(**SEED), training(study)))

    assert total.weight == 1


def test_under_privacy_the_weight_is_the_declared_count(private: Study, house: House) -> None:
    total = total_of(private, vector_from(house.site(**SEED, **DECLARED), training(private)))

    assert total.weight == 50


def test_the_noise_shrinks_with_the_declared_count_and_not_the_real_one(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"privacy": PRIVATE | {"noise_multiplier": 1000.0}})
    house.approve(study)
    sizes = []
    for declared in (50, 5000):
        site = house.site(**SEED, limits={"declared_patients": declared})
        update = total_of(study, vector_from(site, training(study))).update
        shutil.rmtree(house.folder / "state")  # for the same draws anew
        sizes.append(float(np.linalg.norm(update)))

    assert sizes[0] / sizes[1] == pytest.approx(100, rel=0.05)


def test_an_update_that_is_longer_than_the_study_s_clip_is_shortened_to_it_and_says_so(
    plain_study: StudyWith, house: House
) -> None:
    updates = []
    for clip in (1e6, 1e-3):
        study = plain_study({"aggregation.clip": clip})
        house.approve(study)
        total = total_of(study, vector_from(house.site(**SEED), training(study)))
        assert total.clipped == (clip == 1e-3)
        updates.append(total.update)
    whole, cut = updates

    assert np.linalg.norm(whole) > 1e-3
    assert np.linalg.norm(cut) == pytest.approx(1e-3, rel=1e-5)
    direction = whole / np.linalg.norm(whole)
    np.testing.assert_allclose(cut, 1e-3 * direction, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("most", "weight", "capped"), [(27, 27, 1), (28, 28, 0), (29, 28, 0)])
def test_a_hospital_counts_as_no_more_records_than_the_study_allows_and_says_so(
    most: int, weight: int, capped: int, plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"aggregation.max_records": most})
    house.approve(study)

    total = total_of(study, vector_from(house.site(**SEED), training(study)))

    assert (total.weight, total.capped) == (weight, capped)


def test_under_privacy_it_is_the_declared_count_that_is_capped(
    plain_study: StudyWith, house: House
) -> None:
    """28 records are below the cap, and nobody may learn that."""
    study = plain_study({"privacy": PRIVATE, "aggregation.max_records": 40})
    house.approve(study)

    total = total_of(study, vector_from(house.site(**SEED, **DECLARED), training(study)))

    assert (total.weight, total.capped) == (40, 1)


# --- Randomness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("privacy", [False, True])
def test_the_same_seed_gives_the_same_answer_bit_for_bit(
    privacy: bool, plain_study: StudyWith, tmp_path: Path
) -> None:
    study = plain_study({"privacy": PRIVATE} if privacy else {})
    answers = []
    for place in ("a", "b"):
        house = House(tmp_path / place)
        house.approve(study)
        answers.append(vector_from(house.site(**SEED, **DECLARED), training(study)).tobytes())

    assert answers[0] == answers[1]


@pytest.mark.parametrize("privacy", [False, True])
def test_the_answer_does_not_depend_on_what_was_answered_before(
    privacy: bool, plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"privacy": PRIVATE} if privacy else {})
    house.approve(study)
    fresh = vector_from(house.site(**SEED, **DECLARED), training(study, 2))
    shutil.rmtree(house.folder / "state", ignore_errors=True)
    site = house.site(**SEED, **DECLARED)
    vector_from(site, training(study, 1, monitor="test"))
    vector_from(site, judging(study, "test"))

    assert np.array_equal(vector_from(site, training(study, 2)), fresh)


@pytest.mark.parametrize(
    "change", [{"number": 2}, {"run": "run-2"}], ids=["another round", "another run"]
)
@pytest.mark.parametrize("privacy", [False, True])
def test_another_round_or_run_draws_other_randomness(
    change: dict[str, Any], privacy: bool, plain_study: StudyWith, house: House
) -> None:
    study = plain_study(
        {"privacy": PRIVATE} if privacy else {"training.batch_size": 5, "training.local_epochs": 2}
    )
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    one, other = (vector_from(site, training(study, **kind)) for kind in ({}, change))

    assert not np.array_equal(one, other)


def test_two_hospitals_with_the_same_records_and_seed_draw_other_noise(
    private: Study, house: House, tmp_path: Path
) -> None:
    south = House(tmp_path, "south")
    south.approve(private)

    one, other = (
        vector_from(h.site(**SEED, **DECLARED), training(private)) for h in (house, south)
    )

    assert not np.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    "privacy",
    [
        {"sampling_rate": 1.0},
        {"noise_multiplier": 1e-6, "sampling_rate": 0.5, "delta": 1e-5},
    ],
    ids=["noise", "sample"],
)
def test_real_hospitals_never_draw_the_same_for_the_same_question(
    privacy: dict[str, Any], plain_study: StudyWith, tmp_path: Path
) -> None:
    """Hospitals alike in everything: whatever a seed could be made of is the same."""
    study = plain_study({"privacy": PRIVATE | privacy, "training.local_epochs": 4})
    answers = []
    for place in "abc":
        house = House(tmp_path / place)
        house.approve(study)
        answers.append(vector_from(house.site(**DECLARED), training(study)).tobytes())

    assert len(set(answers)) == 3


# --- Refusals -------------------------------------------------------------------------------------


def test_an_unapproved_study_is_refused(study: Study, plain_study: StudyWith, house: House) -> None:
    other = plain_study({"training.rounds": 99})

    refusal = refusal_from(house.site(**SEED), training(other))

    assert (refusal.hospital, refusal.error) == ("north", "RefusedError")
    assert other.digest()[:12] in refusal.what
    assert refusal.todo
    assert study.digest() != other.digest()


def test_a_server_of_another_version_is_refused(plain_study: StudyWith, house: House) -> None:
    study = plain_study({})
    house.approve(study)
    refusal = refusal_from(house.site(**SEED), training(study, 1, version="0.0.1"))

    assert refusal.error == "RefusedError"
    assert "0.0.1" in refusal.what


@pytest.mark.parametrize("withdrawn", ["taken away", "changed"])
def test_an_approval_can_be_withdrawn_while_the_study_runs(
    withdrawn: str, study: Study, plain_study: StudyWith, house: House
) -> None:
    site = house.site(**SEED)
    vector_from(site, training(study))

    if withdrawn == "changed":
        house.approve(plain_study({"training.rounds": 99}))
    else:
        (house.folder / "studies" / "study.toml").unlink()

    assert refusal_from(site, training(study, 2)).error == "RefusedError"


def test_a_fault_in_the_data_is_a_refusal_that_says_it_in_a_simulation(
    study: Study, house: House
) -> None:
    house.write("age,sex,diagnosis\nZACHARIAS,f,0\n")

    refusal = refusal_from(house.site(**SEED), training(study))

    assert refusal.error == "DataError"
    assert "row 1" in refusal.what


def test_a_real_hospital_tells_nobody_what_stands_in_its_data(study: Study, house: House) -> None:
    house.write("age,sex,diagnosis\nZACHARIAS,f,0\n")

    refusal = refusal_from(house.site(), training(study))

    assert refusal.error == "DataError"
    said = " ".join([refusal.what, refusal.todo])
    for secret in ("ZACHARIAS", "row", "t.csv", str(house.folder)):
        assert secret not in said


def test_a_study_without_a_fitting_model_is_no_approval(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"model": {"name": "mpl"}})
    house.approve(study)
    asked = TrainRequest(study.digest(), "r", 1, np.zeros(3, dtype=np.float32))

    assert refusal_from(house.site(**SEED), asked).error == "RefusedError"


DIVERGING: dict[str, Any] = {"training.local_epochs": 20}


@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_training_that_ends_in_no_number_is_a_refusal_and_never_a_contribution(
    rate: float, plain_study: StudyWith, house: House
) -> None:
    study = plain_study({**DIVERGING, "training.learning_rate": rate})
    house.approve(study)

    refusal = refusal_from(house.site(**SEED, **DECLARED), training(study))

    assert refusal.error == "TrainingError"
    assert "finite" in refusal.what


def test_private_training_is_not_ended_by_records_that_make_it_overflow(
    plain_study: StudyWith, house: House
) -> None:
    """Failing would tell of them: their gradients count as zero, and what is left is noise."""
    study = plain_study({**DIVERGING, "training.learning_rate": 1e20, "privacy": PRIVATE})
    house.approve(study)

    assert np.isfinite(vector_from(house.site(**SEED, **DECLARED), training(study))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_no_number_gives_no_contribution(
    value: float, study: Study, house: House
) -> None:
    model = start_of(study)
    model[0] = value

    for asked in (
        training(study, model=model),
        judging(study, model=np.full_like(model, np.nan)),
    ):
        assert refusal_from(house.site(**SEED), asked).error == "TrainingError"


@pytest.mark.parametrize("change", [-1, 1])
def test_a_model_of_another_size_is_refused_before_anything_is_charged(
    change: int, private: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    model = np.zeros(len(start_of(private)) + change, dtype=np.float32)

    for asked in (
        training(private, model=model),
        judging(private, model=model),
    ):
        refusal = refusal_from(site, asked)
        assert refusal.error == "TrainingError"
        assert "fit" in refusal.what
    assert spent(site) == 0


def test_a_refusal_does_not_spoil_the_next_answer(study: Study, house: House) -> None:
    site = house.site(**SEED)
    expected = vector_from(house.site(**SEED), training(study))

    refusal_from(site, training(study, model=np.zeros(1, dtype=np.float32)))

    assert np.array_equal(vector_from(site, training(study)), expected)


@pytest.mark.parametrize("number", [0, 4])
def test_a_round_that_the_study_does_not_have_is_refused(
    number: int, plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"training.rounds": 3})
    house.approve(study)

    assert refusal_from(house.site(**SEED), training(study, number)).error == "RefusedError"


def test_a_changed_approval_of_data_that_was_not_there_is_read_anew(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({})
    house.approve(study)
    site = house.site(**SEED)
    table = house.folder / "t.csv"
    kept = table.read_bytes()
    table.unlink()
    assert refusal_from(site, training(study)).error == "DataError"
    for file in (house.folder / "studies").iterdir():
        file.touch()
    table.write_bytes(kept)

    vector_from(site, training(study))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_part_is_judged_in_its_own_exchange_and_in_no_other(
    part: Part, plain_study: StudyWith, house: House
) -> None:
    """After 3 rounds of training come 4, 5 and 6; asked at will, its sums would tell more."""
    study = plain_study({"training.rounds": 3})
    house.approve(study)
    site = house.site(**SEED)
    taken = []
    for number in range(9):
        given = answer(site, judging(study, part, round=number))
        if isinstance(given, Contribution):
            taken.append(number)
        else:
            assert isinstance(given, Refusal)
            assert given.error == "RefusedError"
            assert part in given.what

    assert taken == [{"train": 4, "validation": 5, "test": 6}[part]]


@pytest.mark.parametrize("tables", [{}, SEED], ids=["real", "pretended"])
def test_who_sends_what_is_no_request_learns_nothing_of_what_is_wrong_with_it(
    tables: dict[str, Any], house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def ask() -> TrainRequest:
        raise FederationError("a vector of 17 values", todo="send 18")

    refusal = house.site(**tables).answer(ask)

    assert isinstance(refusal, Refusal)
    assert (refusal.hospital, refusal.error) == ("north", "ProtocolError")
    assert not any(sign.isdigit() for sign in refusal.what + refusal.todo)
    assert "a vector of 17 values" in caplog.text  # its own log says it


def test_what_goes_wrong_while_a_request_is_read_is_an_answer_too(house: House) -> None:
    def ask() -> TrainRequest:
        raise KeyError("ZACHARIAS")

    refusal = house.site().answer(ask)

    assert isinstance(refusal, Refusal)
    assert refusal.what == "could not finish"
    assert "ZACHARIAS" not in refusal.todo
