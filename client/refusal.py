"""What a hospital says outside of an error: one about data may quote a patient's record."""

from __future__ import annotations

from fedward.client.hospital import HospitalFile
from fedward.privacy.protocol_errors import ProtocolError
from fedward.study.errors import (
    BudgetError,
    FederationError,
    FedwardError,
    RefusedError,
    TrainingError,
)
from fedward.study.messages import Refusal

_NOT_THE_PROTOCOL = "the secure sum's protocol was not kept to"


def refusal_of(error: Exception, hospital: HospitalFile) -> Refusal:
    """What the aggregator is told; a pretended hospital tells all.

    Args:
        error: Why it will not or cannot answer.
        hospital: Whose answer it is.
    """
    name, kind = hospital.name, type(error).__name__
    pretended = hospital.simulation is not None
    if isinstance(error, ProtocolError | FederationError):  # who probes learns nothing
        return Refusal(name, ProtocolError.__name__, _NOT_THE_PROTOCOL, "see its own log")
    if isinstance(error, BudgetError) and not pretended:  # what is spent is nobody's business
        return Refusal(name, kind, "its privacy budget does not allow this", "ask it")
    if isinstance(error, RefusedError | TrainingError):
        return Refusal(name, kind, error.what, error.todo)
    if not pretended:
        return Refusal(name, kind, "could not finish", "see that hospital's own log")
    if isinstance(error, FedwardError):
        return Refusal(name, kind, error.line(), "")
    return Refusal(name, kind, f"{kind}: {error}", "run again with fedward --debug")
