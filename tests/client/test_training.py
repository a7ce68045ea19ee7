"""Local training against plain PyTorch loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from fedward.client.algorithms.correction import ProximalPull, weights_of
from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.client.training import make_optimizer, train
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.privacy_errors import NotThePoissonSample, StepsMismatch, UntrainableLayer
from fedward.privacy.steps import Batch, LocalSteps, PlainSteps
from fedward.study.aggregation import FedProx
from fedward.study.errors import TrainingError
from fedward.study.study import Study
from tests.privacy.private_networks import private

StudyWith = Callable[[Mapping[str, object]], Study]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def records(count: int = 40, features: int = 3, *, each: int = 1) -> Records:
    """Records of patients with so many each."""
    source = seeded(7)
    inputs = torch.randn(count, features, generator=source)
    labels = (inputs[:, 0] + 0.3 * torch.randn(count, generator=source) > 0).long()
    return Records(inputs, labels, torch.arange(count) // each)


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def trained(
    study: Study,
    steps: LocalSteps | None = None,
    start: nn.Module | None = None,
    data: Records | None = None,
) -> nn.Module:
    model = copy.deepcopy(start) if start else build(study, seed=1)
    training = study.training
    whole = training.batch_size == "all"
    steps = steps or PlainSteps(
        None if whole else int(training.batch_size),
        training.local_epochs,
        training.local_steps,
        seeded(),
    )
    pull = None
    if isinstance(study.aggregation, FedProx):
        pull = ProximalPull(study.aggregation.proximal_mu, weights_of(model))
    train(model, data or records(), study, task_of(study), steps, correction=pull)
    return model


FULL = {"training.batch_size": "all", "training.local_epochs": 6, "training.learning_rate": 0.3}


def full_batch_loop(study: Study, optimizer_of: Callable[[nn.Module], Optimizer]) -> nn.Module:
    """Six steps on all records, written out in plain PyTorch."""
    model = build(study, seed=1)
    optimizer = optimizer_of(model)
    data = records()
    for _ in range(6):
        optimizer.zero_grad()
        functional.cross_entropy(model(data.inputs), data.whole_labels).backward()
        optimizer.step()
    return model


def test_a_full_batch_is_plain_sgd(study_with: StudyWith) -> None:
    study = study_with(FULL)

    expected = full_batch_loop(study, lambda model: SGD(model.parameters(), lr=0.3))

    found = trained(study)
    assert torch.allclose(parameters(found), parameters(expected), atol=1e-6)
    assert not torch.allclose(parameters(found), parameters(build(study, seed=1)), atol=1e-2)


def test_momentum_is_that_of_pytorch(study_with: StudyWith) -> None:
    study = study_with({**FULL, "training.momentum": 0.9})

    expected = full_batch_loop(study, lambda model: SGD(model.parameters(), lr=0.3, momentum=0.9))

    assert torch.allclose(parameters(trained(study)), parameters(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW), ("rmsprop", RMSprop)]
)
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_every_optimizer_is_pytorch_s_and_biases_do_not_decay(
    name: str, kind: Callable[..., Optimizer], decay: float, study_with: StudyWith
) -> None:
    study = study_with(
        {
            **FULL,
            "training.optimizer": name,
            "training.learning_rate": 0.05,
            "training.weight_decay": decay,
        }
    )

    def by_hand(model: nn.Module) -> Optimizer:
        weights = [p for p in model.parameters() if p.ndim > 1]
        biases = [p for p in model.parameters() if p.ndim == 1]
        return kind(
            [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}],
            lr=0.05,
        )

    found = trained(study)
    assert type(make_optimizer(found, study.training)) is kind
    expected = full_batch_loop(study, by_hand)
    assert torch.allclose(parameters(found), parameters(expected), atol=1e-6)


def test_decay_pulls_weights_and_not_biases_towards_zero(study_with: StudyWith) -> None:
    change = {**FULL, "training.learning_rate": 0.01, "training.optimizer": "adamw"}
    free = trained(study_with(change))
    pulled = trained(study_with({**change, "training.weight_decay": 5.0}))

    for before, after in zip(free.parameters(), pulled.parameters(), strict=True):
        if before.ndim > 1:
            assert after.norm() < before.norm()


def test_a_frozen_parameter_is_given_to_no_optimizer(study_with: StudyWith) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)

    optimizer = make_optimizer(model, study_with({}).training)

    given = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in given} == {id(p) for p in model[1].parameters()}


# --- FedProx --------------------------------------------------------------------------------------


def prox(mu: float) -> dict[str, object]:
    return {"aggregation": {"strategy": "fedprox", "proximal_mu": mu}}


def test_fedprox_with_mu_0_is_fedavg_bit_for_bit(study_with: StudyWith) -> None:
    change = {"training.batch_size": 7, "training.local_epochs": 3}

    one, other = trained(study_with(change)), trained(study_with({**change, **prox(0.0)}))

    assert torch.equal(parameters(one), parameters(other))


def test_fedprox_is_sgd_on_the_loss_and_the_pull_together(study_with: StudyWith) -> None:
    study = study_with({**FULL, **prox(0.7)})
    expected = build(study, seed=1)
    start = [p.detach().clone() for p in expected.parameters()]
    data = records()
    optimizer = SGD(expected.parameters(), lr=0.3)
    for _ in range(6):
        optimizer.zero_grad()
        pull = sum(
            ((p - before) ** 2).sum()
            for p, before in zip(expected.parameters(), start, strict=True)
        )
        (
            functional.cross_entropy(expected(data.inputs), data.whole_labels) + 0.35 * pull
        ).backward()
        optimizer.step()

    assert torch.allclose(parameters(trained(study)), parameters(expected), atol=1e-6)


def test_the_first_step_has_no_pull_and_the_second_has(study_with: StudyWith) -> None:
    for steps, same in ((1, True), (2, False)):
        change = {**FULL, "training.local_epochs": steps}
        free = parameters(trained(study_with(change)))
        pulled = parameters(trained(study_with({**change, **prox(0.7)})))
        assert torch.equal(free, pulled) == same


def test_a_stronger_pull_stays_nearer_to_the_start(study_with: StudyWith) -> None:
    start = parameters(build(study_with({}), seed=1))
    away = [
        (parameters(trained(study_with({**FULL, **prox(mu)}))) - start).norm().item()
        for mu in (0.0, 0.3, 1.0)
    ]

    assert away == sorted(away, reverse=True)
    assert away[2] < 0.9 * away[0]


def test_under_privacy_the_pull_is_added_after_clipping(study_with: StudyWith) -> None:
    """It depends on no record, so that neither the bound nor the divisor applies to it."""
    study = study_with({**prox(0.5), "training.learning_rate": 0.1, "privacy": PRIVATE})
    clean = {"noise_multiplier": 0.0, "sampling_rate": 1.0, "divisor": 40.0, "clipping_norm": 1e-9}
    one = trained(study, private(steps=2, **(clean | {"noise_multiplier": 1e9})))
    free = trained(
        study_with({"training.learning_rate": 0.1, "privacy": PRIVATE}),
        private(steps=1, **(clean | {"noise_multiplier": 1e9})),
    )
    start = parameters(build(study, seed=1))
    first = parameters(free) - start  # the noise of the first step, as a move
    second_free = trained(
        study_with({"training.learning_rate": 0.1, "privacy": PRIVATE}),
        private(steps=2, **(clean | {"noise_multiplier": 1e9})),
    )

    difference = parameters(one) - parameters(second_free)

    assert torch.allclose(difference, -0.1 * 0.5 * first, atol=1e-6)
    assert difference.norm() > 1e-4


PRIVATE = {"mode": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.5}


def test_private_training_without_noise_and_clipping_is_plain_sgd(study_with: StudyWith) -> None:
    study = study_with(FULL)
    steps = private(
        steps=6, noise_multiplier=0.0, clipping_norm=1e6, sampling_rate=1.0, divisor=40.0
    )

    expected = full_batch_loop(study, lambda model: SGD(model.parameters(), lr=0.3))

    assert torch.allclose(parameters(trained(study, steps)), parameters(expected), atol=1e-6)


def test_a_patient_with_many_records_weighs_as_much_as_one_with_few(study_with: StudyWith) -> None:
    """SGD on the mean over patients, who have 39 records and 1, of the mean over theirs."""
    study = study_with(FULL)
    data = records(40, each=39)
    expected = build(study, seed=1)
    optimizer = SGD(expected.parameters(), lr=0.3)
    for _ in range(6):
        optimizer.zero_grad()
        each = functional.cross_entropy(expected(data.inputs), data.whole_labels, reduction="none")
        (each[:39].mean() / 2 + each[39] / 2).backward()
        optimizer.step()

    found = trained(study, private(steps=6, divisor=2.0), data=data)

    assert torch.allclose(parameters(found), parameters(expected), atol=1e-6)


class Other(PatientSteps):
    """Steps whose sampler has a fault: one batch is left out, or comes once more at the end."""

    twice = False

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        drawn = super().batches(patients)
        if not self.twice:
            next(drawn)
        for batch in drawn:
            yield batch
        yield from [batch] * self.twice


@pytest.mark.parametrize(("twice", "taken"), [(False, 2), (True, 4)])
def test_other_steps_than_were_charged_are_no_training(
    twice: bool, taken: int, study_with: StudyWith
) -> None:
    steps = Other(**vars(private(steps=3)))
    steps.twice = twice

    with pytest.raises(StepsMismatch, match=f"{taken} steps were taken, and 3 are charged"):
        trained(study_with({"privacy": PRIVATE}), steps)


class Repeating(PatientSteps):
    """Steps that take their first batch a second time, in the place of another."""

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        first, *_ = super().batches(patients)
        while True:
            yield first


def test_a_batch_that_was_not_drawn_for_its_step_is_no_training(study_with: StudyWith) -> None:
    with pytest.raises(NotThePoissonSample, match="not those that were drawn last"):
        trained(
            study_with({"privacy": PRIVATE}), Repeating(**vars(private(steps=2, sampling_rate=0.5)))
        )


def test_a_layer_that_mixes_patients_is_not_trained_privately(study_with: StudyWith) -> None:
    mixing = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    with pytest.raises(UntrainableLayer, match="BatchNorm"):
        trained(study_with({"privacy": PRIVATE}), private(steps=3), mixing)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_optimizer_can_train_privately(name: str, study_with: StudyWith) -> None:
    study = study_with({"training.optimizer": name, "privacy": PRIVATE})
    steps = private(
        steps=4, noise_multiplier=1.0, clipping_norm=1.0, sampling_rate=0.3, divisor=12.0
    )

    found = parameters(trained(study, steps))

    assert found.isfinite().all()
    assert not torch.equal(found, parameters(build(study, seed=1)))


def test_training_learns(study_with: StudyWith) -> None:
    study = study_with({"training.local_epochs": 20, "training.batch_size": 8})
    task = task_of(study)
    before, after = (
        task.metrics(metric_sums(model, records(), task))
        for model in (build(study, seed=1), trained(study))
    )

    assert after["loss"] < before["loss"]
    assert after["auc"] > 0.9


# --- Evaluation -----------------------------------------------------------------------------------


def test_judging_in_pieces_is_judging_at_once(study_with: StudyWith) -> None:
    study = study_with({})
    task, model, data = task_of(study), build(study, seed=1), records(1300)

    found = metric_sums(model, data, task)

    with torch.no_grad():
        expected = task.sums(model(data.inputs), data.whole_labels)
    assert found[0] == 1300
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_records_give_zeros(study_with: StudyWith) -> None:
    study = study_with({})
    task = task_of(study)

    found = metric_sums(build(study, seed=1), records(0), task)

    assert found.shape == (task.size,)
    assert not found.any()


def test_judging_uses_no_dropout_and_leaves_no_gradient(study_with: StudyWith) -> None:
    study = study_with({})
    task = task_of(study)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9)).train()

    one, other = (metric_sums(model, records(), task) for _ in range(2))

    assert (one == other).all()
    assert all(p.grad is None for p in model.parameters())


def test_running_out_of_memory_is_a_training_error(study_with: StudyWith) -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2))

        def forward(self, inputs: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no more")

    with pytest.raises(TrainingError, match="out of memory on cpu"):
        trained(study_with({}), start=Greedy())


@pytest.mark.parametrize(
    ("server_round", "rate"), [(1, 0.4), (2, 0.341421356), (3, 0.2), (4, 0.058578644)]
)
def test_a_cosine_schedule_falls_along_half_a_cosine(
    server_round: int, rate: float, study_with: StudyWith
) -> None:
    study = study_with(
        {"training.rounds": 4, "training.learning_rate": 0.4, "training.schedule": "cosine"}
    )
    optimizer = make_optimizer(build(study, seed=1), study.training, server_round)

    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate] * 2)


def test_a_constant_schedule_stays(study_with: StudyWith) -> None:
    study = study_with({"training.rounds": 4, "training.learning_rate": 0.4})
    optimizer = make_optimizer(build(study, seed=1), study.training, 4)

    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.4]
