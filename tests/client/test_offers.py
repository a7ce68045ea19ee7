"""Offers that a hospital keeps for its staff: whole, and not without end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedward.client import offers
from fedward.client.offers import approve, file_offer, known_studies
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadSignature, ProtocolError
from fedward.privacy.signed_study import sign_study
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


def filed(north: Enrolled) -> list[str]:
    folder = north.studies / "offered"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_offer_of_another_coordinator_is_not_kept(north: Enrolled) -> None:
    study = study_of()
    forged = sign_study(study, Identity.generate())

    with pytest.raises(BadSignature):
        file_offer(forged, study.digest(), north.file(), north.studies)
    assert filed(north) == []


def test_an_offer_that_is_not_the_study_that_is_named_is_not_kept(north: Enrolled) -> None:
    """Else staff would approve by a digest what they did not read."""
    signed = north.consortium.sign(study_of())
    other = study_of(study={"name": "other"}).digest()

    with pytest.raises(RefusedError, match="not the one that is named"):
        file_offer(signed, other, north.file(), north.studies)
    assert filed(north) == []


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: b"", lambda d: d + b" "])
def test_an_offer_that_came_torn_is_not_kept(
    north: Enrolled, change: Callable[[bytes], bytes]
) -> None:
    study = study_of()
    signed = change(north.consortium.sign(study))

    with pytest.raises(ProtocolError):
        file_offer(signed, study.digest(), north.file(), north.studies)
    assert filed(north) == []


def test_a_file_that_is_no_offer_hides_no_other(north: Enrolled) -> None:
    digest = north.offer(study_of())
    (north.studies / "offered" / f"{'ab' * 32}.json").write_bytes(b"\x00\xff")

    assert [known.digest for known in known_studies(north.file(), north.studies)] == [digest]


def test_an_offer_needs_a_consortium(north: Enrolled) -> None:
    study = study_of()
    alone = north.file().model_copy(update={"consortium": None})

    with pytest.raises(RefusedError, match="in no consortium"):
        file_offer(north.consortium.sign(study), study.digest(), alone, north.studies)
