"""A private round's steps, once they are paid for."""

from __future__ import annotations

import hashlib

from torch import Tensor

from fedward.client.hospital import HospitalFile
from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import Cap, Charge, Ledger
from fedward.privacy.patient_steps import PatientSteps, refuse_large_delta
from fedward.privacy.privacy_errors import Undeclared
from fedward.privacy.schedule import noise_of, steps_of_round
from fedward.privacy.secret_stream import SecretStream
from fedward.study.messages import TrainRequest
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study


def charged_steps(
    request: TrainRequest,
    study: Study,
    privacy: LocalPrivacy,
    patients: Tensor,
    *,
    hospital: HospitalFile,
    ledger: Ledger,
    sampling: SecretStream,
    noise: SecretStream,
) -> PatientSteps:
    """The steps of a round; when this returns, their charge is on disk.

    Args:
        request: The round that is asked for.
        study: What is done.
        privacy: The study's.
        patients: Number of each training record's patient, shape (n,).
        hospital: Declares its patients and sets its limits.
        ledger: The hospital's.
        sampling: Source of the samples.
        noise: Source of the noise.

    Raises:
        PrivacyError: The guarantee would not hold.
        BudgetError: The hospital's cap does not allow it, or its ledger cannot be used.
    """
    declared = declared_patients(hospital)
    refuse_large_delta(privacy.delta, declared=declared, patients=patients)
    rate, limits = privacy.rate_of(declared), hospital.limits
    # One run has one noise multiplier, also after a restart; finding it takes seconds.
    sigma = ledger.noise_multiplier(study=request.study, run=request.run)
    sigma = sigma or noise_of(study, privacy, rate)
    steps = SampledGaussian(sigma, rate, steps_of_round(study, rate))
    cap = None if limits.epsilon is None else Cap(limits.epsilon, limits.delta or privacy.delta)
    charge = Charge(
        data=hospital.data.name,
        study=request.study,
        run=request.run,
        round=request.round,
        model=hashlib.sha256(request.model.tobytes()).hexdigest(),
        patients=hashlib.sha256(patients.cpu().numpy().tobytes()).hexdigest(),
        steps=steps,
        delta=privacy.delta,
        accountant=privacy.accountant,
    )
    ledger.charge(charge, cap=cap)
    return PatientSteps(
        noise_multiplier=sigma,
        clipping_norm=privacy.clipping_norm,
        sampling_rate=rate,
        records_per_patient=privacy.records_per_patient,
        divisor=privacy.divisor_of(declared),
        steps=steps.steps,
        sampling=sampling,
        noise=noise,
        at_once=limits.records_at_once,
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
