"""Making hospitals out of one data set: a folder with a `hospital.toml` for each.

No record is copied: a hospital's file points to the data set and to the numbers of its rows.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fedward.client.data.context import Progress, unseen
from fedward.client.data.parts import PARTS, assign
from fedward.client.data.reading import context_of, read_with
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import CsvSource
from fedward.client.data.tables import read_column
from fedward.client.hospital import HospitalFile, read_hospital, write_hospital
from fedward.models.registry import settled
from fedward.simulation.consortium import found_consortium
from fedward.simulation.formats import format_of, is_data
from fedward.simulation.splitting import Owners, by_site, split
from fedward.study.errors import DataError, HospitalError, OptionError
from fedward.study.frozen import Fault, validate
from fedward.study.parts import GivenParts
from fedward.study.study import Study

CACHE = "cache"
"""Folder of decoded records, beside the hospitals' own folders."""

_ANY = "any"  # stands for a hospital's folder
_NAMED = {"dicom", "fhir", "omop"}  # formats that say whose a record is
_NEEDED_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def make_hospitals(
    study: Study,
    data: Path | None,
    folder: Path,
    *,
    seed: int,
    progress: Progress = unseen,
    models: Path | None = None,
) -> list[Path]:
    """Write the hospitals' folders, and return their `hospital.toml` files in the nodes' order.

    Args:
        study: Says how to split, and how the files are to be read.
        data: The data set; None for one that comes with a library.
        folder: Where the hospitals' folders go.
        seed: Of the split, and of each hospital's pretended randomness.
        progress: Told of the first decoding of their records.
        models: Folder of pretrained models, which all of them have.

    Raises:
        InputError: The data cannot be read or divided as the study says.
    """
    study = settled(study)  # what hospitals approve names every setting of the model
    files = divide(study, data, folder, seed, progress, models)
    for file in files:
        approve(study, file)
    if study.aggregation.secure:
        found_consortium(files)
    return files


def divide(
    study: Study,
    data: Path | None,
    folder: Path,
    seed: int,
    progress: Progress = unseen,
    models: Path | None = None,
) -> list[Path]:
    """The same hospitals, before they approve anything or are in a consortium."""
    if study.simulation.split == "folders":
        return _from_folders(study, data, folder, seed, progress, models)
    whole = _hospital_file("whole", study, data, seed, models)
    return _from_one_data_set(study, whole, folder, seed, progress)


def _from_one_data_set(
    study: Study, whole: HospitalFile, folder: Path, seed: int, progress: Progress
) -> list[Path]:
    # Its cache is the hospitals' as well: all have the same files.
    context = context_of(whole, folder / _ANY, progress=progress)
    raw = read_with(whole.data, study, replace(context, folder=Path()))
    if not len(raw):
        raise DataError("holds no records", todo="check --data", where=_path_of(whole))
    names, owners = _owners(study, whole, raw, seed)
    files = []
    for number, name in enumerate(names):
        rows = raw.rows[owners == number]
        file = folder / _folder_name(number, name) / "hospital.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file.parent / "rows.npy", rows)
        source = whole.data.model_copy(update={"rows": "rows.npy"})
        hospital = whole.model_copy(update={"data": source})
        files.append(_write(file, name, hospital, study, progress))
    return files


def _owners(
    study: Study, whole: HospitalFile, raw: RawRecords, seed: int
) -> tuple[list[str], Owners]:
    rule, count = study.simulation, study.participation.hospitals
    rng = np.random.default_rng(seed)
    if rule.split == "site":
        if not isinstance(whole.data, CsvSource):
            raise OptionError("a split by site needs a table", todo="choose another split")
        sites = read_column(whole.data, Path(), str(rule.site))[raw.rows]
        if not all(map(str.strip, sites)):
            row = int(raw.rows[[not s.strip() for s in sites]][0])
            raise DataError(
                f"row {row + 1}, column {rule.site!r}: the site is missing",
                todo="fill it in, or choose another split",
                where=whole.data.path,
            )
        names, owners = by_site(sites)
        if len(names) != count:
            raise OptionError(
                f"column {rule.site!r} names {len(names)} sites, the study wants {count} hospitals",
                todo=f"set [participation] hospitals = {len(names)}",
            )
        return names, owners
    names = [_letter(number) for number in range(count)]
    return names, _drawn(study, raw, rng)


def _drawn(study: Study, raw: RawRecords, rng: np.random.Generator) -> Owners:
    """Owners by the rule, drawn a part at a time where the files give parts."""
    rule, count = study.simulation, study.participation.hospitals
    if not isinstance(study.data.parts, GivenParts):
        return split(rule, hospitals=count, labels=raw.strata, patients=raw.patients, rng=rng)
    assigned = assign(raw, study.data.parts, where="the data set")
    owners = np.empty(len(raw), dtype=np.int64)
    for part in PARTS:
        here = assigned == part
        if here.any():
            piece = raw.chosen(here)
            owners[here] = split(
                rule, hospitals=count, labels=piece.strata, patients=piece.patients, rng=rng
            )
    return owners


def _path_of(whole: HospitalFile) -> str:
    return str(getattr(whole.data, "path", "the data set"))


def _from_folders(
    study: Study,
    data: Path | None,
    folder: Path,
    seed: int,
    progress: Progress,
    models: Path | None,
) -> list[Path]:
    if data is None or not data.is_dir():
        raise OptionError(
            "this study has one folder or file a hospital", todo="give their folder with --data"
        )
    listed = study.simulation.files
    places = (
        {name: data / file for name, file in listed.items()}
        if listed
        else {e.stem if e.is_file() else e.name: e for e in sorted(data.iterdir()) if _holds(e)}
    )
    if len(places) != study.participation.hospitals:
        raise OptionError(
            f"{len(places)} hospitals are there, the study wants {study.participation.hospitals}",
            todo="change [participation] hospitals in the study, or give --hospitals",
            where=str(data),
        )
    files = []
    for number, (name, place) in enumerate(places.items()):
        path = place / study.simulation.source.get("path", "") if place.is_dir() else place
        hospital = _hospital_file(name, study, path, seed, models)
        file = folder / _folder_name(number, name) / "hospital.toml"
        files.append(_write(file, name, hospital, study, progress))
    return files


def _holds(entry: Path) -> bool:
    """Whether an entry of the folder is a hospital: a folder, or a file that is read."""
    visible = not entry.name.startswith(".")
    return visible and (entry.is_dir() or is_data(entry))


def _hospital_file(
    name: str, study: Study, data: Path | None, seed: int, models: Path | None
) -> HospitalFile:
    source: dict[str, Any] = {
        **study.simulation.source,
        **study.simulation.sources.get(name, {}),
    }
    if data is not None:
        source["path"] = str(data.resolve())
        if isinstance(source.get("join"), list | tuple):
            source["join"] = [_beside(data, table) for table in source["join"]]
        if "format" not in source:
            source["format"] = format_of(data, study)
    elif source.get("format") != "bundled":
        raise OptionError("no data given", todo="give --data PATH")
    if source["format"] not in _NAMED:
        # A pretended hospital says whose its records are, as a real one must where files do not.
        source = {"patient": "record", **source}
    cache = {"folder": f"../{CACHE}"}
    values: dict[str, Any] = {"name": name, "data": source, "cache": cache}
    values["simulation"] = {"seed": seed}
    if models is not None:
        values["models"] = str(models.resolve())
    hospital = validate(HospitalFile, values)
    if isinstance(hospital, Fault):
        raise HospitalError(
            f"simulation.source.{hospital.key.removeprefix('data.')}",
            given=hospital.given,
            allowed=hospital.allowed,
        )
    return hospital


def _beside(data: Path, table: object) -> object:
    """A table that is joined, from the folder of the data: a hospital's own folder is elsewhere."""
    if not isinstance(table, dict) or not isinstance(table.get("path"), str):
        return table  # refused with the hospital's file
    return {**table, "path": str((data.resolve().parent / table["path"]).resolve())}


def _write(file: Path, name: str, hospital: HospitalFile, study: Study, progress: Progress) -> Path:
    declared = _training_patients(name, hospital, study, file.parent, progress)
    limits = hospital.limits.model_copy(update={"declared_patients": declared})
    write_hospital(hospital.model_copy(update={"name": name, "limits": limits}), file)
    return file


def approve(study: Study, file: Path) -> None:
    """Make a study the one that a pretended hospital approves."""
    studies = file.parent / read_hospital(file).studies
    shutil.rmtree(studies, ignore_errors=True)
    studies.mkdir()
    contract = study.model_dump(mode="json", exclude={"simulation"}, exclude_none=True)
    (studies / f"{study.study.name}.toml").write_bytes(tomli_w.dumps(contract).encode())


def _training_patients(
    name: str, hospital: HospitalFile, study: Study, folder: Path, progress: Progress
) -> int:
    """A pretended hospital declares its training patients; the check that it has any is here."""
    raw = read_with(hospital.data, study, context_of(hospital, folder, progress=progress))
    assigned = assign(raw, study.data.parts, where=f"hospital {name}") if len(raw) else None
    patients = raw.patients[:0] if assigned is None else raw.patients[assigned == "train"]
    if not len(patients):
        raise DataError(
            f"is empty: {len(raw)} records, none of them to train on",
            todo="check its files, or choose another split, seed or number of hospitals",
            where=f"hospital {name}",
        )
    return len(np.unique(patients))


def _letter(number: int) -> str:
    letter = _NEEDED_NAMES[number % len(_NEEDED_NAMES)]
    return letter if number < len(_NEEDED_NAMES) else f"{letter}{number // len(_NEEDED_NAMES)}"


def _folder_name(number: int, name: str) -> str:
    """A folder name that sorts in the nodes' order and is safe on every file system."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    return f"{number + 1:05d}-{safe[:60]}"
