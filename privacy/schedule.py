"""What a private study plans: the steps of a round, and the noise that its budget asks for."""

from __future__ import annotations

from fedward.privacy.accounting import SampledGaussian, calibrate, epsilon_of
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study


def steps_of_round(study: Study) -> int:
    """Steps that every hospital takes in one round: public, whatever its records are."""
    training = study.training
    if training.local_steps is not None:
        return training.local_steps
    return (training.local_epochs or 1) * (study.steps_per_epoch or 1)


def noise_of(study: Study, privacy: LocalPrivacy) -> float:
    """The noise multiplier that the study sets, or that spends its epsilon over all rounds.

    Finding it takes a second or more; it is kept for the life of the process.
    """
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    return calibrate(
        float(privacy.epsilon or 0),
        privacy.delta,
        privacy.sampling_rate,
        steps_of_round(study) * study.training.rounds,
        privacy.accountant,
    )


def epsilon_after(study: Study, rounds: int) -> float | None:
    """Epsilon at a hospital that took part in this many rounds; None where privacy is off."""
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return None
    event = SampledGaussian(
        noise_of(study, privacy), privacy.sampling_rate, steps_of_round(study) * rounds
    )
    return epsilon_of([event], privacy.delta, privacy.accountant)
