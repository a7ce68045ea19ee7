"""The digest of who is trained on: it notices every change, and tells nobody without the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedward.client import loaded as loaded_module
from fedward.client.data.records import Records
from fedward.client.population import population_digest
from fedward.study.errors import DataError
from fedward.study.study import Study
from tests.client.conftest import DECLARED, House, training, vector_from


def records(**changes: object) -> Records:
    values = {
        "inputs": torch.arange(6.0).reshape(3, 2),
        "labels": torch.tensor([0, 1, 0]),
        "patients": torch.tensor([0, 0, 1]),
        "people": b"Ann, Ann, Bob",
    }
    return Records(**{**values, **changes})  # type: ignore[arg-type]


def test_the_same_records_have_the_same_digest(tmp_path: Path) -> None:
    assert population_digest(records(), tmp_path) == population_digest(records(), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": torch.arange(6.0).reshape(3, 2) + torch.tensor([[0, 0], [0, 0], [0, 1e-6]])},
        {"inputs": torch.arange(6.0).reshape(3, 2).double()},
        {"labels": torch.tensor([0, 1, 1])},
        {"patients": torch.tensor([0, 1, 1])},
        {"people": b"Ann, Ann, Zoe"},
    ],
)
def test_every_change_is_another_digest(changes: dict[str, object], tmp_path: Path) -> None:
    assert changes != {}
    assert population_digest(records(**changes), tmp_path) != population_digest(records(), tmp_path)


def test_one_record_less_is_another_digest(tmp_path: Path) -> None:
    assert population_digest(records().first(2), tmp_path) != population_digest(records(), tmp_path)


def test_a_mask_of_bytes_counts_as_the_wide_one_that_it_was(tmp_path: Path) -> None:
    masks = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    one, wide, other = (
        population_digest(records(labels=labels), tmp_path)
        for labels in (masks, masks.long(), masks + 1)
    )

    assert one == wide
    assert one != other


def test_whoever_knows_the_records_and_not_the_key_cannot_try_them(tmp_path: Path) -> None:
    one, other = (population_digest(records(), tmp_path / name) for name in ("one", "other"))

    assert one != other


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    population_digest(records(), tmp_path)

    (key,) = tmp_path.iterdir()
    assert key.name == "population.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o640)
    with pytest.raises(DataError, match="others than its owner"):
        population_digest(records(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_key_that_is_none_is_not_used(content: bytes, tmp_path: Path) -> None:
    population_digest(records(), tmp_path)
    (tmp_path / "population.key").write_bytes(content)

    with pytest.raises(DataError, match=r"population\.key"):
        population_digest(records(), tmp_path)


def test_two_that_begin_at_once_use_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one's key is there when this one's is written."""
    expected = population_digest(records(), tmp_path)
    monkeypatch.setattr(Path, "exists", lambda _: False)

    assert population_digest(records(), tmp_path) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["population.key"]


def test_a_hospital_hashes_its_records_when_it_reads_them_and_not_in_every_round(
    private: Study, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def watched(found: Records, state: Path) -> str:
        hashed.append(len(found))
        return population_digest(found, state)

    monkeypatch.setattr(loaded_module, "population_digest", watched)
    site = house.site(**DECLARED)
    for number in (1, 2, 3):
        vector_from(site, training(private, number))

    assert hashed == [28]


def test_the_ledgers_of_two_hospitals_with_the_same_records_have_nothing_to_compare(
    private: Study, tmp_path: Path
) -> None:
    found = set()
    for place in "ab":
        house = House(tmp_path / place)
        house.approve(private)
        site = house.site(**DECLARED)
        vector_from(site, training(private))
        found.add(site.ledger.entries()[0].charge.patients)

    assert len(found) == 2


def test_without_privacy_no_key_is_made(study: Study, house: House) -> None:
    vector_from(house.site(), training(study))

    assert not (house.folder / "state").exists()
