"""Where a study's promise to patients would not hold, a hospital refuses, and can go on after it.

Nothing is charged where the refusal comes before training. Where it comes out of training (steps
that do not match, a parameter without a gradient) the round stays charged: records were used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedward.client.site import Site
from fedward.models import flat
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.steps import Batch
from fedward.study.messages import Part, Refusal
from fedward.study.study import Study
from tests import secure_sites
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    SOURCE,
    House,
    StudyWith,
    judging,
    refusal_from,
    start_of,
    training,
    vector_from,
)

Patch = pytest.MonkeyPatch


def charged(site: Site) -> int:
    return len(site.ledger.entries())


def assert_goes_on(site: Site, study: Study, number: int) -> None:
    """The next honest round is answered, and charged once."""
    before = charged(site)
    vector_from(site, training(study, number))
    assert charged(site) == before + 1


# --- Before training: nothing is charged ----------------------------------------------------------


def test_a_hospital_that_declares_no_patients_refuses(private: Study, house: House) -> None:
    site = house.site(**SEED)

    refusal = refusal_from(site, training(private))

    assert refusal.error == "Undeclared"
    assert "declared_patients" in refusal.todo
    assert charged(site) == 0
    assert_goes_on(house.site(**SEED, **DECLARED), private, 1)


@pytest.mark.parametrize("seed", [SEED, {}], ids=["pretended", "real"])
def test_a_delta_above_1_over_the_declared_patients_is_refused_with_the_arithmetic(
    seed: dict[str, object], private: Study, plain_study: StudyWith, house: House
) -> None:
    careless = plain_study({"privacy": PRIVATE | {"delta": 0.03}})
    house.approve(careless)
    site = house.site(**seed, **DECLARED)

    refusal = refusal_from(site, training(careless))

    assert refusal.error == "DeltaTooLarge"
    for part in ("0.03", "1 / 50", "0.02"):
        assert part in refusal.what
    assert charged(site) == 0
    house.approve(private)
    assert_goes_on(site, private, 1)


def test_the_true_number_of_patients_refuses_nothing_and_is_told_the_hospital_alone(
    plain_study: StudyWith, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten are declared, and twenty-eight are there: a refusal at the twentieth would tell of it."""
    careless = plain_study({"privacy": PRIVATE | {"delta": 0.05}})
    house.approve(careless)
    site = house.site(limits={"declared_patients": 10})

    vector_from(site, training(careless))

    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "delta 0.05 is above 1 / 28 training patients" in warning
    assert "10 declared" in warning


def test_a_hospital_that_declares_its_patients_is_not_warned(
    plain_study: StudyWith, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    fitting = plain_study({"privacy": PRIVATE | {"delta": 1 / 28}})
    house.approve(fitting)

    vector_from(house.site(limits={"declared_patients": 28}), training(fitting))

    assert not caplog.records


@pytest.mark.parametrize("seed", [SEED, {}], ids=["pretended", "real"])
def test_a_hospital_that_does_not_say_whose_its_records_are_trains_no_private_study(
    seed: dict[str, object], private: Study, house: House
) -> None:
    unnamed = {key: value for key, value in SOURCE.items() if key != "patient"}
    site = house.site(**seed, **DECLARED, data=unnamed)

    for asked in (training(private, 1), judging(private, "validation")):
        refusal = refusal_from(site, asked)
        assert refusal.error == "PatientsUnnamed"
        assert 'patient = "column" or patient = "record"' in refusal.todo

    assert charged(site) == 0
    assert_goes_on(house.site(**seed, **DECLARED), private, 1)


def test_without_privacy_nobody_must_say_whose_records_are(study: Study, house: House) -> None:
    unnamed = {key: value for key, value in SOURCE.items() if key != "patient"}
    said = vector_from(house.site(**SEED), training(study))

    assert np.array_equal(vector_from(house.site(**SEED, data=unnamed), training(study)), said)


def test_a_figure_of_the_training_records_is_refused(private: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)

    for asked in (training(private, monitor="train"), judging(private, "train")):
        refusal = refusal_from(site, asked)
        assert refusal.error == "MetricWouldLeave"
        assert "training records" in refusal.what

    assert charged(site) == 0
    vector_from(site, judging(private, "validation"))
    assert_goes_on(site, private, 1)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_real_hospital_gives_no_metrics_in_the_clear(
    part: Part, private: Study, house: House
) -> None:
    site = house.site(**DECLARED)

    for asked in (training(private, 1, monitor=part), judging(private, part)):
        refusal = refusal_from(site, asked)
        assert refusal.error == "MetricWouldLeave"
        assert "in the clear" in refusal.what
        assert "secure = true" in refusal.todo

    assert charged(site) == 0
    assert_goes_on(site, private, 1)


def test_a_pretended_hospital_may(private: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)

    assert len(vector_from(site, judging(private, "validation")))
    assert len(vector_from(site, training(private, 1, monitor="test")))


def test_a_real_hospital_without_privacy_may(study: Study, house: House) -> None:
    assert len(vector_from(house.site(), judging(study, "test")))


def test_a_real_hospital_s_metrics_may_leave_in_a_secure_sum(tmp_path: Path) -> None:
    study = secure_sites.study_of(privacy=secure_sites.PRIVATE)
    run = secure_sites.Run(secure_sites.Sites(tmp_path, study), study)

    total = run.play(run.evaluate("test"))

    assert total.metrics[0] == 6 + 7 + 8


def test_a_run_whose_training_patients_change_is_refused_until_they_are_back(
    private: Study, house: House
) -> None:
    table = (house.folder / "t.csv").read_text(encoding="utf-8")
    vector_from(house.site(**SEED, **DECLARED), training(private, 1))
    house.write(table + "50,f,1\n51,m,0\n52,f,1\n53,m,0\n54,f,1\n")

    site = house.site(**SEED, **DECLARED)
    refusal = refusal_from(site, training(private, 2))

    assert refusal.error == "PopulationChanged"
    assert charged(site) == 1  # the round before
    house.write(table)
    assert_goes_on(house.site(**SEED, **DECLARED), private, 2)


NAMED = "who,age,sex,diagnosis\n" + "".join(
    f"patient {n},{30 + n},{'fm'[n % 2]},{n % 3 % 2}\n" for n in range(40)
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("patient 7,37,", "patient 7,38,"),
        ("patient 7,37,m,1", "patient 7,37,m,0"),
        ("patient 7,", "patient 1,"),
        ("patient 7,", "patient Zoe,"),
        ("patient ", "another "),
    ],
    ids=["contents", "label", "two in one", "another patient", "all of them"],
)
def test_a_run_keeps_to_its_patients_with_all_that_they_have(
    before: str, after: str, plain_study: StudyWith, house: House
) -> None:
    """All of them are trained on, whatever they are called."""
    parts = {"by": "hash", "train": 0.998, "validation": 0.001, "test": 0.001}
    study = plain_study({"privacy": PRIVATE, "data.parts": parts})
    house.approve(study)
    source = {"data": SOURCE | {"patient": "who"}}
    house.write(NAMED)
    vector_from(house.site(**DECLARED, **source), training(study, 1))
    assert before in NAMED
    house.write(NAMED.replace(before, after))

    refusal = refusal_from(house.site(**DECLARED, **source), training(study, 2))

    assert refusal.error == "PopulationChanged"
    house.write(NAMED)
    assert_goes_on(house.site(**DECLARED, **source), study, 2)


def test_a_new_run_may_begin_with_other_patients(private: Study, house: House) -> None:
    table = (house.folder / "t.csv").read_text(encoding="utf-8")
    vector_from(house.site(**SEED, **DECLARED), training(private, 1))
    house.write(table + "50,f,1\n51,m,0\n52,f,1\n53,m,0\n54,f,1\n")
    site = house.site(**SEED, **DECLARED)

    vector_from(site, training(private, 1, run="run-2"))

    assert charged(site) == 2


def test_a_round_that_was_answered_is_not_answered_for_another_model(
    private: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, training(private, 1))

    refusal = refusal_from(site, training(private, 1, model=start_of(private) + np.float32(0.5)))

    assert refusal.error == "AnotherModel"
    assert charged(site) == 1  # the answer
    assert_goes_on(site, private, 2)


def test_a_round_that_is_asked_again_gets_its_first_answer_and_costs_nothing(
    private: Study, house: House
) -> None:
    first = vector_from(house.site(**DECLARED), training(private, 1))
    site = house.site(**DECLARED)  # the daemon was started again

    again = vector_from(site, training(private, 1))

    assert again.tobytes() == first.tobytes()
    assert charged(site) == 1
    assert_goes_on(site, private, 2)


def test_a_round_whose_answer_was_lost_before_it_was_kept_costs_again(
    private: Study, house: House
) -> None:
    site = house.site(**DECLARED)
    vector_from(site, training(private, 1))
    (kept,) = (house.folder / "state" / "runs").glob("*/round-*")
    kept.unlink()

    assert_goes_on(site, private, 1)


def test_an_answer_that_waits_to_be_asked_for_again_is_for_its_owner_only(
    private: Study, house: House
) -> None:
    vector_from(house.site(**DECLARED), training(private, 1))

    runs = house.folder / "state" / "runs"
    modes = {path.stat().st_mode & 0o077 for path in [runs, *runs.rglob("*")]}
    assert modes == {0}
    assert [path.name[:8] for path in runs.glob("*/*")] == ["round-1-"]


def test_a_round_that_is_over_is_refused(private: Study, house: House) -> None:
    site = house.site(**DECLARED)
    vector_from(site, training(private, 2))

    assert refusal_from(site, training(private, 1)).error == "RoundIsOver"
    assert_goes_on(site, private, 3)


# --- Models that cannot be trained privately ------------------------------------------------------


class Unused(nn.Module):
    """A layer that takes no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.used(inputs)
        return found


class Remembering(Unused):
    """A layer that adds up what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))


def mixing() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def refused_model(site: Site, study: Study, model: nn.Module, patch: Patch) -> tuple[str, str]:
    """The name and the words of the refusal to train it; then the study's own model is back."""
    with patch.context() as patched:
        patched.setattr("fedward.client.loaded.build", lambda study, seed, models: model)
        refusal = refusal_from(site, training(study, 1, model=flat.flatten(model)))
    site.keep(study, site.load(study.digest()).parts)
    return refusal.error, refusal.what


@pytest.mark.parametrize(
    ("build", "error", "named"),
    [
        (mixing, "UntrainableLayer", "BatchNorm"),
        (Remembering, "BufferWouldLeave", "'total'"),
        (Unused, "NoGradient", "no gradient for each patient"),
    ],
)
def test_a_model_that_cannot_be_trained_privately_is_refused(
    build: Callable[[], nn.Module],
    error: str,
    named: str,
    private: Study,
    house: House,
    monkeypatch: Patch,
) -> None:
    site = house.site(**SEED, **DECLARED)

    found, what = refused_model(site, private, build(), monkeypatch)

    assert found == error
    assert named in what
    assert_goes_on(site, private, 2)


# --- Out of training: the round stays charged -----------------------------------------------------


def test_a_parameter_without_a_gradient_is_found_in_training_which_stays_charged(
    private: Study, house: House, monkeypatch: Patch
) -> None:
    site = house.site(**SEED, **DECLARED)

    refused_model(site, private, Unused(), monkeypatch)

    assert charged(site) == 1


def other_batches(more: int) -> Callable[[PatientSteps, Tensor], Iterator[Batch]]:
    """One batch more, or one less."""
    drawn = PatientSteps.batches

    def others(self: PatientSteps, patients: Tensor) -> Iterator[Batch]:
        for batch in islice(drawn(self, patients), self.steps + min(more, 0)):
            yield batch
        yield from [batch] * more

    return others


@pytest.mark.parametrize(("more", "taken"), [(-1, 1), (1, 3)])
def test_other_steps_than_were_charged_are_refused_and_the_round_stays_charged(
    more: int, taken: int, private: Study, house: House, monkeypatch: Patch
) -> None:
    site = house.site(**SEED, **DECLARED)

    with monkeypatch.context() as patched:
        patched.setattr(PatientSteps, "batches", other_batches(more))
        refusal = refusal_from(site, training(private, 1))

    assert refusal.error == "StepsMismatch"
    assert f"{taken} steps were taken, and 2 are charged" in refusal.what
    assert charged(site) == 1
    assert_goes_on(site, private, 2)


@pytest.mark.parametrize("more", [-1, 1])
def test_in_a_secure_sum_too_nothing_leaves_and_the_next_round_is_answered(
    more: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    study = secure_sites.study_of(privacy=secure_sites.PRIVATE)
    run = secure_sites.Run(secure_sites.Sites(tmp_path, study), study)
    asked = run.train(1)

    with monkeypatch.context() as patched:
        patched.setattr(PatientSteps, "batches", other_batches(more))
        answer = run.sites["a"].answer(lambda: asked)

    assert isinstance(answer, Refusal)
    assert answer.error == "StepsMismatch"
    assert run.sites.charges() == {"a": 1, "b": 0, "c": 0}
    assert run.play(run.train(2)).weight == 3 * 20
    assert run.sites.charges() == {"a": 2, "b": 1, "c": 1}
