"""Local training: from the round's model to this hospital's model, on its own records."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from fedward.client.algorithms.correction import Correction, NoCorrection
from fedward.client.data.records import Records
from fedward.models.tasks.any_task import Task
from fedward.privacy.steps import LocalSteps
from fedward.study.errors import TrainingError
from fedward.study.study import Study
from fedward.study.training import Training


def train(
    model: nn.Module,
    records: Records,
    study: Study,
    task: Task,
    steps: LocalSteps,
    *,
    server_round: int = 1,
    correction: Correction | None = None,
) -> int:
    """Train a model in place for one round.

    Args:
        model: The round's model, on the device of the records.
        records: The hospital's training records.
        study: Says how to train.
        task: Gives the loss.
        steps: Makes each step's gradient, plainly or privately.
        server_round: From 1; the learning rate may depend on it.
        correction: What the study's algorithm adds to each gradient; nothing if None.

    Returns:
        How many steps it took.

    Raises:
        TrainingError: A step failed.
        PrivacyError: The guarantee of private steps would not hold.
    """
    optimizer = make_optimizer(model, study.training, server_round)
    correction, taken = correction or NoCorrection(), 0
    model.train()
    steps.prepare(model, optimizer)
    try:
        for batch in steps.batches(records.patients):
            inputs, labels = records.batch(batch.records)
            labels = task.truth(inputs, labels)
            steps.gradient(task.loss, inputs, labels, batch.patients)
            correction.correct(model)
            optimizer.step()
            taken += 1
        steps.finish()
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"out of memory on {records.device}",
            todo='lower [training] batch_size, or set device = "cpu" in hospital.toml',
        ) from error
    return taken


def make_optimizer(model: nn.Module, training: Training, server_round: int = 1) -> Optimizer:
    """The optimizer that a study names, over the model's trainable parameters.

    Weight decay pulls on matrices and kernels only, not on biases and norm layers.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trainable: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    rate, decay = training.learning_rate_of(server_round), training.weight_decay
    match training.optimizer:
        case "sgd":
            return SGD(trainable, lr=rate, momentum=training.momentum, weight_decay=decay)
        case "adam":
            return Adam(trainable, lr=rate, weight_decay=decay)
        case "adamw":
            return AdamW(trainable, lr=rate, weight_decay=decay)
        case "rmsprop":
            return RMSprop(trainable, lr=rate, weight_decay=decay)
