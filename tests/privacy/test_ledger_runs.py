"""What a run may not become, its noise, and several charges of one question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import EVALUATION, MECHANISM, Cap, Ledger
from fedward.privacy.privacy_errors import (
    AnotherModel,
    PlanChanged,
    PopulationChanged,
    PrivacyError,
    RoundIsOver,
)
from fedward.study.errors import BudgetError
from tests.privacy.charges import DELTA, ONE, STEPS, charge, cost, rounds, rows, spent

# --- What a run may not become --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "number", "changes"),
    [
        (AnotherModel, 1, {"told": "ff" * 32}),
        (PopulationChanged, 1, {"patients": "ff" * 32}),
        (PopulationChanged, 2, {"patients": "ff" * 32, "told": "ff" * 32}),
        (PopulationChanged, 2, {"patients": "ff" * 32, "data": "other"}),
        (PlanChanged, 1, {"steps": STEPS._replace(noise_multiplier=0.9)}),
        (PlanChanged, 2, {"steps": STEPS._replace(sampling_rate=0.2)}),
        (PlanChanged, 2, {"steps": STEPS._replace(steps=10)}),
    ],
)
def test_a_run_keeps_its_patients_and_a_round_its_question(
    error: type[PrivacyError], number: int, changes: dict[str, Any], path: Path
) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    before = path.read_bytes()

    with pytest.raises(error):
        charge(ledger, number, **changes)
    with pytest.raises(error):
        charge(ledger, number, cap=1e-9, **changes)  # whatever is left of the budget

    assert path.read_bytes() == before
    charge(ledger, 2, told="ff" * 32)


def test_a_round_may_be_charged_again_until_a_later_one_was(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    charge(ledger, 1)  # lost before its answer was kept
    charge(ledger, 3)
    before = path.read_bytes()

    for number in (1, 2):
        with pytest.raises(RoundIsOver):
            charge(ledger, number)

    assert path.read_bytes() == before
    charge(ledger, 1, run="run-2")


@pytest.mark.parametrize("number", [3, 1])
def test_a_run_is_charged_no_oftener_than_it_may_be(number: int, path: Path) -> None:
    ledger = Ledger(path)
    for _ in range(3):
        ledger.charge(replace(ONE, round=number), cap=None, most=3)
    before = path.read_bytes()

    with pytest.raises(BudgetError, match="charged 3 times, and may be 3 times"):
        ledger.charge(replace(ONE, round=3), cap=None, most=3)

    assert path.read_bytes() == before
    ledger.charge(replace(ONE, round=1, run="run-2"), cap=None, most=3)
    ledger.charge(replace(ONE, round=1, study="cd34"), cap=None, most=3)


@pytest.mark.parametrize("change", [{"run": "run-2"}, {"study": "cd34"}])
def test_another_run_has_its_own(change: dict[str, Any], path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)

    charge(ledger, 1, told="ff" * 32, patients="ff" * 32, **change)

    assert rounds(path) == [1, 1]


# --- Noise multiplier of a run --------------------------------------------------------------------


def test_a_run_s_noise_multiplier_is_that_of_its_charges(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, study="a", run="r", steps=STEPS._replace(noise_multiplier=1.25))
    charge(ledger, study="a", run="s", steps=STEPS._replace(noise_multiplier=2.5))
    charge(ledger, study="b", run="r", steps=STEPS._replace(noise_multiplier=4.0))

    assert ledger.noise_multiplier(study="a", run="r") == 1.25
    assert ledger.noise_multiplier(study="a", run="s") == 2.5
    assert ledger.noise_multiplier(study="b", run="r") == 4.0
    assert ledger.noise_multiplier(study="b", run="s") is None


def test_a_noise_multiplier_comes_back_exactly(path: Path) -> None:
    sigma = 1.1000000000000003
    charge(Ledger(path), steps=STEPS._replace(noise_multiplier=sigma))

    assert Ledger(path).noise_multiplier(study="ab12", run="run-1") == sigma


# --- Several charges of one question --------------------------------------------------------------

JUDGED = replace(ONE, steps=SampledGaussian(3.0, 1.0, 1), mechanism=EVALUATION)


def test_charges_of_one_question_are_made_together_and_read_back(path: Path) -> None:
    Ledger(path).charge(JUDGED, ONE, cap=None)

    assert [entry.charge for entry in Ledger(path).entries()] == [JUDGED, ONE]
    assert rows(path, "mechanism") == [(EVALUATION,), (MECHANISM,)]
    assert spent(Ledger(path)) == cost(JUDGED.steps, ONE.steps)


def test_if_one_of_them_is_refused_none_is_made(path: Path) -> None:
    ledger = Ledger(path)
    between = (cost(ONE.steps) + cost(JUDGED.steps, ONE.steps)) / 2
    ledger.charge(replace(ONE, run="other", data="other"), cap=None)
    before = path.read_bytes()

    with pytest.raises(BudgetError, match="cap"):
        ledger.charge(JUDGED, ONE, cap=Cap(between, DELTA))
    with pytest.raises(BudgetError, match="may be 0 times"):
        ledger.charge(JUDGED, ONE, cap=None, most_of={MECHANISM: 0})
    with pytest.raises(BudgetError, match="may be 1 times"):
        ledger.charge(JUDGED, ONE, cap=None, most=1)

    assert path.read_bytes() == before
    ledger.charge(ONE, cap=Cap(between, DELTA), most=1, most_of={EVALUATION: 0})


def test_a_mechanism_has_a_number_of_charges_of_its_own(path: Path) -> None:
    ledger = Ledger(path)
    for number in (1, 2):
        round_ = [replace(charge, round=number) for charge in (JUDGED, ONE)]
        ledger.charge(*round_, cap=None, most_of={MECHANISM: 2, EVALUATION: 3}, most=5)

    with pytest.raises(BudgetError, match="may be 2 times"):
        ledger.charge(replace(ONE, round=3), cap=None, most_of={MECHANISM: 2, EVALUATION: 3})
    ledger.charge(replace(JUDGED, round=3), cap=None, most_of={MECHANISM: 2, EVALUATION: 3})


def test_evaluations_are_alike_and_the_rounds_noise_is_not_theirs(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(JUDGED, cap=None)
    assert ledger.noise_multiplier(study=ONE.study, run=ONE.run) is None
    ledger.charge(ONE, cap=None)
    assert ledger.noise_multiplier(study=ONE.study, run=ONE.run) == ONE.steps.noise_multiplier

    for changed in (JUDGED, ONE):
        other = replace(changed, round=2, steps=changed.steps._replace(noise_multiplier=2.5))
        with pytest.raises(PlanChanged):
            ledger.charge(other, cap=None)
    with pytest.raises(AnotherModel):
        ledger.charge(replace(JUDGED, told="ff" * 32), cap=None)
    with pytest.raises(PopulationChanged):
        ledger.charge(replace(JUDGED, round=2, patients="ff" * 32), cap=None)
    ledger.charge(replace(JUDGED, round=2), cap=None)
    with pytest.raises(RoundIsOver):
        ledger.charge(ONE, cap=None)
