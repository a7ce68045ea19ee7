"""Federated algorithms over real hospitals, against rounds that are computed by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from fedward.models.registry import FAMILIES
from fedward.server.events import Answered, Event, Outcome
from fedward.server.run_folder import write_model
from fedward.study.errors import StudyError
from fedward.study.study import parse_study
from tests.server.conftest import (
    SEED,
    Ward,
    averaged,
    descend,
    federate,
    network,
    opened,
    put,
    study_of,
    study_values,
    ward,
    weights,
)

RATE, STEPS, ROUNDS = 0.3, 3, 3
HEAD = 4 * 2 + 2  # weights of the network's last layer
Weights = NDArray[np.float64]


def terms(strategy: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return study_values(
        aggregation={"strategy": strategy, "weighting": "uniform", **more},
        training={"rounds": ROUNDS},
    )


def run(
    folder: Path, wards: Sequence[Ward], values: dict[str, Any], events: list[Event] | None = None
) -> Outcome:
    return federate(parse_study(values), opened(folder, wards, values), events=events)


def two() -> list[Ward]:
    return [ward(1, train=10), ward(2, train=35, moved=0.4)]


def slope(at: Weights, each: Ward) -> Weights:
    """Gradient of the mean loss over a ward's training records."""
    model = network(SEED)
    put(model, at)
    inputs, labels = each.part("train")
    functional.cross_entropy(model(inputs), labels).backward()
    return np.concatenate([p.grad.double().numpy().ravel() for p in model.parameters()])  # type: ignore[union-attr]


def descended(at: Weights, each: Ward, *, steps: int = STEPS, rate: float = RATE) -> Weights:
    for _ in range(steps):
        at = at - rate * slope(at, each)
    return at


def test_loss(models: Sequence[Weights], wards: Sequence[Ward]) -> float:
    """Mean loss over all test records, each judged by its own ward's model."""
    losses = []
    for at, each in zip(models, wards, strict=True):
        model = network(SEED)
        put(model, at)
        inputs, labels = each.part("test")
        losses.append(functional.cross_entropy(model(inputs), labels, reduction="none").detach())
    return float(torch.cat(losses).mean())


test_loss.__test__ = False  # type: ignore[attr-defined]


def personal_models(folder: Path) -> list[Weights]:
    """What each hospital keeps in the end, in their order."""
    files = sorted(folder.glob("*/state/runs/*/personal-model.safetensors"))
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    order = ["0.weight", "0.bias", "2.weight", "2.bias"]
    found = [load_file(file) for file in files]
    names = [sorted(each, key=lambda n: (n.split(".")[-2], "bias" in n)) for each in found]
    assert [len(each) for each in names] == [len(order)] * len(files)
    return [
        np.concatenate([each[name].double().numpy().ravel() for name in wanted])
        for each, wanted in zip(found, names, strict=True)
    ]


# --- SCAFFOLD -------------------------------------------------------------------------------------


def scaffold(wards: Sequence[Ward], present: Sequence[Sequence[int]], eta: float = 1.0) -> Weights:
    """Algorithm 1, option II, of Karimireddy et al., over those that are present in each round."""
    x = weights(network(SEED))
    c, own = np.zeros_like(x), [np.zeros_like(x) for _ in wards]
    for here in present:
        ways, changes = [], []
        for number in here:
            y = x
            for _ in range(STEPS):
                y = y - RATE * (slope(y, wards[number]) - own[number] + c)
            after = own[number] - c + (x - y) / (STEPS * RATE)
            ways.append(y - x)
            changes.append(after - own[number])
            own[number] = after
        x = x + eta * np.mean(ways, axis=0)
        c = c + len(here) / len(wards) * np.mean(changes, axis=0)
    return x


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_scaffold_is_its_paper_s_algorithm(tmp_path: Path, eta: float) -> None:
    wards = two()
    outcome = run(tmp_path, wards, terms("scaffold", server_learning_rate=eta))

    by_hand = scaffold(wards, [[0, 1]] * ROUNDS, eta)
    np.testing.assert_allclose(outcome.model, by_hand, atol=2e-6)
    assert np.abs(by_hand - averaged(wards, [1, 1], rounds=ROUNDS)).max() > 1e-3


def test_scaffold_s_hospitals_may_miss_rounds(tmp_path: Path) -> None:
    wards, events = [*two(), ward(3, train=20, moved=0.8)], list[Event]()
    values = terms("scaffold")
    values["participation"] = {"hospitals": 3, "invited": 2}
    values["training"]["rounds"] = 6
    outcome = run(tmp_path, wards, values, events)

    heard = [event for event in events if isinstance(event, Answered)]
    present = [sorted("ABC".index(e.hospital) for e in heard if e.round == n) for n in range(1, 7)]
    assert len({tuple(here) for here in present}) > 1
    np.testing.assert_allclose(outcome.model, scaffold(wards, present), atol=5e-6)


def test_scaffold_with_equal_data_is_fedavg(tmp_path: Path) -> None:
    wards = [ward(1, train=10)] * 2
    one = run(tmp_path / "one", wards, terms("scaffold"))
    other = run(tmp_path / "other", wards, terms("fedavg"))

    np.testing.assert_allclose(one.model, other.model, atol=1e-6)
    assert one.test["loss"] == pytest.approx(other.test["loss"], abs=1e-6)


# --- What travels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", [{"strategy": "fedbn"}, {"strategy": "fedper", "head_layers": 0}]
)
def test_where_all_travels_it_is_fedavg(tmp_path: Path, strategy: dict[str, Any]) -> None:
    """FedBN for a network without normalisation, FedPer with an empty head."""
    one = run(tmp_path / "one", two(), terms(**strategy))
    other = run(tmp_path / "other", two(), terms("fedavg"))

    assert one.model.tobytes() == other.model.tobytes()
    assert (one.test, one.curve) == (other.test, other.curve)


def test_the_head_stays_and_the_body_is_the_mean(tmp_path: Path) -> None:
    wards, values = two(), terms("fedper")
    outcome = run(tmp_path, wards, values)

    body = weights(network(SEED))[:-HEAD]
    heads = [weights(network(0))[-HEAD:]] * 2  # the same beginning at every hospital
    for _ in range(ROUNDS):
        after = [descended(np.r_[body, h], w) for h, w in zip(heads, wards, strict=True)]
        body, heads = np.mean(after, axis=0)[:-HEAD], [each[-HEAD:] for each in after]
    assert outcome.model.shape == body.shape
    np.testing.assert_allclose(outcome.model, body, atol=2e-6)
    own = [np.r_[body, head] for head in heads]
    np.testing.assert_allclose(personal_models(tmp_path), own, atol=2e-6)
    assert outcome.test["loss"] == pytest.approx(test_loss(own, wards), rel=1e-5)
    assert outcome.personal is None  # they are what `test` judges
    write_model(parse_study(values), outcome, tmp_path / "model.safetensors")
    kept = load_file(tmp_path / "model.safetensors")
    assert sum(entry.numel() for entry in kept.values()) == len(body)


def normed(settings: object, inputs: object, outputs: int) -> nn.Sequential:
    del settings, inputs
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, outputs))


def test_norms_stay_and_the_rest_is_the_weighted_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FedBN, with what each norm learns and with the statistics that it keeps."""
    monkeypatch.setitem(FAMILIES, "mlp", replace(FAMILIES["mlp"], build=normed))
    wards, shares = two(), (10 / 45, 35 / 45)
    outcome = run(tmp_path, wards, terms("fedbn", weighting="examples"))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        first = normed(None, None, 2)
    networks = [first, copy.deepcopy(first)]
    common = [name for name in first.state_dict() if not name.startswith("1.")]
    for _ in range(ROUNDS):
        for each, records in zip(networks, wards, strict=True):
            descend(each.train(), *records.part("train"), rate=RATE, steps=STEPS)
        states = [each.state_dict() for each in networks]
        apart = [np.concatenate([s[name].numpy().ravel() for name in common]) for s in states]
        mean = {n: sum(w * s[n] for w, s in zip(shares, states, strict=True)) for n in common}
        for each in networks:
            each.load_state_dict({**each.state_dict(), **mean})
    shared = np.concatenate([mean[name].numpy().ravel() for name in common])
    np.testing.assert_allclose(outcome.model, shared, atol=2e-6)
    assert np.abs(np.mean(apart, axis=0) - shared).max() > 1e-3  # the shares say something
    files = sorted(tmp_path.glob("*/state/runs/*/personal-model.safetensors"))
    kept = [load_file(file) for file in files]
    for found, each in zip(kept, networks, strict=True):
        whole = {n: e for n, e in each.state_dict().items() if e.is_floating_point()}
        assert found.keys() >= whole.keys()
        for name, entry in whole.items():
            torch.testing.assert_close(found[name], entry, atol=2e-6, rtol=1e-5)
    norms = [name for name in whole if name.startswith("1.")]
    assert norms == ["1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert all((kept[0][name] - kept[1][name]).abs().max() > 1e-3 for name in norms)
    losses = []
    for each, records in zip(networks, wards, strict=True):
        inputs, labels = records.part("test")
        losses.append(functional.cross_entropy(each.eval()(inputs), labels).item())
    assert outcome.test["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_network_that_is_all_head_is_refused(tmp_path: Path) -> None:
    values = terms("fedper", head_layers=2)
    with pytest.raises(StudyError, match="would stay at home"):
        run(tmp_path, two(), values)


# --- Personal models ------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.8])
def test_ditto_s_global_model_is_fedavg_s_and_the_personal_ones_are_the_paper_s(
    tmp_path: Path, strength: float
) -> None:
    wards = two()
    outcome = run(tmp_path / "one", wards, terms("ditto", proximal_lambda=strength))
    plain = run(tmp_path / "other", wards, terms("fedavg"))

    assert outcome.model.tobytes() == plain.model.tobytes()
    assert outcome.test == plain.test
    common = weights(network(SEED))
    own = [common, common]
    for number in range(ROUNDS):
        for place, each in enumerate(wards):
            for _ in range(STEPS):
                pull = strength * (own[place] - common)
                own[place] = own[place] - RATE * (slope(own[place], each) + pull)
        common = averaged(wards, [1, 1], rounds=number + 1)
    np.testing.assert_allclose(personal_models(tmp_path / "one"), own, atol=2e-6)
    assert outcome.personal is not None
    assert outcome.personal["loss"] == pytest.approx(test_loss(own, wards), rel=1e-5)
    assert outcome.personal["records"] == outcome.test["records"]


def test_fine_tuning_begins_from_the_final_model_and_stays_at_home(tmp_path: Path) -> None:
    wards, values = two(), terms("fedavg")
    values["training"]["fine_tuning"] = {"steps": 4, "learning_rate": 0.2}
    outcome = run(tmp_path / "one", wards, values)
    plain = run(tmp_path / "other", wards, terms("fedavg"))

    assert outcome.model.tobytes() == plain.model.tobytes()
    assert outcome.test == plain.test
    final = outcome.model.astype(np.float64)
    own = [descended(final, each, steps=4, rate=0.2) for each in wards]
    np.testing.assert_allclose(personal_models(tmp_path / "one"), own, atol=2e-6)
    assert outcome.personal is not None
    assert outcome.personal["loss"] == pytest.approx(test_loss(own, wards), rel=1e-5)


def test_a_study_without_personal_models_keeps_none(tmp_path: Path) -> None:
    values = study_values()
    outcome = federate(study_of(), opened(tmp_path, two(), values))

    assert outcome.personal is None
    assert not list(tmp_path.rglob("*.safetensors"))
