"""Why private training does not go on. Each says one thing that would break the guarantee.

RefusedError
└── PrivacyError              the guarantee would not hold
    ├── UntrainableLayer      a layer mixes patients, or has no gradient for each
    ├── NoGradient            a trainable parameter has no gradient for each patient
    ├── NotPerRecord          what is kept apart in a layer are not records
    ├── HalfPrecision         patients' gradients would be bounded with too few bits
    ├── BufferWouldLeave      the model carries sums over records that are no parameters
    ├── NotThePoissonSample   other records are in a step than were drawn for it
    ├── StepsMismatch         other steps were taken than were charged
    ├── MetricWouldLeave      a figure of the training records was asked for, or any in the clear
    ├── DeltaTooLarge         delta allows a patient to be given away altogether
    ├── Undeclared            a public number of patients is missing
    ├── PatientsUnnamed       the hospital does not say whose its records are
    ├── PopulationChanged     the training patients are not those that the run began with
    ├── PlanChanged           noise, sampling rate or steps are not those that the run began with
    ├── AnotherModel          a round that was answered is asked for again, with another question
    └── RoundIsOver           a round is asked for after a later one
"""

from __future__ import annotations

from fedward.study.errors import RefusedError


class PrivacyError(RefusedError):
    """The guarantee would not hold: nothing is trained, and nothing leaves."""


class UntrainableLayer(PrivacyError):  # noqa: N818 - reads as the fact that it states
    """A layer mixes patients (batch normalisation), or keeps no gradient for each of them."""


class NoGradient(PrivacyError):  # noqa: N818
    """A trainable parameter has no gradient for each patient, and would be unprotected."""


class NotPerRecord(PrivacyError):  # noqa: N818
    """What is kept apart in a layer are not records, so that patients would not be clipped."""


class HalfPrecision(PrivacyError):  # noqa: N818
    """Patients' gradients would be bounded with too few bits."""


class BufferWouldLeave(PrivacyError):  # noqa: N818
    """The model carries numbers that are no parameters, and that training changes without noise."""


class NotThePoissonSample(PrivacyError):  # noqa: N818
    """Other records are in a step than were drawn for it, and the charge is for those."""


class StepsMismatch(PrivacyError):  # noqa: N818
    """Other steps were taken than the ledger was charged for."""


class MetricWouldLeave(PrivacyError):  # noqa: N818
    """No figure of the training records leaves, and no other one in the clear."""


class DeltaTooLarge(PrivacyError):  # noqa: N818
    """With delta above 1 / patients, giving one patient's records away would still be allowed."""


class Undeclared(PrivacyError):  # noqa: N818
    """The hospital declares no public number of patients, which takes the place of its count."""


class PatientsUnnamed(PrivacyError):  # noqa: N818
    """The hospital does not say whose its records are: nobody knows whom the noise protects."""


class PopulationChanged(PrivacyError):  # noqa: N818
    """The training patients are not those that the run began with."""


class PlanChanged(PrivacyError):  # noqa: N818
    """Noise, sampling rate or steps are not those that the run began with."""


class AnotherModel(PrivacyError):  # noqa: N818
    """A round that was answered is asked for again, about another model or with another monitor."""


class RoundIsOver(PrivacyError):  # noqa: N818
    """A round is asked for after a later one: its answer is not kept, and would cost again."""
