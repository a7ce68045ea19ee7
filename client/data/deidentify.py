"""DICOM files without the names in them: PS3.15, basic profile, into a new folder.

Nothing of the source is changed. The new folder is written aside and renamed when all is there; a
file that cannot be read is not in it, and is named.
"""

from __future__ import annotations

import csv
import io
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedward.client.data.context import Progress
from fedward.client.data.deidentify_rules import DateRule, Done, Key, Profile
from fedward.client.data.dicom_files import dicom_files, opened, pydicom, reading
from fedward.privacy.key_file import read_secret
from fedward.privacy.public_file import write_public
from fedward.privacy.secret_file import write_secret
from fedward.study.errors import DataError

OFTEN_BURNT_IN = {"US", "XA", "XC", "SC", "OT", "ES", "RF", "DX", "CR", "GM", "OP"}
"""Modalities whose machines often write names into the pixels."""
_KEY_BYTES = 32


@dataclass
class Deidentified:
    """What was done.

    Attributes:
        files: Written, by their new names.
        left_out: Why a file of the source was not.
        burnt_in: New names of files whose pixels hold words, or may.
        unnamed: New names of files that named no patient.
        others: Files of the source that are no DICOM files, and were not copied.
    """

    files: list[str] = field(default_factory=list)
    left_out: list[DataError] = field(default_factory=list)
    burnt_in: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    others: int = 0


def deidentify(
    source: Path,
    target: Path,
    *,
    key: Path,
    report: Path,
    dates: DateRule = "removed",
    progress: Progress = lambda done, total: None,
) -> Deidentified:
    """Write all DICOM files of a folder anew, without what names people.

    Args:
        source: The folder; stays as it is.
        target: New folder: one folder a patient's pseudonym, files named by their new UID.
        key: File of the key of pseudonyms and UIDs, for its owner alone; made if it is not there.
            With the same key a patient has the same pseudonym again. Whoever has it can try names.
        report: New CSV file: file (its new name), tag, action; no values.
        dates: `removed`, or `shifted` by a number of days that is each patient's own.
        progress: Told of how many of how many files are done.

    Raises:
        DataError: A folder or the key cannot be used, or something is at the target already.
        OptionError: The libraries are not installed.
    """
    pydicom()
    _refuse_places(source, target, key, report)
    profile = Profile(Key(_secret(key)), dates)
    files = dicom_files(source)
    if not files:
        raise DataError("holds no DICOM files", todo="check the path", where=str(source))
    done = Deidentified(others=sum(p.is_file() for p in source.rglob("*")) - len(files))
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["file", "tag", "action"])
    aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    aside.mkdir(mode=0o700, parents=True)
    try:
        for number, path in enumerate(files):
            try:
                name, actions = _one(path, aside, profile, done)
                table.writerows([name, *action] for action in actions)
            except DataError as error:
                done.left_out.append(error)
            progress(number + 1, len(files))
        write_public(report, lines.getvalue().encode())
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside)
        raise
    return done


def _refuse_places(source: Path, target: Path, key: Path, report: Path) -> None:
    if not source.is_dir():
        raise DataError("no such folder", todo="check the path", where=str(source))
    old, new = source.resolve(), target.resolve()
    if new.is_relative_to(old) or old.is_relative_to(new):
        raise DataError(
            "one of the two folders would be in the other",
            todo="choose a target apart from the source",
            where=str(target),
        )
    for file, what in ((key, "key"), (report, "report")):
        if any(file.resolve().is_relative_to(folder) for folder in (old, new)):
            raise DataError(
                f"the {what} would lie in the source or the target",
                todo="choose another place: what is given away must not hold it",
                where=str(file),
            )
    for path in (target, report):
        if path.exists():
            raise DataError(
                "is there already", todo="choose another path, or take it away", where=str(path)
            )


def _secret(key: Path) -> bytes:
    try:
        if not key.exists():
            write_secret(key, secrets.token_bytes(_KEY_BYTES))
        secret = read_secret(key)
    except OSError as error:
        raise DataError(
            f"not usable as a key ({error.strerror})", todo="choose another path", where=str(key)
        ) from None
    if len(secret) != _KEY_BYTES:
        raise DataError(
            f"a key has {_KEY_BYTES} bytes, this file {len(secret)}",
            todo="give the file that an earlier run made, or a new path",
            where=str(key),
        )
    return secret


def _one(path: Path, folder: Path, profile: Profile, done: Deidentified) -> tuple[str, list[Done]]:
    """Write one file; its new name, and what was done to it."""
    with reading(path):
        with opened(path) as file:
            dataset = pydicom().dcmread(file)
        fresh, actions = profile.applied(dataset)
        patient = str(fresh.get("PatientID") or "") or "unnamed"
        name = f"{patient}/{fresh.file_meta.MediaStorageSOPInstanceUID}.dcm"
        if (folder / name).exists():
            raise DataError(
                "has the SOPInstanceUID of another file", todo="take one out", where=str(path)
            )
        content = io.BytesIO()
        fresh.save_as(content, enforce_file_format=True)
    (folder / patient).mkdir(mode=0o700, exist_ok=True)
    (folder / name).write_bytes(content.getvalue())
    done.files.append(name)
    if patient == "unnamed":
        done.unnamed.append(name)
    if may_be_burnt_in(fresh.get):
        done.burnt_in.append(name)
    return name, actions


def may_be_burnt_in(value_of: Callable[[str], Any]) -> bool:
    """Whether a file's pixels hold words, as it says, or as its kind of machine often writes.

    Args:
        value_of: Gives a tag's value by its keyword; None if it is not there.
    """
    flag = str(value_of("BurnedInAnnotation") or "").strip().upper()
    return flag == "YES" or (flag != "NO" and str(value_of("Modality") or "") in OFTEN_BURNT_IN)
