"""Which algorithm a study names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedward.client.algorithms.any_algorithm import Algorithm
from fedward.client.algorithms.ditto import Ditto
from fedward.client.algorithms.fedprox import FedProx
from fedward.client.algorithms.fine_tuned import FineTuned
from fedward.client.algorithms.own_parts import OwnParts
from fedward.client.algorithms.scaffold import Scaffold
from fedward.client.own_state import OwnState
from fedward.study import aggregation as terms
from fedward.study.messages import Vector
from fedward.study.study import Study


def algorithm_of(
    study: Study,
    *,
    hospital: str,
    folder: Path,
    durable: bool,
    travelling: Sequence[str],
    fresh: Vector,
) -> Algorithm:
    """The hospital's side of the study's algorithm.

    Args:
        study: Names it.
        hospital: This hospital's name.
        folder: The run's own, in the hospital's folder of state.
        durable: What is kept outlives a power cut; a simulation need not wait for the disk.
        travelling: Names of the model's entries that travel.
        fresh: The others, as the study's network is built with them.
    """
    own = OwnState(folder, "own", durable=durable)
    found = Algorithm()
    match study.aggregation:
        case terms.FedProx(proximal_mu=mu):
            found = FedProx(mu)
        case terms.Scaffold():
            found = Scaffold(own, hospital, study.training.learning_rate_of)
        case terms.FedBN() | terms.FedPer():
            found = OwnParts(own, travelling, fresh)
        case terms.Ditto(proximal_lambda=strength):
            found = Ditto(own, strength)
    plan = study.training.fine_tuning
    if plan is None:
        return found
    return FineTuned(found, OwnState(folder, "tuned", durable=durable), plan)
