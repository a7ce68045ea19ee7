"""An audit of private training: the study's own, at one pretended hospital, with canaries.

Canaries join the hospital's patients, each with probability 1/2. The hospital answers the rounds of
a federation of one, by the code with which every hospital answers. From the noisy gradients of the
whole training the audit guesses who joined; guesses that are right too often disprove the epsilon
that the hospital's ledger was charged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fedward.client.data.reading import read_parts
from fedward.client.data.records import Records
from fedward.client.device import choose_device
from fedward.client.hospital import HospitalFile, read_hospital
from fedward.client.loaded import Loaded
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.privacy.attendance import LEAST_CHANCE, Attendance
from fedward.privacy.audit import (
    canaries_for,
    epsilon_for,
    guess,
    guesses_made,
    judged,
    largest_bound,
    lower_bound,
)
from fedward.privacy.contribution import Layout
from fedward.privacy.ledger import MECHANISM, Ledger
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.plain_sum import PlainSum
from fedward.privacy.steps import LocalSteps
from fedward.privacy.watched_steps import Evidence, Suspects, WatchedSteps
from fedward.simulation.canaries import Canaries, draw_canaries, population, suspects_of
from fedward.simulation.download import found_data
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.simulate import one_thread
from fedward.study.aggregation import FedAvg, FedBN, FedPer, Scaffold
from fedward.study.errors import AuditError, OptionError, TrainingError
from fedward.study.messages import Contribution, Refusal, TrainRequest, Vector
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study
from fedward.study.task import ClassTask
from fedward.study.token_data import SequenceData, TextData

_RUN = "audit"


@dataclass(frozen=True)
class Options:
    """How to audit.

    Attributes:
        data: The data set, if the study does not bring it.
        canaries: Patients who may be there, >= 2.
        records: Records of each canary, >= 1; as many as the study lets into a step if None.
        seed: Of everything that is drawn.
        epsilon: Budget that the noise is calibrated to, in (0, 50]; the study's own if None.
    """

    data: Path | None = None
    canaries: int = 200
    records: int | None = None
    seed: int = 0
    epsilon: float | None = None


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        hospital: Name of the pretended hospital.
        patients: Its training patients, canaries apart.
        canaries: Patients who may have been there.
        included: Canaries who were.
        records: Records of each canary.
        guesses: Canaries of which something was guessed.
        right: Guesses that were right.
        lower_bound: Epsilon that the guesses disprove, with 95 % confidence.
        largest_bound: What it would be if all guesses were right.
        smaller_epsilon: A budget that as many canaries can disprove; None if they can none.
        more_canaries: Canaries that can disprove `epsilon`; None if no number can.
        weights: Of the model that are trained. With fewer of them than patients and canaries,
            gradients cannot be told apart so well, and `largest_bound` may be out of reach.
        epsilon: As the ledger says after the last round.
        delta: The study's; all epsilons are at this delta.
        drawn: Patients and canaries in all steps, as they were sampled.
        expected: As many as the charged rate lets expect.
        chance: How often, at most, a Poisson sample of that rate is as odd as this one.
        seconds: Taken by the training and the guesses.
    """

    hospital: str
    patients: int
    canaries: int
    included: int
    records: int
    guesses: int
    right: int
    lower_bound: float
    largest_bound: float
    smaller_epsilon: float | None
    more_canaries: int | None
    weights: int
    epsilon: float
    delta: float
    drawn: int
    expected: float
    chance: float
    seconds: float

    def refuse_contradiction(self) -> None:
        """Accept the result by returning.

        Raises:
            AuditError: The lower bound is above the epsilon that was charged, or the steps are no
                Poisson sample of the rate that was charged.
        """
        if self.lower_bound > self.epsilon:
            raise AuditError(
                f"patients lose more than is charged: epsilon {self.epsilon:.2f} is charged, and "
                f"{self.right} of {self.guesses} guesses are right, which takes more than "
                f"{self.lower_bound:.2f}",
                todo="try other seeds, for chance does this to 1 audit in 20 at most; if it stays, "
                "train no patients with this build, and report it",
            )
        if self.chance < LEAST_CHANCE:
            raise AuditError(
                "the steps are no Poisson sample of the rate that is charged: patients were drawn "
                f"{self.drawn} times, {self.expected:.0f} are expected, and chance samples so "
                "many or so few, or so unevenly or evenly, less than once in a million trainings",
                todo="train no patients with this build, and report it",
            )


def audit(study: Study, options: Options, *, say: Callable[[str], None]) -> AuditResult:
    """Train once as the study says, with canaries, and guess which of them were there.

    Args:
        study: A private one.
        options: How.
        say: Told, in a line, what happens before.

    Raises:
        OptionError: The study is not private, or its delta allows no such audit.
        FedwardError: Its data cannot be used, or its training cannot be private.
    """
    study, privacy = _private(settled(study), options.epsilon)
    data = found_data(study, options.data, say=say)
    with TemporaryDirectory() as folder, one_thread():
        ward = _smallest_ward(study, data, Path(folder), seed=options.seed)
        return _audit(study, privacy, ward, options)


@dataclass(frozen=True)
class _Ward:
    """A pretended hospital with its training records, on its device."""

    hospital: HospitalFile
    folder: Path
    records: Records


def _private(study: Study, epsilon: float | None) -> tuple[Study, LocalPrivacy]:
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        raise OptionError(
            "the study is not private: there is nothing to audit",
            todo='give a study with [privacy] mode = "local"',
        )
    if not isinstance(study.task, ClassTask) or isinstance(study.data, TextData | SequenceData):
        raise OptionError(
            "canaries are drawn for classes and inputs that are numbers, and this study has a "
            f"{study.task.kind} task over {study.data.kind}",
            todo="audit a study of the same model settings that tells classes apart",
        )
    if study.data.measured:
        raise OptionError(
            "the audit watches training alone, and this study measures its scaling constants first",
            todo="audit a copy with center and scale in place of bounds",
        )
    if epsilon is not None:
        asked = {"epsilon": epsilon, "noise_multiplier": None}
        privacy = LocalPrivacy(**{**privacy.model_dump(), **asked})
    return study.model_copy(update={"privacy": privacy}), privacy


def _smallest_ward(study: Study, data: Path | None, folder: Path, *, seed: int) -> _Ward:
    """The hospital with the fewest training patients: little to hide among, little to compute."""
    files = make_hospitals(study, data, folder, seed=seed)
    hospitals = {file: read_hospital(file) for file in files}
    file = min(files, key=lambda f: hospitals[f].limits.declared_patients or 0)
    hospital = hospitals[file]
    records = read_parts(hospital, study, file.parent)["train"]
    return _Ward(hospital, file.parent, records.to(choose_device(hospital.device)))


def _audit(study: Study, privacy: LocalPrivacy, ward: _Ward, options: Options) -> AuditResult:
    started = time.monotonic()
    patients, delta = len(ward.records.patients.unique()), privacy.delta
    room = math.floor(1 / delta) - patients
    if options.canaries > room:  # training refuses a delta above 1 / patients, canaries too
        raise OptionError(
            f"{options.canaries} canaries beside {patients} patients are too many for delta "
            f"{delta:g}",
            todo=f"give --canaries {room} or fewer" if room >= 2 else "lower [privacy] delta",
        )
    copies = options.records or privacy.records_per_patient
    canaries = draw_canaries(study, options.canaries, copies=copies, seed=options.seed)
    evidence, attendance, ledger = _train(study, ward, canaries, seed=options.seed)
    rate = _charged_rate(ledger)
    guessed = guess(evidence.scores(), guesses_made(options.canaries))
    found = judged(guessed, canaries.included)
    epsilon = ledger.epsilon(
        data=ward.hospital.data.name, delta=delta, accountant=privacy.accountant
    )
    model = build(study, seed=options.seed)
    return AuditResult(
        hospital=ward.hospital.name,
        patients=patients,
        canaries=options.canaries,
        included=int(canaries.included.sum()),
        records=canaries.copies,
        guesses=found.made,
        right=found.right,
        lower_bound=lower_bound(found, delta),
        largest_bound=largest_bound(options.canaries, delta),
        smaller_epsilon=epsilon_for(options.canaries, delta),
        more_canaries=canaries_for(epsilon, delta, most=room),
        weights=sum(p.numel() for p in model.parameters() if p.requires_grad),
        epsilon=epsilon,
        delta=delta,
        drawn=attendance.drawn,
        expected=rate * attendance.patients * len(attendance.sizes),
        chance=attendance.chance(rate),
        seconds=time.monotonic() - started,
    )


class _WatchedSite(Site):
    """The hospital itself, with a watcher beside each of its private steps."""

    def __init__(
        self, ward: _Ward, suspects: Suspects, evidence: Evidence, attendance: Attendance
    ) -> None:
        super().__init__(ward.hospital, ward.folder)
        self._suspects = suspects
        self._evidence = evidence
        self._attendance = attendance

    def steps_for(self, request: TrainRequest, loaded: Loaded) -> LocalSteps:
        steps = super().steps_for(request, loaded)
        if not isinstance(steps, PatientSteps):
            return steps  # which nobody watched, and so they are missing in the end
        return WatchedSteps(steps, self._suspects, self._evidence, self._attendance)


def _train(
    study: Study, ward: _Ward, canaries: Canaries, *, seed: int
) -> tuple[Evidence, Attendance, Ledger]:
    """All rounds of a federation of one: what the watcher saw of them, and what they cost."""
    # Nobody else is there to hide among.
    terms = study.aggregation
    if isinstance(terms, Scaffold | FedBN | FedPer):  # these differ after the noise only
        terms = FedAvg(clip=terms.clip, weighting=terms.weighting, max_records=terms.max_records)
    plain = terms.model_copy(update={"secure": False})
    alone = study.model_copy(update={"aggregation": plain})
    evidence = Evidence(len(canaries))
    everybody = population(ward.records, canaries)
    attendance = Attendance(len(everybody.patients.unique()))
    site = _WatchedSite(ward, suspects_of(ward.records, canaries), evidence, attendance)
    nobody = everybody.first(0)
    site.keep(alone, {"train": everybody, "validation": nobody, "test": nobody})
    model = flat.flatten(build(alone, seed=seed))
    task = task_of(alone)
    layout = Layout(len(model), task.size, task.reals)
    for number in range(1, study.training.rounds + 1):
        model = model + _update(site, TrainRequest(alone.digest(), _RUN, number, model), layout)
    charged = sum(entry.charge.steps.steps for entry in site.ledger.entries())
    if not charged or evidence.steps != charged:
        raise AuditError(
            f"{evidence.steps} private steps were taken, and {charged} are charged",
            todo="train no patients with this build, and report it",
        )
    return evidence, attendance, site.ledger


def _charged_rate(ledger: Ledger) -> float:
    """The sampling rate of all rounds: one run has one."""
    charges = (entry.charge for entry in ledger.entries())
    (rate,) = {charge.steps.sampling_rate for charge in charges if charge.mechanism == MECHANISM}
    return rate


def _update(site: Site, request: TrainRequest, layout: Layout) -> Vector:
    """What a hospital answers, which is the mean of one; it must not refuse."""
    answer = site.answer(lambda: request)
    if not isinstance(answer, Contribution):
        refusal = answer if isinstance(answer, Refusal) else None
        raise TrainingError(
            refusal.what if refusal else "no contribution came",
            todo=refusal.todo if refusal else "",
            where=f"hospital {site.hospital.name}, round {request.round}",
        )
    summed = PlainSum(layout)
    summed.add(answer.vector)
    return summed.total().update.astype(np.float32)
