"""Which optimizer a study asks the aggregator for."""

from __future__ import annotations

from fedward.server.generator_optimizer import GeneratorOptimizer
from fedward.server.optimizer import ServerOptimizer
from fedward.server.scaffold import ScaffoldOptimizer
from fedward.study.aggregation import Scaffold
from fedward.study.study import Study
from fedward.study.task import GenerationTask


def optimizer_of(study: Study, *, seed: int) -> ServerOptimizer:
    """What makes the next model of a round's updates.

    Args:
        study: Settled.
        seed: The run's.
    """
    terms = study.aggregation
    if isinstance(study.task, GenerationTask):
        return GeneratorOptimizer(study, seed=seed)
    if isinstance(terms, Scaffold):
        return ScaffoldOptimizer(terms, study.participation.hospitals)
    return ServerOptimizer(terms)
