"""What a private study plans for a hospital: its rate, its steps, and the noise that they ask for.

Everything follows from the study and from the number of patients that the hospital declares, which
is public: nothing depends on its records.
"""

from __future__ import annotations

from fedward.privacy.accounting import SampledGaussian, calibrate, epsilon_of
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study


def steps_of_round(study: Study, rate: float) -> int:
    """Steps of one round of a hospital that samples each patient at this rate."""
    training = study.training
    if training.local_steps is not None:
        return training.local_steps
    return (training.local_epochs or 1) * max(1, round(1 / rate))


def noise_of(study: Study, privacy: LocalPrivacy, rate: float) -> float:
    """The noise multiplier that the study sets, or that spends its epsilon over all rounds.

    Finding it takes a second or more; it is kept for the life of the process.

    Raises:
        OptionError: The accountant finds no noise for this budget.
    """
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    return calibrate(
        float(privacy.epsilon or 0),
        privacy.delta,
        rate,
        steps_of_round(study, rate) * study.training.rounds,
        privacy.accountant,
    )


def epsilon_after(study: Study, rounds: int, declared: int = 1) -> float | None:
    """Epsilon at a hospital that took part in this many rounds; None where it cannot be said.

    Args:
        study: Says what is done.
        rounds: At least 0.
        declared: Patients that the hospital declares; without it nothing can be said of a study
            whose rate depends on it.
    """
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return None
    if privacy.sampling_rate is None and declared == 1:
        return None
    rate = privacy.rate_of(declared)
    event = SampledGaussian(
        noise_of(study, privacy, rate), rate, steps_of_round(study, rate) * rounds
    )
    return epsilon_of([event], privacy.delta, privacy.accountant)
