"""One hospital's side of federated algorithms: what it keeps, and what it goes on from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedward.client.algorithms.correction import Correction
from fedward.client.algorithms.own_parts import OwnParts
from fedward.client.own_state import OwnState
from fedward.models import flat
from fedward.models.travelling import head, normalisation
from fedward.study.errors import DataError
from fedward.study.messages import EvaluateRequest, TrainRequest, Vector
from fedward.study.study import Study
from fedward.study.training import FineTuning
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    House,
    StudyWith,
    judging,
    refusal_from,
    start_of,
    training,
    vector_from,
)

SCAFFOLD: dict[str, Any] = {
    "aggregation": {"strategy": "scaffold", "secure": False},
    "training.rounds": 5,
}


@pytest.fixture
def study(plain_study: StudyWith, house: House) -> Study:
    """An approved study with SCAFFOLD."""
    found = plain_study(SCAFFOLD)
    house.approve(found)
    return found


def both(study: Study, c: float = 0.0) -> Vector:
    """A model and a control variate."""
    start = start_of(study)
    return np.concatenate([start, np.full_like(start, c)])


def asked(study: Study, number: int, counted: int = 0, c: float = 0.01) -> TrainRequest:
    known = {"north": counted} if counted else {}
    return training(study, number, model=both(study, c), counted=known)


def test_a_round_that_did_not_count_is_as_if_it_had_not_been(study: Study, house: House) -> None:
    """Whatever was lost on the way: c stays the mean of all c_i."""
    site = house.site(**SEED)
    vector_from(site, asked(study, 1))
    vector_from(site, asked(study, 2, counted=1))
    after_loss = vector_from(site, asked(study, 3, counted=1))
    again = vector_from(site, asked(study, 3, counted=1))

    never = House(house.folder.parent / "other")
    never.approve(study)
    without = never.site(**SEED)
    vector_from(without, asked(study, 1))
    assert after_loss.tobytes() == vector_from(without, asked(study, 3, counted=1)).tobytes()
    assert after_loss.tobytes() == again.tobytes()


def test_what_counted_is_gone_on_from(study: Study, house: House) -> None:
    site = house.site(**SEED)
    vector_from(site, asked(study, 1))
    vector_from(site, asked(study, 2, counted=1))
    forgot = vector_from(site, asked(study, 3, counted=1))
    vector_from(site, asked(study, 2, counted=1))
    assert forgot.tobytes() != vector_from(site, asked(study, 3, counted=2)).tobytes()


def test_another_process_goes_on_alike(study: Study, house: House) -> None:
    site = house.site(**SEED)
    vector_from(site, asked(study, 1))
    warm = vector_from(site, asked(study, 2, counted=1))

    assert warm.tobytes() == vector_from(house.site(**SEED), asked(study, 2, counted=1)).tobytes()


def test_a_control_variate_that_is_gone_is_no_zero(study: Study, house: House) -> None:
    site = house.site(**SEED)
    vector_from(site, asked(study, 1))
    for file in house.folder.rglob("own-*"):
        file.unlink()

    refusal = refusal_from(site, asked(study, 2, counted=1))
    assert "control variate of round 1 is gone" in refusal.what


def test_scaffold_s_model_has_two_vectors_and_what_is_judged_has_one(
    study: Study, house: House
) -> None:
    site = house.site(**SEED)
    assert "does not fit" in refusal_from(site, training(study)).what
    assert "does not fit" in refusal_from(site, judging(study, model=both(study))).what
    vector_from(site, judging(study))


def test_what_is_kept_of_a_clipped_change_is_what_left(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({**SCAFFOLD, "aggregation": {**SCAFFOLD["aggregation"], "clip": 1e-3}})
    house.approve(study)
    sent = vector_from(house.site(**SEED), asked(study, 1, c=0.0))

    size = len(start_of(study))
    kept = OwnState(next(house.folder.glob("state/runs/*")), "own", durable=False).of(1)
    assert kept is not None
    assert np.linalg.norm(sent[: 2 * size]) == pytest.approx(1e-3, rel=1e-4)
    np.testing.assert_array_equal(kept["control"], sent[size : 2 * size])


def test_with_privacy_scaffold_costs_what_fedavg_costs(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({**SCAFFOLD, "privacy": PRIVATE})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)
    vector_from(site, asked(study, 1))
    charges = [entry.charge for entry in site.ledger.entries()]

    plain = plain_study({"privacy": PRIVATE, "training.rounds": 5})
    other = House(house.folder.parent / "other")
    other.approve(plain)
    beside = other.site(**SEED, **DECLARED)
    vector_from(beside, training(plain))
    assert [c.steps for c in charges] == [e.charge.steps for e in beside.ledger.entries()]


# --- What stays -----------------------------------------------------------------------------------


class Steps:
    """Work that takes one gradient step on known records."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self._inputs = inputs

    def train(self, model: nn.Module, correction: Correction) -> int:
        del correction
        model.train()
        loss = model(self._inputs).square().mean()
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter.sub_(slope, alpha=0.1)
        return 1

    def train_beside(self, model: nn.Module, correction: Correction) -> None:
        raise NotImplementedError

    def fine_tune(self, model: nn.Module, plan: FineTuning) -> None:
        raise NotImplementedError


def normed(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def ask(number: int, model: Vector) -> TrainRequest:
    return TrainRequest("study", "run", number, model)


def test_fedbn_keeps_norms_and_their_statistics_and_sends_the_rest(house: House) -> None:
    """Two rounds, the second after one that was missed, against the same steps without Fedward."""
    layers = [nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm1d(4), nn.BatchNorm2d(4)]
    assert len(normalisation(nn.Sequential(*layers, nn.Linear(1, 1)))) == len(layers)
    model, by_hand = normed(1), normed(1)
    norm = {name for name in flat.names(model) if name.startswith("1.")}
    assert norm == {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    rest = [name for name in flat.names(model) if name not in norm]
    own = OwnState(house.folder / "run", "own", durable=False)
    hospital = OwnParts(own, rest, flat.flatten(model, norm))
    work = Steps(torch.randn(8, 3, generator=torch.Generator().manual_seed(3)) + 1)

    for number in (1, 4):
        received = flat.flatten(normed(10 + number), rest)
        flat.load(by_hand, received, rest)  # its norms go on from the round before
        work.train(by_hand, NoChange())
        flat.load(model, flat.flatten(normed(99)))  # another study's weights were there meanwhile
        hospital.receive(model, ask(number, received))
        update = hospital.train(model, ask(number, received), work)
        assert update.tobytes() == (flat.flatten(by_hand, rest) - received).tobytes()

    judged = EvaluateRequest("study", "run", 7, received, "test")
    hospital.receive(model, judged)
    assert flat.flatten(model, norm).tobytes() == flat.flatten(by_hand, norm).tobytes()


class NoChange:
    def correct(self, model: nn.Module) -> None:
        del model


def test_a_round_asked_again_begins_from_the_same_parts(house: House) -> None:
    own = OwnState(house.folder / "run", "own", durable=False)
    model = normed(1)
    names = flat.names(model)
    hospital = OwnParts(own, names[:2], flat.flatten(model, names[2:]))
    work = Steps(torch.randn(4, 3, generator=torch.Generator().manual_seed(3)))
    received = flat.flatten(normed(2), names[:2])
    found = []
    for number in (1, 2, 2, 2):
        hospital.receive(model, ask(number, received))
        found.append(hospital.train(model, ask(number, received), work).tobytes())

    assert found[1] == found[2] == found[3] != found[0]


def test_the_head_is_what_comes_last() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))

    assert head(model, 0) == frozenset()
    assert head(model, 1) == {"2.0"}
    assert head(model, 9) == {"0", "2.0"}


# --- State ----------------------------------------------------------------------------------------


def test_state_is_its_owner_s_and_two_rounds_at_most(house: House) -> None:
    own = OwnState(house.folder / "runs" / "run", "own", durable=False)
    assert own.before(9) is None
    for number in (1, 2, 5):
        base = own.before(number)
        own.write(number, {"a": np.full(3, number)}, base=0 if base is None else base.round)

    files = sorted((house.folder / "runs" / "run").iterdir())
    assert [file.name for file in files] == ["own-000002.safetensors", "own-000005.safetensors"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in (*files, files[0].parent))
    latest, earlier = own.before(9), own.before(5)
    assert latest is not None
    assert earlier is not None
    assert (latest.round, latest.arrays["a"].tolist(), earlier.round) == (5, [5] * 3, 2)


def test_state_that_is_no_state_is_an_error(house: House) -> None:
    own = OwnState(house.folder / "run", "own", durable=False)
    own.write(1, {"a": np.ones(3)}, base=0)
    (house.folder / "run" / "own-000001.safetensors").write_bytes(b"torn")

    with pytest.raises(DataError, match="own state cannot be read"):
        own.before(2)
