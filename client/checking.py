"""A hospital's data, opened for a study as training would open it, and only looked at.

Nothing is trained, charged or sent. What is found counts patients: it is for the hospital's staff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedward.client.budget import open_ledger
from fedward.client.charging import declared_patients, refuse_unnamed
from fedward.client.data.context import Progress, unseen
from fedward.client.data.facts import facts_of
from fedward.client.data.faults import ListedFaults
from fedward.client.data.parts import assign
from fedward.client.data.reading import context_of, read_with
from fedward.client.device import choose_device
from fedward.client.hospital import HospitalFile, models_of
from fedward.client.machine import choose_precision, within_memory
from fedward.models.registry import build
from fedward.models.resampled import resampled_of
from fedward.models.task import task_of
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.schedule import (
    evaluating,
    measuring,
    noise_of,
    refuse_large_delta,
    steps_of_round,
)
from fedward.study.errors import FedwardError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

_NEAR = 0.2  # share of the true number of patients that the declared one may be off


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


def check(hospital: HospitalFile, folder: Path, study: Study, progress: Progress = unseen) -> Found:
    """Look at a hospital's data, machine and budget as a study needs them.

    Args:
        hospital: The hospital's file.
        folder: The folder of that file, which its paths are relative to.
        study: Approved, offered, or only thought about.
        progress: Told of the first decoding of its files.
    """
    found, patients = Found(), None
    with found.telling(), within_memory():
        patients = _data(found, hospital, folder, study, progress)
    _machine(found, hospital, folder, study)
    if isinstance(study.privacy, LocalPrivacy):
        _privacy(found, hospital, study, study.privacy, patients)
        _budget(found, hospital, folder, study, study.privacy)
    return found


# --- Records --------------------------------------------------------------------------------------


def _data(
    found: Found, hospital: HospitalFile, folder: Path, study: Study, progress: Progress
) -> int | None:
    """The number of training patients, if it can be said."""
    faults = ListedFaults()
    raw = read_with(hospital.data, study, context_of(hospital, folder, faults, progress))
    found.problems += [error.line() for _, error in faults.found]
    for _, error in faults.left_out:
        found.say("left out", error.line())
    cannot = {row for row in faults.rows if row >= 0}
    found.say(
        "records",
        f"{len(raw)} can be used, {len(cannot)} cannot, {raw.dropped - len(cannot)} left out",
    )
    if not len(raw):
        found.problems.append(f"no record of {hospital.name} can be used")
        return None
    assigned = assign(raw, study.data.parts, where=f"hospital {hospital.name}")
    found.facts += facts_of(raw, study, assigned, named_by=hospital.data.patient)
    trained_on = len(np.unique(raw.patients[assigned == "train"]))
    if not trained_on:
        found.problems.append(f"no records of {hospital.name} to train on (of {len(raw)})")
    return trained_on


# --- The machine ----------------------------------------------------------------------------------


def _machine(found: Found, hospital: HospitalFile, folder: Path, study: Study) -> None:
    private = isinstance(study.privacy, LocalPrivacy)
    with found.telling(), within_memory():
        device = choose_device(hospital.device)
        precision = choose_precision(hospital, device)
        found.say("trains on", f"{device.type}, in {precision.kind}")
    with found.telling():
        resampled_of(study, task_of(study))
    with found.telling(), within_memory():
        model = build(study, seed=0, models=models_of(hospital, folder))
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
        one = SampledGaussian(noise_of(study, privacy, rate), rate, steps)
        before = _charged(hospital, folder)
        delta = limits.delta or privacy.delta

        def after(answered: int) -> float:
            beside = (*measuring(study), *evaluating(study, answered))
            trained = one._replace(steps=steps * answered)
            return epsilon_of([*before, *beside, trained], delta, privacy.accountant)

        now, then = epsilon_of(before, delta, privacy.accountant), after(rounds)
        cap = limits.epsilon
        allowed = "no limit is set" if cap is None else f"{cap:g} is allowed"
        found.say(
            "budget",
            f"{now:.3f} is spent; a whole run brings it to {then:.3f} at delta {delta:g}; "
            f"{allowed}",
        )
        if cap is None or then <= cap:
            return
        fits = _most_rounds(rounds, after, cap)
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
