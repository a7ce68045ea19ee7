"""A private round's steps, what is measured before the first, and evaluation, once paid for."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from fedward.client.asked import told_digest
from fedward.client.hospital import HospitalFile
from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import EVALUATION, MECHANISM, Cap, Charge, Ledger
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.precision import Precision
from fedward.privacy.privacy_errors import PatientsUnnamed, Undeclared
from fedward.privacy.schedule import (
    evaluating,
    measuring,
    noise_of,
    refuse_large_delta,
    steps_of_round,
)
from fedward.privacy.secret_stream import SecretStream
from fedward.study.messages import EvaluateRequest, MeasureRequest, Request, TrainRequest
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

_LOG = logging.getLogger("fedward.client")
_MOST_WASTED = 3  # charges of a run whose answers crashes may take


@dataclass(frozen=True)
class Patients:
    """Whom a round trains on.

    Attributes:
        digest: Who they are, hexadecimal; where evaluation has noise, whom it judges on too.
        number: How many; it is compared here and told nobody.
    """

    digest: str
    number: int


def charged_steps(
    request: TrainRequest,
    study: Study,
    privacy: LocalPrivacy,
    patients: Patients,
    *,
    hospital: HospitalFile,
    ledger: Ledger,
    sampling: SecretStream,
    noise: SecretStream,
    precision: Precision,
) -> PatientSteps:
    """The steps of a round; when this returns, their charge is on disk.

    Where the round is monitored with noise, that is charged with them: both or neither.

    Args:
        request: The round that is asked for.
        study: What is done.
        privacy: The study's.
        patients: Whom it trains on.
        hospital: Declares its patients and sets its limits.
        ledger: The hospital's.
        sampling: Source of the samples.
        noise: Source of the noise.
        precision: How finely the network computes.

    Raises:
        PrivacyError: The guarantee would not hold.
        BudgetError: The hospital's cap does not allow it, or its ledger cannot be used.
    """
    declared = declared_patients(hospital)
    refuse_large_delta(privacy.delta, declared=declared)
    rate = privacy.rate_of(declared)
    # One run has one noise multiplier, also after a restart; finding it takes seconds.
    sigma = ledger.noise_multiplier(study=request.study, run=request.run)
    sigma = sigma or noise_of(study, privacy, rate)
    steps = SampledGaussian(sigma, rate, steps_of_round(study, rate))
    evaluation = {} if request.monitor is None else _evaluation(study)
    events = {**evaluation, MECHANISM: steps}
    _charge(request, study, privacy, patients, events, hospital=hospital, ledger=ledger)
    return PatientSteps(
        noise_multiplier=sigma,
        clipping_norm=privacy.clipping_norm,
        sampling_rate=rate,
        records_per_patient=privacy.records_per_patient,
        divisor=privacy.divisor_of(declared),
        steps=steps.steps,
        sampling=sampling,
        noise=noise,
        at_once=hospital.limits.records_at_once,
        precision=precision,
        clipping=privacy.clipping,
        gradients=hospital.training.gradients,
    )


def charge_measuring(
    request: MeasureRequest,
    study: Study,
    privacy: LocalPrivacy,
    patients: Patients,
    *,
    hospital: HospitalFile,
    ledger: Ledger,
) -> float:
    """Pay for what is measured before the first round; when this returns, that is on disk.

    Args:
        request: That asks for it.
        study: What is done.
        privacy: The study's.
        patients: Who are measured.
        hospital: Declares its patients and sets its limits.
        ledger: The hospital's.

    Returns:
        The noise multiplier that was paid for.

    Raises:
        PrivacyError: The guarantee would not hold.
        BudgetError: The hospital's cap does not allow it, or its ledger cannot be used.
    """
    refuse_large_delta(privacy.delta, declared=declared_patients(hospital))
    (steps,) = measuring(study)
    events = {MECHANISM: steps}
    _charge(request, study, privacy, patients, events, hospital=hospital, ledger=ledger)
    return steps.noise_multiplier


def charge_judging(
    request: EvaluateRequest,
    study: Study,
    privacy: LocalPrivacy,
    patients: Patients,
    *,
    hospital: HospitalFile,
    ledger: Ledger,
) -> None:
    """Pay for judging the final model on one part with noise; when this returns, that is on disk.

    Args:
        request: That asks for it.
        study: What is done.
        privacy: The study's.
        patients: Whom its run trains and judges on.
        hospital: Declares its patients and sets its limits.
        ledger: The hospital's.

    Raises:
        PrivacyError: The guarantee would not hold.
        BudgetError: The hospital's cap does not allow it, or its ledger cannot be used.
    """
    refuse_large_delta(privacy.delta, declared=declared_patients(hospital))
    events = _evaluation(study)
    _charge(request, study, privacy, patients, events, hospital=hospital, ledger=ledger)


def _evaluation(study: Study) -> dict[str, SampledGaussian]:
    """One evaluation: everybody once; nothing where it has no noise."""
    noise = study.evaluation_noise
    return {} if noise is None else {EVALUATION: SampledGaussian(noise, 1.0, 1)}


def _charge(
    request: Request,
    study: Study,
    privacy: LocalPrivacy,
    patients: Patients,
    events: dict[str, SampledGaussian],
    *,
    hospital: HospitalFile,
    ledger: Ledger,
) -> None:
    limits = hospital.limits
    if privacy.delta * patients.number > 1:
        _LOG.warning(
            "delta %g is above 1 / %d training patients, who are more than the %d declared: raise "
            "[limits] declared_patients for the next run",
            *(privacy.delta, patients.number, limits.declared_patients),
        )
    cap = None
    if limits.epsilon is not None and limits.delta is not None:
        cap = Cap(limits.epsilon, limits.delta)
    told = told_digest(request).hex()
    charges = [
        Charge(
            data=hospital.data.name,
            study=request.study,
            run=request.run,
            round=request.round,
            told=told,
            patients=patients.digest,
            steps=steps,
            delta=privacy.delta,
            accountant=privacy.accountant,
            mechanism=mechanism,
        )
        for mechanism, steps in events.items()
    ]
    rounds = study.training.rounds
    planned = {
        MECHANISM: rounds + len(measuring(study)),
        EVALUATION: sum(event.steps for event in evaluating(study, rounds)),
    }
    ledger.charge(
        *charges,
        cap=cap,
        # Evaluations that nobody asks for are no charges that crashed rounds may take.
        most_of={mechanism: number + _MOST_WASTED for mechanism, number in planned.items()},
        most=sum(planned.values()) + _MOST_WASTED,
    )


def refuse_unnamed(hospital: HospitalFile) -> None:
    """Accept a hospital for private studies by returning.

    Raises:
        PatientsUnnamed: It does not say whose its records are.
    """
    if hospital.data.patient is None:
        raise PatientsUnnamed(
            "a private study protects patients, and this hospital does not say whose its "
            "records are",
            todo='set patient = "column" or patient = "record" in [data] of hospital.toml',
        )


def declared_patients(hospital: HospitalFile) -> int:
    """The public number of patients that takes the place of the hospital's count.

    Raises:
        Undeclared: There is none.
    """
    declared = hospital.limits.declared_patients
    if declared is None:
        raise Undeclared(
            "a private study needs a public number of patients, and none is declared",
            todo="set declared_patients in [limits] of hospital.toml (a round number is best)",
        )
    return declared
