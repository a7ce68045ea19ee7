"""De-identified files: nothing of the names is left in any byte, and the images still work."""

from __future__ import annotations

import copy
import csv
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from fedward.client.data.deidentify import Deidentified, deidentify
from fedward.client.data.deidentify_rules import Key, Profile
from fedward.study.errors import DataError
from tests.client.data.dicom_made import SHARED, made, ramp, save

shared = pytest.mark.skipif(not SHARED.is_dir(), reason="pydicom's files are not on this machine")


def run(folder: Path, source: Path | None = None, **more: Any) -> Deidentified:  # noqa: ANN401
    return deidentify(
        source or folder / "src",
        folder / "dst",
        key=folder / "key",
        report=folder / "report.csv",
        **more,
    )


def written(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted((folder / "dst").rglob("*.dcm"))]


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (folder / "dst").rglob("*.dcm"))


NAMES = {
    "PatientName": "Zwetschge^Quirin",
    "PatientID": "MRN-778899",
    "PatientBirthDate": "19530711",
    "OtherPatientNames": "Q^Nickname",
    "PatientAddress": "Krumme Lanke 17",
    "AccessionNumber": "ACC445566",
    "ReferringPhysicianName": "Doktor^Eisenbart",
    "InstitutionName": "St. Elsewhere",
    "StationName": "STATION-X9",
    "StudyDate": "20210417",
    "SeriesTime": "083117.5",
    "AcquisitionDateTime": "20210417083122",
    "StudyDescription": "Thorax of Quirin",
    "PatientComments": "lives next to the mill",
    "DeviceSerialNumber": "SN-424242",
    "StudyInstanceUID": "1.2.826.77.1001",
    "SeriesInstanceUID": "1.2.826.77.1002",
    "FrameOfReferenceUID": "1.2.826.77.1003",
    "ImageComments": "Mr Zwetschge moved",
    "DerivationDescription": "cropped by Eisenbart",
}


def named(**more: Any) -> Dataset:  # noqa: ANN401
    """An image with names at the top, inside sequences, in private tags, overlays and preamble."""
    dataset = made(ramp(), **{**NAMES, "SOPInstanceUID": "1.2.826.77.1004", **more})
    inner, deeper = Dataset(), Dataset()
    deeper.PatientName = "Inner^Hidden"
    deeper.ReferencedSOPInstanceUID = "1.2.826.77.1004"
    deeper.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    inner.PersonName = "Person^Deep"
    inner.TextValue = "free words about Quirin"
    inner.ReferencedImageSequence = [deeper]
    inner.CodeMeaning = "kept meaning"
    dataset.AnatomicRegionSequence = [inner]
    dataset.ReferencedImageSequence = [copy.deepcopy(deeper)]
    dataset.ContentSequence = [copy.deepcopy(inner)]
    block = dataset.private_block(0x0099, "ACME PRIVATE", create=True)
    block.add_new(0x01, "LO", "private Quirin")
    dataset.add_new((0x6000, 0x3000), "OW", b"OVERLAYQUIRIN ")
    dataset.add_new((0x5000, 0x2500), "LO", "CURVEQUIRIN")
    dataset.add_new((0x0008, 0x7777), "LO", "UNKNOWNQUIRIN")
    dataset.preamble = b"PREAMBLEQUIRIN".ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = "AEQUIRIN"
    return dataset


SECRETS = {
    *NAMES.values(),
    *("Zwetschge", "Quirin", "QUIRIN", "Eisenbart", "Inner^Hidden", "Person^Deep", "ACME"),
    "1.2.826.77.1004",
}


@pytest.mark.parametrize("dates", ["removed", "shifted"])
def test_no_byte_of_the_names_is_left(dates: Any, tmp_path: Path) -> None:  # noqa: ANN401
    path = save(named(), tmp_path / "src" / "Zwetschge" / "Quirin.dcm")
    before = path.read_bytes()
    assert all(secret.encode() in before for secret in SECRETS)

    done = run(tmp_path, dates=dates)

    after = everything(tmp_path)
    assert [secret for secret in SECRETS if secret.encode() in after] == []
    assert not any("Quirin" in name for name in done.files)
    assert path.read_bytes() == before
    (new,) = written(tmp_path)
    assert np.array_equal(new.pixel_array, ramp())
    assert new.PatientIdentityRemoved == "YES"
    assert new.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert new.AnatomicRegionSequence[0].CodeMeaning == "kept meaning"
    assert new.Modality == "CT"


@shared
@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_nothing_that_names_people_in_pydicoms_files_is_left(tmp_path: Path) -> None:
    """Names, numbers, dates, UIDs and free text of all of them, wherever they stand."""
    done = run(tmp_path, SHARED)

    secrets: set[str] = set()
    for path in SHARED.glob("*.dcm"):
        if path.stem == "no_meta":
            continue
        for element in pydicom.dcmread(path).iterall():
            kinds = {"PN", "DA", "DT", "UI", "LT", "ST", "UT"}
            words = element.VR in {"LO", "SH", "AE"}  # private numbers are ordinary ones
            told = element.VR in kinds or element.keyword in NAMES
            told = told or (element.tag.is_private and words)
            value = element.value
            each = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            if told and element.VR not in {"SQ", "OB", "OW", "UN"}:
                secrets |= {str(v) for v in each if element.VR != "UI" or "10008." not in str(v)}
    # The same words are a code's meaning, a machine's maker and a scan's name elsewhere, which the
    # profile keeps; and a private value of zeros is part of many numbers.
    makers = {"Mortara Instrument, Inc.", "TOSHIBA"}
    ordinary = {"Uncompressed", *makers, "WHOLE BODY", "WHOLE BODY_E"}
    secrets = {s for s in secrets - ordinary if len(s) >= 6 and s.strip("0")}
    after = everything(tmp_path)
    assert len(secrets) > 100
    assert [secret for secret in secrets if secret.encode() in after] == []
    assert len(done.files) == 10
    assert {Path(error.where).stem for error in done.left_out} == {"MR_small_RLE", "no_meta"}


@shared
def test_pixels_and_what_they_mean_are_kept(tmp_path: Path) -> None:
    run(tmp_path, SHARED)

    old = pydicom.dcmread(SHARED / "CT_small.dcm")
    (new,) = [d for d in written(tmp_path) if d.Modality == "CT"]
    assert new.PixelData == old.PixelData
    for keyword in ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "PixelSpacing"):
        assert new[keyword].value == old[keyword].value
    assert new.file_meta.TransferSyntaxUID == old.file_meta.TransferSyntaxUID


def test_pseudonyms_and_uids_hang_together_and_on_the_key(tmp_path: Path) -> None:
    for number, patient in enumerate(("a", "a", "b")):
        dataset = named(PatientID=patient, SOPInstanceUID=f"1.2.826.77.{number}")
        save(dataset, tmp_path / "src" / f"{number}.dcm")
    run(tmp_path)
    first = written(tmp_path)
    (tmp_path / "dst").rename(tmp_path / "before")
    (tmp_path / "report.csv").unlink()
    run(tmp_path)
    again = written(tmp_path)
    (tmp_path / "dst").rename(tmp_path / "then")
    (tmp_path / "report.csv").unlink()
    (tmp_path / "key").unlink()
    run(tmp_path)

    def uids(found: list[Dataset]) -> set[tuple[str, str, str]]:
        return {(d.PatientID, d.SeriesInstanceUID, d.SOPInstanceUID) for d in found}

    assert len({d.PatientID for d in first}) == 2
    assert len({d.SeriesInstanceUID for d in first}) == 1
    assert len({d.SOPInstanceUID for d in first}) == 3
    assert uids(first) == uids(again)
    assert not {d.PatientID for d in written(tmp_path)} & {d.PatientID for d in first}
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_reference_follows_the_object_that_it_is_to() -> None:
    fresh, _ = Profile(Key(b"k" * 32), "removed").applied(named())

    inner = fresh.AnatomicRegionSequence[0].ReferencedImageSequence[0]
    assert inner.ReferencedSOPInstanceUID == fresh.SOPInstanceUID != "1.2.826.77.1004"
    assert inner.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_words_in_the_place_of_a_number_go(tmp_path: Path) -> None:
    path = save(named(InstanceNumber=4711), tmp_path / "src" / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"4711", b"Quir"))

    run(tmp_path)

    assert b"Quir" not in everything(tmp_path)


def test_shifted_dates_keep_their_distance() -> None:
    profile = Profile(Key(b"k" * 32), "shifted")
    one, two = (
        profile.applied(named(StudyDate="20210417", SeriesDate=date))[0].SeriesDate
        for date in ("20210417", "20210427")
    )

    assert (np.datetime64(_iso(two)) - np.datetime64(_iso(one))).astype(int) == 10
    assert one < "20210417"
    assert not profile.applied(named())[0].PatientBirthDate


def _iso(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def test_the_report_names_tags_and_no_values(tmp_path: Path) -> None:
    save(named(), tmp_path / "src" / "Quirin.dcm")
    done = run(tmp_path)

    text = (tmp_path / "report.csv").read_text(encoding="utf-8")
    assert [secret for secret in SECRETS if secret in text] == []
    rows = list(csv.DictReader(text.splitlines()))
    actions = {row["tag"]: row["action"] for row in rows}
    assert {row["file"] for row in rows} == set(done.files)
    assert actions["(0010,0010) PatientName"] == "emptied"
    assert actions["(0010,4000) PatientComments"] == "removed"
    assert actions["(0099,1001)"] == "removed: private"
    assert actions["(0008,2218)/(0040,A123) PersonName"] == "replaced"
    assert actions["(0020,000D) StudyInstanceUID"] == "new UID"


@pytest.mark.parametrize(
    ("tags", "warned"),
    [
        ({"BurnedInAnnotation": "YES"}, True),
        ({"BurnedInAnnotation": "NO", "Modality": "US"}, False),
        ({"Modality": "US"}, True),
        ({}, False),
    ],
)
def test_burnt_in_words_are_warned_of(tags: dict[str, str], warned: bool, tmp_path: Path) -> None:
    save(named(**tags), tmp_path / "src" / "a.dcm")

    done = run(tmp_path)

    assert done.burnt_in == (done.files if warned else [])


def test_folders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "src"
    save(named(), source / "in" / "a.dcm")
    key, report = tmp_path / "key", tmp_path / "report.csv"

    for target in (source, source / "dst", tmp_path):
        with pytest.raises(DataError, match="in the other"):
            deidentify(source, target, key=key, report=report)
    for one, other in ((tmp_path / "dst" / "key", report), (key, source / "report.csv")):
        with pytest.raises(DataError, match="in the source or the target"):
            deidentify(source, tmp_path / "dst", key=one, report=other)
    (tmp_path / "dst").mkdir()
    with pytest.raises(DataError, match="is there already"):
        deidentify(source, tmp_path / "dst", key=key, report=report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    save(named(), tmp_path / "src" / "a.dcm")
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "key").chmod(0o644)

    with pytest.raises(DataError, match="others than its owner"):
        run(tmp_path)
    assert not (tmp_path / "dst").exists()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(named(), tmp_path / "src" / "a.dcm")

    def broken(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("fedward.client.data.deidentify.write_public", broken)
    with pytest.raises(OSError):  # noqa: PT011 - ours
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "src"]


def test_a_damaged_file_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    save(named(), tmp_path / "src" / "a.dcm")
    (tmp_path / "src" / "b.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (tmp_path / "src" / "notes.txt").write_text("Quirin", encoding="utf-8")

    done = run(tmp_path)

    assert len(done.files) == 1
    assert [Path(error.where).name for error in done.left_out] == ["b.dcm"]
    assert done.others == 1
