"""The server's steps with the generator: against the discriminator only, the same after a kill."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedward.models import flat
from fedward.models.gan import Gan
from fedward.models.registry import build, settled
from fedward.privacy.contribution import Total
from fedward.server.checkpoint import Checkpoint, Checkpoints
from fedward.server.generator_optimizer import GeneratorOptimizer
from fedward.server.optimizers import optimizer_of
from fedward.study.messages import Vector
from fedward.study.study import Study, parse_study

STEPS, RATE = 3, 0.01


def study_of(strategy: str = "fedavg", **model: Any) -> Study:  # noqa: ANN401
    small = {"channels": [4], "code": 3, "generator_steps": STEPS, "generator_batch": 8}
    return settled(
        parse_study(
            {
                "study": {"name": "tiny"},
                "task": {"kind": "generation"},
                "model": {"name": "gan", "generator_learning_rate": RATE, **small, **model},
                "data": {"kind": "images", "shape": [1, 6, 5], "label": []},
                "training": {"rounds": 4, "local_steps": 1, "learning_rate": 0.1},
                "aggregation": {"strategy": strategy},
                "participation": {"hospitals": 3},
            }
        )
    )


def first(study: Study) -> Vector:
    return flat.flatten(build(study, seed=2))


def update(size: int, number: int) -> Total:
    drawn = np.random.default_rng(number).normal(scale=0.01, size=size)
    return Total(update=drawn, weight=10.0, metrics=np.zeros(1))


def run(optimizer: GeneratorOptimizer, model: Vector, rounds: range) -> Iterator[Vector]:
    for number in rounds:
        model = optimizer.step(number, model, [update(len(model), number)])
        yield model


def parts(study: Study, model: Vector) -> Gan:
    network = build(study, seed=0)
    assert isinstance(network, Gan)
    flat.load(network, model)
    return network


def test_another_task_has_the_plain_optimizer() -> None:
    values = study_of().model_dump(mode="json", exclude_none=True)
    values["task"], values["model"] = {"kind": "reconstruction"}, {"name": "vae"}

    assert type(optimizer_of(parse_study(values), seed=0)) is not GeneratorOptimizer
    assert type(optimizer_of(study_of(), seed=0)) is GeneratorOptimizer


def test_hospitals_move_the_discriminator_and_nothing_else() -> None:
    """What they say of the generator's weights, though it is not 0 here, counts for nothing."""
    study = study_of()
    start = first(study)
    told = update(len(start), 1)
    discriminator = parts(study, (start + told.update).astype(np.float32)).discriminator
    size = sum(p.numel() for p in discriminator.parameters())
    silent = Total(np.r_[told.update[:size], np.zeros(len(start) - size)], 10.0, np.zeros(1))

    after = GeneratorOptimizer(study, seed=0).step(1, start, [told])

    for mine, theirs in zip(
        parts(study, after).discriminator.parameters(), discriminator.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    quiet = GeneratorOptimizer(study, seed=0).step(1, start, [silent])
    np.testing.assert_array_equal(after, quiet)


def test_the_generator_takes_adam_s_steps_against_the_new_discriminator() -> None:
    """Written anew: softplus(-D(G(z))), Adam with 0.5 and 0.999 over two rounds."""
    study = study_of(average=0.0)
    model = start = first(study)
    network = parts(study, start)
    network.generator.requires_grad_(requires_grad=True)
    weights = list(network.generator.parameters())
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in weights]
    optimizer, taken = GeneratorOptimizer(study, seed=7), 0
    for number in (1, 2):
        given = model
        model = optimizer.step(number, given, [update(len(given), number)])
        new = parts(study, (given + update(len(given), number).update).astype(np.float32))
        network.discriminator.load_state_dict(new.discriminator.state_dict())
        source = np.random.SeedSequence([7, number])
        torch.manual_seed(int(source.generate_state(1, np.uint64)[0] >> 1))
        for _ in range(STEPS):
            codes = torch.randn(8, 3)
            torch.randint(1, (8,))
            logits: Tensor = network.discriminator(network.generator(codes, torch.zeros(8).long()))
            gradients = torch.autograd.grad(functional.softplus(-logits).mean(), weights)
            taken += 1
            for weight, gradient, both in zip(weights, gradients, moments, strict=True):
                both[0] = 0.5 * both[0] + 0.5 * gradient
                both[1] = 0.999 * both[1] + 0.001 * gradient.square()
                mean, square = both[0] / (1 - 0.5**taken), both[1] / (1 - 0.999**taken)
                weight.data -= RATE * mean / (square.sqrt() + 1e-8)

    found = parts(study, model)
    for mine, theirs in zip(found.generator.parameters(), weights, strict=True):
        torch.testing.assert_close(mine.detach(), theirs.detach(), atol=1e-5, rtol=1e-4)
    for mean, now in zip(
        found.mean_generator.parameters(), found.generator.parameters(), strict=True
    ):
        assert torch.equal(mean, now)  # average = 0


def test_the_mean_generator_is_a_mean_over_rounds() -> None:
    study = study_of(average=0.5)
    models = list(run(GeneratorOptimizer(study, seed=0), first(study), range(1, 4)))

    now = [parts(study, model).generator.begin.weight for model in models]
    second = (now[0] + now[1]) / 2
    third = (second + now[2]) / 2
    torch.testing.assert_close(parts(study, models[2]).mean_generator.begin.weight, third)


def test_the_same_seed_gives_the_same_generator_whatever_was_drawn_before() -> None:
    study = study_of()
    torch.manual_seed(1)
    one = list(run(GeneratorOptimizer(study, seed=3), first(study), range(1, 3)))[-1]
    torch.manual_seed(2)
    drawn = torch.random.get_rng_state()
    two = list(run(GeneratorOptimizer(study, seed=3), first(study), range(1, 3)))[-1]
    other = list(run(GeneratorOptimizer(study, seed=4), first(study), range(1, 3)))[-1]

    np.testing.assert_array_equal(one, two)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_a_run_that_is_taken_up_goes_on_as_if_it_had_not_stopped(
    strategy: str, tmp_path: Path
) -> None:
    study = study_of(strategy)
    whole = list(run(GeneratorOptimizer(study, seed=0), first(study), range(1, 5)))
    optimizer, checkpoints = GeneratorOptimizer(study, seed=0), Checkpoints(tmp_path)
    model = list(run(optimizer, first(study), range(1, 3)))[-1]
    checkpoints.save(Checkpoint("digest", "run", 0, 2, model, optimizer=optimizer.state()))

    latest = checkpoints.latest()
    assert latest is not None
    again = GeneratorOptimizer(study, seed=0)
    again.restore(latest.optimizer)
    np.testing.assert_array_equal(list(run(again, latest.model, range(3, 5)))[-1], whole[-1])

    forgetful = GeneratorOptimizer(study, seed=0)
    forgetful.restore({})
    lost = list(run(forgetful, copy.copy(latest.model), range(3, 5)))[-1]
    assert np.abs(lost - whole[-1]).max() > 1e-5


def test_a_state_before_the_first_round_is_one_too() -> None:
    study = study_of()
    optimizer = GeneratorOptimizer(study, seed=0)
    assert optimizer.state() == {}
    again = GeneratorOptimizer(study, seed=0)
    again.restore({})

    (one,), (two,) = (list(run(each, first(study), range(1, 2))) for each in (optimizer, again))
    np.testing.assert_array_equal(one, two)
