"""The cohort study on pfl-research's simulator, as its documentation writes it.

pfl 0.6.0 was made for older versions of PyTorch; nothing had to be adapted for 2.13.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from simulation_cohort import BATCH, RATE, judged, scaled, study
from torch import Tensor, nn
from torch.nn import functional

from fedward.models.registry import build


def rounds_of_pfl(
    data: str, users: int, cohort: int, rounds: int, threads: int | None
) -> dict[str, Any]:
    """Seconds of each round; all users' data is in memory before.

    Args:
        data: The pictures.
        users: How many have an equal share of them.
        cohort: Users in a round.
        rounds: How many.
        threads: Of PyTorch; None leaves its default.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network = _Network(build(study(users, cohort, rounds), seed=0))
    before = judged(network.layers, data)
    network.steps = 0
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    clock = _Clock()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            # Iteration 0 is always evaluated, on the cohort itself; it is not timed.
            evaluation_frequency=rounds + 1,
            train_cohort_size=cohort,
            val_cohort_size=0,
        ),
        _backend(data, users),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
        NNEvalHyperParams(local_batch_size=BATCH),
        callbacks=[clock],
    )
    return {
        "rounds": np.diff(clock.ends).tolist(),
        "steps": network.steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "loss": [before, judged(network.layers, data)],
        "threads": torch.get_num_threads(),
    }


class _Network(nn.Module):
    """Fedward's network with the two methods that pfl asks for."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.steps = 0

    def loss(self, inputs: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
        """Mean loss of a batch."""
        self.steps += not eval
        self.train(not eval)
        return functional.cross_entropy(self.layers(inputs), labels)

    @torch.no_grad()
    def metrics(self, inputs: Tensor, labels: Tensor, eval: bool = False) -> dict[str, Any]:
        """Sum of the loss over a batch."""
        self.train(not eval)
        loss = functional.cross_entropy(self.layers(inputs), labels, reduction="sum")
        return {"loss": Weighted(loss.item(), len(labels))}


class _Clock(TrainingProcessCallback[PyTorchModel]):
    """Notes when each central iteration ended."""

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.ends = [time.perf_counter()]
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        return False, Metrics()


def _backend(data: str, users: int) -> SimulatedBackend:
    with np.load(data) as archive:
        pictures, labels = archive["train_images"], archive["train_labels"]
    owned = np.random.default_rng(0).permutation(len(labels)).reshape(users, -1)
    own = {
        user: (scaled(pictures[rows]), torch.from_numpy(labels[rows]))
        for user, rows in enumerate(owned)
    }

    def dataset_of(user: int) -> Dataset:
        return Dataset(own[user], user_id=str(user), eval_kwargs={"eval": True})

    sampler = get_user_sampler("minimize_reuse", list(range(users)))
    everybody = FederatedDataset(dataset_of, sampler)
    return SimulatedBackend(training_data=everybody, val_data=everybody)
