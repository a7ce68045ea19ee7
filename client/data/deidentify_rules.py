"""What becomes of each DICOM element: PS3.15, Table E.1-1, basic profile, and more where in doubt.

The table is that of dicom-anonymizer, which follows the standard's editions. The actions are our
own: that package keeps dates that are to go, draws UIDs that no key repeats, keeps the preamble and
the meta information, and reports nothing. Of the choices that the table leaves (such as X/Z/D) the
one that keeps files whole is taken. Beyond the table goes whatever is private or in no dictionary,
and every name, date, time, free text, retired word and unknown value that the table lacks.
"""

from __future__ import annotations

import copy
import datetime
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from fedward.client.data.extras import need
from fedward.privacy.framing import framed

DateRule = Literal["removed", "shifted"]
_EDITION = "dicomfields_2026c"
_REGISTERED = "1.2.840.10008."  # UIDs of the standard itself
_UNLISTED = {"PN", "DA", "DT", "TM", "LT", "ST", "UT", "UC", "UR", "UN", "AE", "AS"}
_DUMMIES: dict[str, object] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), b"\0" * 8),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "https://removed.invalid",
    "SQ": [],
}
_MOST_DAYS = 3650
_CODES = {
    "removed": [("113100", "Basic Application Confidentiality Profile")],
    "shifted": [
        ("113100", "Basic Application Confidentiality Profile"),
        ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ],
}


class Done(NamedTuple):
    """One element that is not what it was.

    Attributes:
        tag: Numbers, those of the sequences around it first, and the name in the dictionary.
        action: What was done.
    """

    tag: str
    action: str


@dataclass(frozen=True)
class Key:
    """What pseudonyms, UIDs and shifts follow from.

    Attributes:
        secret: 32 bytes.
    """

    secret: bytes

    def _digest(self, what: str, value: str) -> bytes:
        return hmac.digest(
            self.secret, framed("fedward/1/deidentify", what, value.encode()), "sha256"
        )

    def pseudonym(self, patient: str) -> str:
        """What a patient is called from now on."""
        return self._digest("patient", patient)[:10].hex().upper()

    def uid(self, old: str) -> str:
        """The new UID for an old one: of the form that is made from a UUID."""
        return f"2.25.{int.from_bytes(self._digest('uid', old)[:16], 'big')}"

    def days(self, patient: str) -> int:
        """By how many days this patient's dates move into the past."""
        return 1 + int.from_bytes(self._digest("days", patient)[:8], "big") % _MOST_DAYS


class Profile:
    """The basic profile with one key.

    Args:
        key: Of the hospital.
        dates: What becomes of dates.
    """

    def __init__(self, key: Key, dates: DateRule) -> None:
        self._key = key
        self._dates = dates

    def applied(self, dataset: Any) -> tuple[Any, list[Done]]:  # noqa: ANN401 - pydicom's
        """A data set without what names people, and what was done to it.

        Args:
            dataset: A file's; it is changed.
        """
        patient = str(dataset.get("PatientID") or "").strip()
        done = list(self._cleaned(dataset, "", self._key.days(patient)))
        dataset.PatientID = self._key.pseudonym(patient) if patient else ""
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "Fedward: PS3.15 basic profile"
        dataset.DeidentificationMethodCodeSequence = [self._code(*c) for c in _CODES[self._dates]]
        dataset.LongitudinalTemporalInformationModified = (
            "REMOVED" if self._dates == "removed" else "MODIFIED"
        )
        self._new_meta(dataset)
        return dataset, done

    def _code(self, value: str, meaning: str) -> Any:  # noqa: ANN401
        code = need("pydicom", extra="imaging").Dataset()
        code.CodeValue, code.CodeMeaning = value, meaning
        code.CodingSchemeDesignator = "DCM"
        return code

    def _new_meta(self, dataset: Any) -> None:  # noqa: ANN401
        """Preamble and meta information that say nothing of where the file comes from."""
        old = dataset.file_meta
        meta = need("pydicom", extra="imaging").dataset.FileMetaDataset()
        meta.TransferSyntaxUID = old.TransferSyntaxUID
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta, dataset.preamble = meta, b"\0" * 128

    def _cleaned(self, dataset: Any, around: str, days: int) -> Iterator[Done]:  # noqa: ANN401
        for tag in list(dataset.keys()):
            name = f"{around}({tag.group:04X},{tag.element:04X})"
            if tag.is_private:  # before its value is made sense of
                del dataset[tag]
                yield Done(name, "removed: private")
                continue
            element = dataset[tag]
            known = f"{name} {element.keyword}".strip()
            action = self._action(element)
            if action == "recurse":
                for item in element.value:
                    yield from self._cleaned(item, f"{name}/", days)
            elif action != "keep":
                yield Done(known, self._act(dataset, element, action, days))

    def _action(self, element: Any) -> str:  # noqa: ANN401
        """`keep`, `recurse`, or what `_act` does."""
        tag, kind = element.tag, element.VR
        if tag.group & 0xFF00 in {0x5000, 0x6000}:  # curves and overlays: drawn words
            return "X"
        listed = self._table.get((tag.group, tag.element))
        if listed is None and not element.keyword:
            return "X"
        if kind == "SQ":
            return "recurse" if listed in {None, "U", "X/Z/U*"} else listed
        if kind == "UI" and (listed in {None, "U", "X/Z/U*"}):
            return "keep" if self._of_the_standard(element) else "U"
        if kind in {"DA", "DT"} and self._dates == "shifted" and "BirthDate" not in element.keyword:
            return "shift"
        if listed is not None:
            return listed
        if kind in {"IS", "DS"} and not _numeric(element.value):
            return "X"  # words where a number should be
        words = kind in _UNLISTED or (kind in {"LO", "SH"} and self._retired(tag))
        return "X" if words else "keep"

    @staticmethod
    def _retired(tag: Any) -> bool:  # noqa: ANN401 - pydicom's
        """The table is kept for what the standard still has."""
        return bool(need("pydicom.datadict", extra="imaging").dictionary_is_retired(tag))

    @staticmethod
    def _of_the_standard(element: Any) -> bool:  # noqa: ANN401
        value = element.value
        each = [value] if isinstance(value, str) else list(value or ())
        kind_of_object = element.keyword.endswith("ClassUID")
        return kind_of_object or all(uid == "" or uid.startswith(_REGISTERED) for uid in each)

    def _act(self, dataset: Any, element: Any, action: str, days: int) -> str:  # noqa: ANN401
        tag, kind = element.tag, element.VR
        if action == "U" and kind == "UI":
            value = element.value
            each = [value] if isinstance(value, str) else list(value)
            dataset[tag].value = [self._key.uid(str(uid)) for uid in each]
            return "new UID"
        if action == "shift" and (moved := _moved(element, days)) is not None:
            dataset[tag].value = moved
            return "shifted"
        if action in {"Z", "X/Z"}:
            dataset[tag].value = [] if kind == "SQ" else None
            return "emptied"
        if "D" in action and (kind in _DUMMIES or kind == "UI"):
            dataset[tag].value = (
                self._key.uid(str(element.value)) if kind == "UI" else copy.copy(_DUMMIES[kind])
            )
            return "replaced"
        del dataset[tag]
        return "removed"

    @cached_property
    def _table(self) -> dict[tuple[int, int], str]:
        """The action of each element."""
        need("dicomanonymizer", extra="imaging")
        selector = need("dicomanonymizer.dicomfields_selector", extra="imaging")
        groups = selector.dicom_anonymization_database_selector(_EDITION)
        actions = {
            "D_TAGS": "D",
            "Z_TAGS": "Z",
            "X_TAGS": "X",
            "U_TAGS": "U",
            "Z_D_TAGS": "Z/D",
            "X_Z_TAGS": "X/Z",
            "X_D_TAGS": "X/D",
            "X_Z_D_TAGS": "X/Z/D",
            "X_Z_U_STAR_TAGS": "X/Z/U*",
        }
        return {
            tuple(tag): action
            for group, action in actions.items()
            for tag in groups[group]
            if len(tag) == 2
        }


def _numeric(value: Any) -> bool:  # noqa: ANN401 - pydicom's
    each = [value] if isinstance(value, (str, int, float)) or value is None else value
    try:
        _ = [float(one) for one in each if one not in {None, ""}]
    except (TypeError, ValueError):
        return False
    return True


def _moved(element: Any, days: int) -> str | list[str] | None:  # noqa: ANN401 - pydicom's
    """Dates so many days earlier, without a time of day; None if it is no date."""
    value = element.value
    each = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    moved = []
    for text in map(str, each):
        try:
            date = datetime.datetime.strptime(text[:8], "%Y%m%d").date()
            moved.append(f"{date - datetime.timedelta(days=days):%Y%m%d}")
        except (ValueError, OverflowError):
            return None
    return moved[0] if len(moved) == 1 else moved or None
