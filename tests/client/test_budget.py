"""What a hospital's staff are told of their budget, against charges that were made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedward.client.budget import Spent, exported, spent
from fedward.client.hospital import HospitalFile
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Charge, Ledger
from fedward.study.errors import BudgetError
from tests.client.conftest import House, StudyWith

WEAK, STRONG = SampledGaussian(1.1, 0.1, 20), SampledGaussian(2.0, 0.05, 30)
EYES_A, EYES_B, HEARTS_B = "a1" * 32, "b2" * 32, "b2" * 32


def cost(delta: float, *steps: SampledGaussian) -> float:
    return epsilon_of(steps, delta, "rdp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hospital's folder: study a was charged twice and b once for eyes, b once for hearts."""
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
    for data, study, number, steps in (
        ("eyes", EYES_A, 1, WEAK),
        ("hearts", HEARTS_B, 1, WEAK),
        ("eyes", EYES_A, 2, WEAK),
        ("eyes", EYES_B, 1, STRONG),
    ):
        ledger.charge(
            Charge(data, study, f"run of {data}", number, "0d", "9a", steps, 1e-4, "rdp"), cap=None
        )
    return tmp_path


def hospital(**limits: float) -> HospitalFile:
    source = {"format": "csv", "path": "t.csv", "patient": "record"}
    return HospitalFile.model_validate({"name": "north", "data": source, "limits": limits})


def test_each_study_and_each_data_set_has_its_row(folder: Path) -> None:
    a, b, eyes = cost(1e-6, WEAK, WEAK), cost(1e-6, STRONG), cost(1e-6, WEAK, WEAK, STRONG)
    hearts = cost(1e-6, WEAK)
    assert len({a, b, eyes, hearts}) == 4

    found = spent(hospital(epsilon=30.0, delta=1e-6), folder)

    assert found == [
        Spent("eyes", EYES_A[:12], 2, a, 1e-6, None),
        Spent("eyes", EYES_B[:12], 1, b, 1e-6, None),
        Spent("eyes", "all", 3, eyes, 1e-6, 30.0),
        Spent("hearts", HEARTS_B[:12], 1, hearts, 1e-6, None),
        Spent("hearts", "all", 1, hearts, 1e-6, 30.0),
    ]
    assert [row.left for row in found] == [None, None, 30.0 - eyes, None, 30.0 - hearts]
    assert eyes < 0.95 * (a + b)  # composed, never added up


def test_nothing_is_left_where_the_cap_was_lowered_below_what_is_spent(folder: Path) -> None:
    found = spent(hospital(epsilon=0.01, delta=1e-6), folder)

    assert [row.left for row in found if row.study == "all"] == [0.0, 0.0]


def test_without_a_cap_nothing_is_said_to_be_left_and_the_studys_delta_counts(
    folder: Path,
) -> None:
    found = spent(hospital(), folder)

    assert {row.delta for row in found} == {1e-4}
    assert {(row.cap, row.left) for row in found} == {(None, None)}
    assert found[2].epsilon == cost(1e-4, WEAK, WEAK, STRONG)


def test_a_study_that_is_approved_here_is_called_by_its_name(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"study.name": "retina"})
    house.approve(study)
    charge = Charge("eyes", study.digest(), "r", 1, "0d", "9a", WEAK, 1e-4, "rdp")
    Ledger(house.folder / "state" / "ledger.sqlite").charge(charge, cap=None)

    assert [row.study for row in spent(hospital(), house.folder)] == ["retina", "all"]


def test_an_export_has_every_charge_in_order_and_the_totals(folder: Path) -> None:
    document = exported(hospital(epsilon=30.0, delta=1e-6), folder)

    assert document["hospital"] == "north"
    assert [(c["data"], c["study"], c["round"]) for c in document["charges"]] == [
        ("eyes", EYES_A, 1),
        ("hearts", HEARTS_B, 1),
        ("eyes", EYES_A, 2),
        ("eyes", EYES_B, 1),
    ]
    last = document["charges"][-1]
    written = (last["noise_multiplier"], last["sampling_rate"], last["steps"])
    assert SampledGaussian(*written) == STRONG
    assert last["hash"] == Ledger(folder / "state" / "ledger.sqlite").entries()[-1].hash
    totals = {(row["data"], row["study"]): row for row in document["totals"]}
    assert len(totals) == 5
    assert totals["eyes", "all"]["epsilon"] == cost(1e-6, WEAK, WEAK, STRONG)
    assert (totals["eyes", "all"]["rounds"], totals["eyes", "all"]["cap"]) == (3, 30.0)


def test_an_export_is_of_one_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read twice, a charge in between would be in the totals and not among the charges."""
    read: list[int] = []
    entries: Callable[..., object] = Ledger.entries

    def watched(self: Ledger) -> object:
        read.append(1)
        return entries(self)

    monkeypatch.setattr(Ledger, "entries", watched)
    exported(hospital(), folder)

    assert read == [1]


def test_where_nothing_was_charged_no_ledger_is_made(tmp_path: Path) -> None:
    for asked in (spent, exported):
        with pytest.raises(BudgetError, match="nothing was ever charged"):
            asked(hospital(), tmp_path)

    assert list(tmp_path.iterdir()) == []
