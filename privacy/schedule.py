"""What a private study plans for a hospital: its rate, its steps, and the noise that they ask for.

Everything follows from the study and from the number of patients that the hospital declares, which
is public: nothing depends on its records.
"""

from __future__ import annotations

from fedward.privacy.accounting import SampledGaussian, calibrate, epsilon_of
from fedward.privacy.privacy_errors import DeltaTooLarge
from fedward.study.errors import StudyError
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

    Scaling constants that the study measures, and evaluation where it has noise, are paid from the
    same epsilon.

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
        beside=(*measuring(study), *evaluating(study, study.training.rounds)),
    )


def measuring(study: Study) -> tuple[SampledGaussian, ...]:
    """What measuring scaling constants and statistics costs: everybody, once; or nothing.

    A study whose run measures nothing, as its constants are given, is charged for its statistics
    when `fedward stats` asks for them; its rounds leave room for that.
    """
    privacy = study.privacy
    if not (isinstance(privacy, LocalPrivacy) and study.data.summed):
        return ()
    noise = privacy.statistics_noise_multiplier
    if noise is None:
        raise StudyError("privacy.statistics_noise_multiplier", given="nothing", allowed="a number")
    return (SampledGaussian(noise, 1.0, 1),)


def evaluating(study: Study, rounds: int) -> tuple[SampledGaussian, ...]:
    """What evaluation costs, everybody each time; nothing where it has no noise.

    Every round is monitored at most once, and after the last the final model is judged once on each
    part that judges it. All of it is added up, though nobody is in two parts: a hospital's budget
    is of its data set, and is held to the sum.

    Args:
        study: Says what is done.
        rounds: That were monitored; with all of them comes what follows the last.
    """
    if study.evaluation_noise is None:
        return ()
    judgings = len(study.judged_parts) if rounds >= study.training.rounds else 0
    return (SampledGaussian(study.evaluation_noise, 1.0, rounds + judgings),)


def refuse_large_delta(delta: float, *, declared: int) -> None:
    """Accept a delta by returning.

    The true number of patients is not asked for: a refusal is seen outside, and would tell whether
    one more patient is there.

    Args:
        delta: The study's.
        declared: Public number of training patients.

    Raises:
        DeltaTooLarge: delta is above 1 / declared.
    """
    if delta * declared > 1:
        raise DeltaTooLarge(
            f"delta {delta:g} is above 1 / {declared} declared patients = {1 / declared:.3g}: "
            "one patient's records could be given away altogether",
            todo=f"lower [privacy] delta below {1 / declared:.3g}",
        )


def epsilon_after(study: Study, rounds: int, declared: int | None = None) -> float | None:
    """Epsilon at a hospital that took part in this many rounds; None where it cannot be said.

    What it cost to measure scaling constants, before the first round, is in it, and evaluation
    where it has noise: of every round, and after the last of the final model.

    Args:
        study: Says what is done.
        rounds: At least 0.
        declared: Patients that the hospital declares; None where that is not known, and then
            nothing can be said of a study whose rate depends on it.
    """
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return None
    rate = privacy.sampling_rate if declared is None else privacy.rate_of(declared)
    if rate is None:
        return None
    event = SampledGaussian(
        noise_of(study, privacy, rate), rate, steps_of_round(study, rate) * rounds
    )
    beside = (*measuring(study), *evaluating(study, rounds))
    return epsilon_of([*beside, event], privacy.delta, privacy.accountant)
