"""What a hospital has spent together, and the cap that holds whoever charges at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Cap, Ledger
from fedward.study.errors import BudgetError
from tests.privacy.charges import ONE, STEPS, charge, cost, rounds, rows, spent

# --- The total ------------------------------------------------------------------------------------


def test_the_total_is_composed_over_all_studies_and_runs_on_a_data_set(path: Path) -> None:
    """Composed, never added up."""
    ledger = Ledger(path)
    other = SampledGaussian(2.0, 0.05, 30)
    charge(ledger, study="a")
    charge(ledger, study="b", steps=other)
    charge(ledger, study="b", run="run-2")

    assert spent(ledger) == cost(STEPS._replace(steps=40), other)
    assert spent(ledger) < 0.9 * (2 * cost(STEPS) + cost(other))


def test_two_data_sets_are_counted_apart(path: Path) -> None:
    ledger = Ledger(path)
    more = STEPS._replace(steps=70)
    charge(ledger, 1, data="eyes")
    charge(ledger, 2, run="run-2", data="hearts", steps=more)
    charge(ledger, 3, data="eyes")

    assert spent(ledger, data="eyes") == cost(STEPS._replace(steps=40))
    assert spent(ledger, data="hearts") == cost(more)
    assert spent(ledger, data="lungs") == 0.0


def test_a_study_can_be_counted_by_itself(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1, study="a")
    charge(ledger, 2, study="b", steps=STEPS._replace(steps=70))
    charge(ledger, 3, study="a", data="hearts")

    assert spent(ledger, study="a") == cost(STEPS)
    assert spent(ledger, study="c") == 0.0


def test_epsilon_is_said_at_the_delta_and_by_the_accountant_that_are_asked_for(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)

    for delta in (1e-3, 1e-9):
        for accountant in ("rdp", "prv"):
            found = ledger.epsilon(data="data", delta=delta, accountant=accountant)
            assert found == epsilon_of([STEPS], delta, accountant)


def test_charging_the_same_round_again_costs_again(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    charge(ledger, 1)

    assert spent(ledger) == cost(STEPS._replace(steps=40))


# --- The cap --------------------------------------------------------------------------------------


def test_a_charge_above_the_cap_is_refused_with_nothing_written(path: Path) -> None:
    ledger = Ledger(path)
    one, two = cost(STEPS), cost(STEPS._replace(steps=40))
    cap = (one + two) / 2
    charge(ledger, 1, cap=cap)
    before = path.read_bytes()

    with pytest.raises(BudgetError) as caught:
        charge(ledger, 2, cap=cap)

    assert path.read_bytes() == before
    for part in (f"{two:.3g}", f"{cap:g}", f"{one:.3g}", "round 2"):
        assert part in caught.value.line()


def test_a_charge_may_reach_the_cap_and_not_pass_it(path: Path) -> None:
    ledger = Ledger(path)

    charge(ledger, cap=cost(STEPS))

    with pytest.raises(BudgetError):
        charge(ledger, 2, cap=cost(STEPS))


def test_a_smaller_charge_is_taken_after_a_refusal(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(BudgetError):
        charge(ledger, steps=STEPS._replace(steps=200), cap=cost(STEPS))

    charge(ledger, steps=STEPS._replace(steps=2), cap=cost(STEPS))

    assert len(rows(path)) == 1


def test_other_studies_charges_count_against_the_cap(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, study="another")

    with pytest.raises(BudgetError):
        charge(ledger, study="mine", cap=cost(STEPS))


def test_other_data_sets_charges_do_not(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1, data="hearts", steps=STEPS._replace(steps=500))

    charge(ledger, 2, run="run-2", data="eyes", cap=cost(STEPS))

    assert rounds(path) == [1, 2]


def test_the_cap_is_at_the_hospitals_delta_and_not_at_the_studys(path: Path) -> None:
    """A study with a generous delta would seem to cost little."""
    ledger = Ledger(path)
    generous = replace(ONE, delta=1e-2)
    seems, costs = (epsilon_of([STEPS], delta, "rdp") for delta in (1e-2, 1e-7))
    cap = (seems + costs) / 2

    with pytest.raises(BudgetError) as caught:
        ledger.charge(generous, cap=Cap(cap, 1e-7))
    assert f"{costs:.3g}" in caught.value.line()
    assert rows(path) == []
    ledger.charge(generous, cap=Cap(cap, 1e-2))


def test_two_at_once_cannot_both_take_the_last_of_the_budget(path: Path) -> None:
    Ledger(path)
    cap = cost(STEPS._replace(steps=5 * 20))
    outcomes: list[str] = []

    def charge_many(racer: int) -> None:
        ledger = Ledger(path)
        for number in range(5):
            try:
                charge(ledger, number, run=f"run {racer}", cap=cap)
            except BudgetError:
                outcomes.append("refused")
            else:
                outcomes.append("charged")

    threads = [threading.Thread(target=charge_many, args=(racer,)) for racer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["charged"] * 5 + ["refused"] * 10
    assert len(Ledger(path).entries()) == 5


def test_of_charges_that_are_made_at_once_none_is_lost_and_none_refused(path: Path) -> None:
    Ledger(path)

    def charge_many(racer: int) -> None:
        ledger = Ledger(path)
        for number in range(1, 13):
            charge(ledger, number, run=f"run {racer}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(charge_many, range(4)))

    charged = {(entry.charge.run, entry.charge.round) for entry in Ledger(path).entries()}
    assert len(charged) == len(rows(path)) == 4 * 12


@pytest.mark.parametrize(
    "steps",
    [
        SampledGaussian(1.0, 0.1, 0),
        SampledGaussian(1.0, 0.1, -5),
        SampledGaussian(1.0, 0.0, 5),
        SampledGaussian(1.0, 1.1, 5),
        SampledGaussian(-1.0, 0.1, 5),
        SampledGaussian(float("nan"), 0.1, 5),
    ],
)
def test_a_charge_that_cannot_be_is_not_written(steps: SampledGaussian, path: Path) -> None:
    ledger = Ledger(path)

    with pytest.raises(BudgetError):
        charge(ledger, steps=steps)
    assert rows(path) == []
    charge(ledger)
