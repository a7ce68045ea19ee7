"""Which requests a hospital refuses without looking at a record."""

from __future__ import annotations

from fedward.client.hospital import HospitalFile
from fedward.privacy.privacy_errors import MetricWouldLeave
from fedward.study.errors import RefusedError, TrainingError
from fedward.study.messages import MeasureRequest, Part, Request, TrainRequest
from fedward.study.privacy import LocalPrivacy
from fedward.study.scaling import Scaling
from fedward.study.study import Study


def refuse_impossible(request: Request, study: Study, *, size: int, hospital: HospitalFile) -> None:
    """Accept a request by returning, before any work is begun for it.

    Args:
        request: What was asked.
        study: Whose run it is.
        size: Length of the study's model as a flat vector.
        hospital: That is asked.

    Raises:
        RefusedError: The study has no such exchange, or other scaling constants.
        MetricWouldLeave: A figure would leave that must not.
        TrainingError: The model is of another size.
    """
    if isinstance(request, MeasureRequest):
        if not study.data.summed or request.round:
            raise RefusedError(
                f"the study measures nothing in exchange {request.round}",
                todo="run the aggregator with the study as it was approved",
            )
        return
    part = request.monitor if isinstance(request, TrainRequest) else request.part
    _allow(study, part, hospital)
    _refuse_impossible_scaling(study, request.scaling)
    if len(request.model) != size:
        raise TrainingError(
            "the server's model does not fit the study: "
            f"it has {len(request.model)} values, not "
            f"{size}",
            todo="run the same version of fedward on both sides",
        )
    if isinstance(request, TrainRequest):
        if not 1 <= request.round <= study.training.rounds:
            raise RefusedError(
                f"round {request.round} is none of the study's {study.training.rounds}",
                todo="write a study with more rounds, and have it approved",
            )
    elif request.round != study.judging_round(request.part):
        raise RefusedError(
            f"the {request.part} part is judged once, in exchange "
            f"{study.judging_round(request.part)}, not in {request.round}",
            todo="run the same version of fedward on both sides",
        )


def _allow(study: Study, part: Part | None, hospital: HospitalFile) -> None:
    """With privacy on, nothing of the training records leaves but the noised update.

    Metrics of the other parts are read of one hospital alone by nobody, with noise or without.
    """
    if part is None or not isinstance(study.privacy, LocalPrivacy):
        return
    if part == "train":
        raise MetricWouldLeave(
            "a private study does not report metrics of its training records",
            todo="ask for validation or test",
        )
    if not study.aggregation.secure and hospital.simulation is None:
        raise MetricWouldLeave(
            "the sums of this private study are plain, and one hospital's metrics would leave "
            "in the clear",
            todo="write the study with secure = true, or ask for no metrics",
        )


def _refuse_impossible_scaling(study: Study, scaling: Scaling | None) -> None:
    """Constants come with every model of a study that measures them, and with no other."""
    fault = ""
    if scaling is not None:
        fault = scaling.fault(study.data) if study.data.measured else "it measures none"
    elif study.data.measured:
        fault = "they are missing"
    if fault:
        raise RefusedError(
            f"the study's scaling constants cannot be used: {fault}",
            todo="run the aggregator with the study as it was approved",
        )
