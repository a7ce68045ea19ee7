"""What a hospital does with its own records in one exchange, for whichever algorithm asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fedward.client.algorithms.correction import Correction, NoCorrection
from fedward.client.data.augmentation import varied
from fedward.client.data.records import Records
from fedward.client.training import train
from fedward.models.tasks.any_task import Task
from fedward.privacy.precision import Precision
from fedward.privacy.steps import LocalSteps, PlainSteps
from fedward.study.errors import TrainingError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study
from fedward.study.training import FineTuning, Training


@dataclass(frozen=True)
class LocalWork:
    """The work of one exchange.

    Attributes:
        study: Says how to train.
        task: Gives the loss.
        records: To train on.
        server_round: Number of the exchange.
        steps: The round's, paid for where they are private; None where no round is trained.
        order: Gives the source of the records' order, for a purpose.
        seed_layers: Seeds layers with randomness of their own, for a purpose.
        precision: How finely the network computes.
    """

    study: Study
    task: Task
    records: Records
    server_round: int
    steps: LocalSteps | None
    order: Callable[[str], torch.Generator]
    seed_layers: Callable[[str], None]
    precision: Precision

    def train(self, model: nn.Module, correction: Correction) -> int:
        """Train in place for the round; how many steps it took."""
        if self.steps is None:
            raise TrainingError("this exchange trains no round", todo="report this")
        return self._train(model, self.study, self.steps, correction, "")

    def train_beside(self, model: nn.Module, correction: Correction) -> None:
        """Train another model in place for the round; never in a private study."""
        steps = self._plain(self.study.training, "personal order")
        self._train(model, self.study, steps, correction, "personal ")

    def fine_tune(self, model: nn.Module, plan: FineTuning) -> None:
        """Train in place after the last round; never in a private study."""
        training = self.study.training.model_copy(
            update={
                "local_epochs": None,
                "local_steps": plan.steps,
                "learning_rate": plan.learning_rate,
                "schedule": "constant",
            }
        )
        study = self.study.model_copy(update={"training": training})
        steps = self._plain(training, "fine-tuning order")
        self._train(model, study, steps, NoCorrection(), "fine-tuning ")

    def _plain(self, training: Training, purpose: str) -> LocalSteps:
        """Steps without noise, beside the round's: the study refuses them where it is private."""
        if isinstance(self.study.privacy, LocalPrivacy):
            raise TrainingError("a private study has no plain steps", todo="report this")
        return plain_steps(training, self.order(purpose), self.precision)

    def _train(
        self, model: nn.Module, study: Study, steps: LocalSteps, correction: Correction, whose: str
    ) -> int:
        shown = varied(self.records, study, self.order(f"{whose}augmentation"))
        with torch.random.fork_rng(devices=[]):
            self.seed_layers(f"{whose}layers")
            return train(
                model,
                shown,
                study,
                self.task,
                steps,
                server_round=self.server_round,
                correction=correction,
            )


def plain_steps(training: Training, order: torch.Generator, precision: Precision) -> PlainSteps:
    """The ordinary steps of a round.

    Args:
        training: Says how many, and of how many records.
        order: Source of the records' order.
        precision: How finely the network computes.
    """
    whole = training.batch_size == "all"
    return PlainSteps(
        batch_size=None if whole else int(training.batch_size),
        epochs=training.local_epochs,
        steps=training.local_steps,
        generator=order,
        precision=precision,
    )
