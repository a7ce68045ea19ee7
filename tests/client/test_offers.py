"""Offers that a hospital keeps for its staff: whole, and not without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedward.client import offers
from fedward.client.offers import approve, known_studies
from fedward.study.errors import RefusedError
from tests.enrolled import Enrolled, enrol
from tests.secure_sites import study_of


@pytest.fixture
def north(tmp_path: Path) -> Enrolled:
    return enrol(tmp_path, "north")[0]


def test_an_offer_that_a_crash_left_empty_is_filed_again(north: Enrolled) -> None:
    digest = north.offer(study_of())
    file = north.studies / "offered" / f"{digest}.json"
    whole = file.read_bytes()
    file.write_bytes(b"")

    north.offer(study_of())

    assert file.read_bytes() == whole
    assert [known.digest for known in known_studies(north.file(), north.studies)] == [digest]


def test_only_offers_that_nobody_approved_fill_the_desk(
    north: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "_MOST", 2)
    first = north.offer(study_of(study={"name": "one"}))
    north.offer(study_of(study={"name": "two"}))
    with pytest.raises(RefusedError, match="2 offers wait"):
        north.offer(study_of(study={"name": "three"}))
    north.offer(study_of(study={"name": "two"}))  # known already: it takes no more room

    approve(first, north.file(), north.studies)

    north.offer(study_of(study={"name": "three"}))
