"""A hospital's data, opened for a study as training would open it, and only looked at.

Nothing is trained, charged or sent. What is found counts patients: it is for the hospital's staff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward.client.budget import open_ledger
from fedward.client.charging import declared_patients, refuse_unnamed
from fedward.client.data.faults import ListedFaults
from fedward.client.data.parts import PARTS, assign
from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.device import choose_device
from fedward.client.hospital import HospitalFile
from fedward.client.machine import choose_precision, within_memory
from fedward.models.registry import build
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.precision import refuse_imprecise
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.schedule import noise_of, refuse_large_delta, steps_of_round
from fedward.study.errors import FedwardError
from fedward.study.image_data import ImageData
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study
from fedward.study.table_data import TableData

_NEAR = 0.2  # share of the true number of patients that the declared one may be off
_FAR = 10.0  # scales from a feature's center that are worth a second look
_STEPS = (1, 2, 5, 10, 20, 50, 100)  # upper ends of the histogram's bars
_BAR = 30  # characters of the longest

Counts = NDArray[np.int64]


@dataclass
class Found:
    """What is known of one study at one hospital.

    Attributes:
        facts: What was found: a word, and the rest of a line.
        problems: What keeps the study from running here, or its promise from holding.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Whatever is refused inside is a problem, and the check goes on."""
        try:
            yield
        except FedwardError as error:
            self.problems.append(error.line())

    def say(self, word: str, text: str) -> None:
        """Add a fact."""
        self.facts.append((word, text))


def check(hospital: HospitalFile, folder: Path, study: Study) -> Found:
    """Look at a hospital's data, machine and budget as a study needs them.

    Args:
        hospital: The hospital's file.
        folder: The folder of that file, which its paths are relative to.
        study: Approved, offered, or only thought about.
    """
    found, patients = Found(), None
    with found.telling(), within_memory():
        patients = _data(found, hospital, folder, study)
    _machine(found, hospital, study)
    if isinstance(study.privacy, LocalPrivacy):
        _privacy(found, hospital, study, study.privacy, patients)
        _budget(found, hospital, folder, study, study.privacy)
    return found


# --- Records --------------------------------------------------------------------------------------


def _data(found: Found, hospital: HospitalFile, folder: Path, study: Study) -> int | None:
    """The number of training patients, if it can be said."""
    faults = ListedFaults()
    raw = read_all(hospital.data, study, folder, faults)
    found.problems += [error.line() for _, error in faults.found]
    left_out = raw.dropped - len(faults.rows)
    found.say(
        "records",
        f"{len(raw)} can be used, {len(faults.rows)} cannot, {left_out} left out because a value "
        "is missing",
    )
    if not len(raw):
        found.problems.append(f"no record of {hospital.name} can be used")
        return None
    _patients(found, raw, hospital.data.patient)
    if isinstance(study.data, TableData):
        _far_off(found, raw, study.data)
    elif isinstance(study.data, ImageData):
        _brightness(found, raw, study.data)
    assigned = assign(raw, study.data.parts, where=f"hospital {hospital.name}")
    for part in PARTS:
        here = raw.chosen(assigned == part)
        found.say(part, _part(here, study.task.classes))
    trained_on = len(np.unique(raw.patients[assigned == "train"]))
    if not trained_on:
        found.problems.append(f"no records of {hospital.name} to train on (of {len(raw)})")
    return trained_on


def _part(raw: RawRecords, classes: Sequence[str]) -> str:
    counts = np.bincount(raw.labels, minlength=len(classes))
    shares = [
        f"{name} {count} ({count / max(len(raw), 1):.0%})"
        for name, count in zip(classes, counts, strict=True)
    ]
    return f"{len(raw)} records of {len(np.unique(raw.patients))} patients: {', '.join(shares)}"


def _patients(found: Found, raw: RawRecords, named_by: str | None) -> None:
    if named_by is None:
        found.say("patients", f"{len(raw)}, as nobody says whose the records are")
        return
    each = np.unique(raw.patients, return_counts=True)[1]
    if each.max() == 1:
        found.say("patients", f"{len(each)}; each has one record")
        return
    found.say("patients", f"{len(each)}; the one with most records has {each.max()}")
    start, bars = 1, []
    for end in (*_STEPS, int(each.max())):
        if end >= start:
            bars.append((start, end, int(((each >= start) & (each <= end)).sum())))
            start = end + 1
    longest = max(count for *_, count in bars)
    for start, end, count in bars:
        if start > each.max():
            break
        end = min(end, int(each.max()))
        span = str(start) if start == end else f"{start} to {end}"
        bar = "#" * -(-count * _BAR // longest)
        found.say("", f"{span:>10} records: {count:6} patients {bar}".rstrip())


def _far_off(found: Found, raw: RawRecords, data: TableData) -> None:
    """Values that a study's public scale did not expect are allowed, and often a wrong unit."""
    at = 0
    for name, feature in data.features.items():
        values = np.abs(raw.inputs[:, at])
        at += feature.width
        if feature.categories is None and (far := int((values > _FAR).sum())):
            row = int(raw.rows[values.argmax()]) + 1
            found.say(
                "look at",
                f"column {name!r}: values more than {_FAR:g} scales from the study's center: "
                f"{far}, the farthest in row {row}; another unit?",
            )


def _brightness(found: Found, raw: RawRecords, data: ImageData) -> None:
    low, high = (
        float(edge) * data.scale + data.center for edge in (raw.inputs.min(), raw.inputs.max())
    )
    odd = "" if low >= -0.01 and 0.5 < high <= 1.01 else "; the study expects 0 to 1"
    found.say("look at" if odd else "pixels", f"pixels from {low:.3g} to {high:.3g}{odd}")


# --- The machine ----------------------------------------------------------------------------------


def _machine(found: Found, hospital: HospitalFile, study: Study) -> None:
    private = isinstance(study.privacy, LocalPrivacy)
    with found.telling(), within_memory():
        device = choose_device(hospital.device)
        precision = choose_precision(hospital, device)
        found.say("trains on", f"{device.type}, in {precision.kind}")
        if private:
            refuse_imprecise(precision)
    with found.telling(), within_memory():
        model = build(study, seed=0)
        if private:
            refuse_unprotected(model, hospital.training.gradients)


# --- Privacy --------------------------------------------------------------------------------------


def _privacy(
    found: Found,
    hospital: HospitalFile,
    study: Study,
    privacy: LocalPrivacy,
    patients: int | None,
) -> None:
    with found.telling():
        refuse_unnamed(hospital)
    with found.telling():
        declared = declared_patients(hospital)
        if patients:
            found.say("declared", _declared(declared, patients))
        refuse_large_delta(privacy.delta, declared=declared)
        if patients and privacy.delta * patients > 1:
            found.problems.append(
                f"delta {privacy.delta:g} is above 1 / {patients} training patients = "
                f"{1 / patients:.3g}, though it fits the {declared} that are declared: declare "
                "more, or ask for a study with a smaller delta"
            )
        elif patients:
            found.say("delta", f"{privacy.delta:g} fits: below 1 / {max(declared, patients)}")


def _declared(declared: int, patients: int) -> str:
    if abs(declared - patients) <= _NEAR * patients:
        return f"{declared} training patients: near the true number, {patients}"
    effect = (
        "its updates count for more than they should, with the same noise"
        if declared < patients
        else "its updates are made smaller than they need be"
    )
    return f"{declared} training patients: FAR from the true number, {patients}; {effect}"


def _budget(
    found: Found, hospital: HospitalFile, folder: Path, study: Study, privacy: LocalPrivacy
) -> None:
    declared, limits = hospital.limits.declared_patients, hospital.limits
    if declared is None:  # told already
        return
    with found.telling():
        rate = privacy.rate_of(declared)
        rounds, steps = study.training.rounds, steps_of_round(study, rate)
        run = SampledGaussian(noise_of(study, privacy, rate), rate, steps * rounds)
        before = _charged(hospital, folder)
        delta = limits.delta or privacy.delta
        now, then = (
            epsilon_of(some, delta, privacy.accountant) for some in (before, [*before, run])
        )
        cap = limits.epsilon
        allowed = "no limit is set" if cap is None else f"{cap:g} is allowed"
        found.say(
            "budget",
            f"{now:.3f} is spent; a whole run brings it to {then:.3f} at delta {delta:g}; "
            f"{allowed}",
        )
        if cap is None or then <= cap:
            return
        fits = _most_rounds(
            rounds,
            lambda n: epsilon_of(
                [*before, run._replace(steps=steps * n)], delta, privacy.accountant
            ),
            cap,
        )
        found.problems.append(
            f"the budget does not allow the study: epsilon would be {then:.3g}, above the cap of "
            f"{cap:g}; {fits} of its {rounds} rounds would be answered"
        )


def _charged(hospital: HospitalFile, folder: Path) -> list[SampledGaussian]:
    ledger = folder / hospital.state / "ledger.sqlite"
    if not ledger.exists() and not ledger.with_name(f"{ledger.name}.begun").exists():
        return []
    entries = open_ledger(hospital, folder).entries()
    return [e.charge.steps for e in entries if e.charge.data == hospital.data.name]


def _most_rounds(rounds: int, epsilon: Callable[[int], float], cap: float) -> int:
    """The largest number of rounds within the cap; more rounds never cost less."""
    low, high = 0, rounds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon(middle) <= cap else (low, middle)
    return low
