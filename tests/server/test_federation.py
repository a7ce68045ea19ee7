"""The round loop over real hospitals, against plain PyTorch that knows nothing of Fedward."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from flwr.app import Message
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from fedward.server.app import make_app
from fedward.server.durable import write_json
from fedward.server.events import Answered, Event, Outcome, RoundFinished, RoundStarted
from fedward.server.federation import Federation
from fedward.server.run_folder import COLUMNS, write_model, write_rounds
from fedward.simulation.grid import InProcessGrid
from fedward.study.errors import FedwardError, OptionError
from fedward.study.messages import Refusal
from fedward.study.study import Study, parse_study
from tests.server.conftest import (
    SEED,
    Ward,
    averaged,
    context,
    descend,
    federate,
    finished_rounds,
    network,
    opened,
    put,
    study_of,
    study_values,
    ward,
    weights,
)


class Judged(NamedTuple):
    """What a network says about records, computed here."""

    loss: float
    auc: float
    positive: NDArray[np.float64]
    labels: NDArray[np.int64]

    def accuracy(self, threshold: float = 0.5) -> float:
        return float(np.mean((self.positive >= threshold) == (self.labels == 1)))


@torch.no_grad()
def judge(model: nn.Module, wards: Sequence[Ward], part: str) -> Judged:
    inputs = torch.cat([each.part(part)[0] for each in wards])
    labels = torch.cat([each.part(part)[1] for each in wards])
    outputs: Tensor = model(inputs)
    positive = outputs.softmax(dim=1)[:, 1].double().numpy()
    return Judged(
        float(functional.cross_entropy(outputs, labels)),
        float(roc_auc_score(labels.numpy(), positive)),
        positive,
        labels.numpy(),
    )


def test_fedavg_weighs_hospitals_by_their_records(tmp_path: Path) -> None:
    wards = [ward(1, train=10), ward(2, train=35)]
    outcome = federate(study_of(), opened(tmp_path, wards, study_values()))

    np.testing.assert_allclose(outcome.model, averaged(wards, [10, 35], rounds=2), atol=1e-6)
    assert np.abs(outcome.model - averaged(wards, [1, 1], rounds=2)).max() > 1e-3


def test_uniform_weighting_gives_every_hospital_one_voice(tmp_path: Path) -> None:
    values = study_values(aggregation={"strategy": "fedavg", "weighting": "uniform"})
    wards = [ward(1, train=10), ward(2, train=35)]
    outcome = federate(parse_study(values), opened(tmp_path, wards, values))

    np.testing.assert_allclose(outcome.model, averaged(wards, [1, 1], rounds=2), atol=1e-6)


def test_one_hospital_with_all_records_a_step_is_centralised_descent(tmp_path: Path) -> None:
    values = study_values(training={"rounds": 6, "local_epochs": 3}, participation={"hospitals": 1})
    only = ward(5, train=40)
    outcome = federate(parse_study(values), opened(tmp_path, [only], values))

    model = network(SEED)
    descend(model, *only.part("train"), rate=0.3, steps=6 * 3)
    np.testing.assert_allclose(outcome.model, weights(model), atol=1e-6)


@pytest.mark.parametrize(("train", "tolerance"), [((1, 1), 0.0), ((10, 35), 1e-6)])
def test_fedprox_without_a_pull_is_fedavg(
    tmp_path: Path, train: tuple[int, int], tolerance: float
) -> None:
    """Bit for bit where the order of the records, which the digest seeds, cannot matter."""
    wards = [ward(n, train=count) for n, count in enumerate(train, start=1)]
    prox = study_values(aggregation={"strategy": "fedprox", "proximal_mu": 0.0})
    with_prox = federate(parse_study(prox), opened(tmp_path / "prox", wards, prox))
    plain = federate(study_of(), opened(tmp_path / "plain", wards, study_values()))

    np.testing.assert_allclose(with_prox.model, plain.model, rtol=0, atol=tolerance)


def test_fedprox_pulls_towards_the_model_of_the_round(tmp_path: Path) -> None:
    values = study_values(aggregation={"strategy": "fedprox", "proximal_mu": 0.8})
    wards = [ward(1, train=10), ward(2, train=35)]
    outcome = federate(parse_study(values), opened(tmp_path, wards, values))

    by_hand = averaged(wards, [10, 35], rounds=2, mu=0.8)
    np.testing.assert_allclose(outcome.model, by_hand, atol=1e-6)
    assert np.abs(by_hand - averaged(wards, [10, 35], rounds=2)).max() > 1e-3


def test_a_server_optimizer_is_given_the_mean_of_the_round(tmp_path: Path) -> None:
    values = study_values(
        aggregation={"strategy": "fedavgm", "server_learning_rate": 0.5, "server_momentum": 0.0},
        training={"rounds": 1},
    )
    wards = [ward(1, train=10), ward(2, train=35)]
    outcome = federate(parse_study(values), opened(tmp_path, wards, values))

    start = weights(network(SEED))
    halfway = start + 0.5 * (averaged(wards, [10, 35], rounds=1) - start)
    np.testing.assert_allclose(outcome.model, halfway, atol=1e-6)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    values = study_values(training={"batch_size": 4})
    files = opened(tmp_path, [ward(1, train=10), ward(2, train=20)], values)
    first, again, other = (federate(parse_study(values), files, seed=s) for s in (1, 1, 2))

    np.testing.assert_array_equal(first.model, again.model)
    assert (first.test, first.curve) == (again.test, again.curve)
    assert not np.array_equal(first.model, other.model)


def invited(study: Study, hospitals: Sequence[Path], seed: int) -> list[frozenset[str]]:
    events: list[Event] = []
    federate(study, hospitals, seed=seed, events=events)
    asked = [event.asked for event in events if isinstance(event, RoundStarted)]
    assert asked == [study.participation.asked] * study.training.rounds
    answered = Counter((e.round, e.hospital) for e in events if isinstance(e, Answered))
    assert set(answered.values()) == {1}
    return [
        frozenset(name for number, name in answered if number == r)
        for r in range(1, study.training.rounds + 1)
    ]


def test_as_many_are_invited_as_the_study_says_by_the_seed(tmp_path: Path) -> None:
    values = study_values(
        training={"rounds": 8, "local_epochs": 1},
        participation={"hospitals": 5, "invited": 2},
    )
    study = parse_study(values)
    files = opened(tmp_path, [ward(n, train=6) for n in range(5)], values)
    rounds = invited(study, files, seed=1)

    assert [len(names) for names in rounds] == [2] * 8
    assert len(set(rounds)) > 1
    assert len(frozenset[str]().union(*rounds)) >= 4
    assert invited(study, files, seed=1) == rounds
    assert invited(study, files, seed=2) != rounds


def test_more_nodes_than_the_study_has_hospitals_are_not_asked(tmp_path: Path) -> None:
    wards = [ward(n, train=8) for n in range(3)]
    outcome = federate(study_of(), opened(tmp_path, wards, study_values()))

    assert [finished.answered for finished in finished_rounds(outcome)] == [2, 2]
    assert outcome.test["records"] == 24


@pytest.mark.parametrize("rule", ["max_accuracy", "max_balanced_accuracy"])
def test_the_threshold_is_the_best_one_on_validation(tmp_path: Path, rule: str) -> None:
    values = study_values(task={"threshold": rule}, training={"rounds": 5, "local_epochs": 20})
    wards = [ward(n, train=40, validation=60, moved=1.0) for n in (1, 2)]
    outcome = federate(parse_study(values), opened(tmp_path, wards, values))

    model = network(SEED)
    put(model, outcome.model)
    seen = judge(model, wards, "validation")

    def value(threshold: float) -> float:
        called, sick = seen.positive >= threshold, seen.labels == 1
        rates = [np.mean(called[sick]), np.mean(~called[~sick])]
        return seen.accuracy(threshold) if rule == "max_accuracy" else float(np.mean(rates))

    best = max(value(threshold) for threshold in [*seen.positive, 1.1])
    assert value(outcome.threshold) >= best - 2 / 120
    assert best > value(0.5) + 5 / 120, "a test whose default is the best shows nothing"
    assert outcome.validation is not None
    assert outcome.validation["threshold"] == outcome.test["threshold"] == outcome.threshold
    tested = judge(model, wards, "test")
    assert outcome.test["accuracy"] == pytest.approx(tested.accuracy(outcome.threshold), abs=0.05)


def test_the_threshold_does_not_look_at_the_test_part(tmp_path: Path) -> None:
    values = study_values(task={"threshold": "max_accuracy"})
    wards = [ward(1, train=10), ward(2, train=35)]
    swapped = [
        Ward(w.inputs, np.where(w.parts == "test", 1 - w.labels, w.labels), w.parts) for w in wards
    ]
    study = parse_study(values)
    first = federate(study, opened(tmp_path / "first", wards, values))
    second = federate(study, opened(tmp_path / "second", swapped, values))

    assert first.threshold == second.threshold
    assert first.validation == second.validation
    assert first.test["auc"] == pytest.approx(1 - second.test["auc"])
    assert first.test["auc"] != second.test["auc"]


def test_the_curve_begins_with_the_first_model_and_ends_with_the_last(tmp_path: Path) -> None:
    values = study_values(training={"rounds": 3})
    wards = [ward(1, train=10, validation=30), ward(2, train=35, validation=20)]
    outcome = federate(parse_study(values), opened(tmp_path, wards, values))

    assert outcome.part == "validation"
    assert len(outcome.curve) == 4
    models = [network(SEED)] + [network(SEED) for _ in range(3)]
    for rounds, model in enumerate(models[1:], start=1):
        put(model, averaged(wards, [10, 35], rounds=rounds))
    for model, point in zip(models, outcome.curve, strict=True):
        known = judge(model, wards, "validation")
        assert point is not None
        assert point["records"] == 50
        assert point["loss"] == pytest.approx(known.loss, rel=1e-5)
        assert point["auc"] == pytest.approx(known.auc, abs=5e-3)
        assert point["accuracy"] == pytest.approx(known.accuracy(), abs=1e-9)
    assert outcome.curve[-1] == outcome.validation
    assert [finished.metrics for finished in finished_rounds(outcome)] == outcome.curve[:-1]


def test_the_final_model_is_judged_on_everybodys_test_records(tmp_path: Path) -> None:
    wards = [ward(1, train=10, test=30), ward(2, train=35, test=17)]
    outcome = federate(study_of(), opened(tmp_path, wards, study_values()))

    model = network(SEED)
    put(model, outcome.model)
    known = judge(model, wards, "test")
    assert outcome.test["records"] == 47
    assert outcome.test["loss"] == pytest.approx(known.loss, rel=1e-5)
    assert outcome.test["auc"] == pytest.approx(known.auc, abs=5e-3)
    assert outcome.test["accuracy"] == pytest.approx(known.accuracy())
    sick = known.labels == 1
    assert outcome.test["sensitivity"] == pytest.approx(np.mean(known.positive[sick] >= 0.5))
    assert outcome.test["specificity"] == pytest.approx(np.mean(known.positive[~sick] < 0.5))


def test_judging_a_round_needs_no_exchange_of_its_own(tmp_path: Path) -> None:
    kinds: list[tuple[str, str]] = []

    class Counting(InProcessGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            listed = list(messages)
            kinds.extend((m.metadata.message_type, m.metadata.group_id) for m in listed)
            return super().push_messages(listed)

    values = study_values(training={"rounds": 3})
    files = opened(tmp_path, [ward(1, train=10), ward(2, train=10)], values)
    with Counting(files) as grid:
        Federation(parse_study(values), grid, run="run", seed=0).train_and_judge()

    assert Counter(kinds) == {
        ("train", "1"): 2,
        ("train", "2"): 2,
        ("train", "3"): 2,
        ("evaluate", "5"): 2,  # the final model on validation,
        ("evaluate", "6"): 2,  # and on test: each part has an exchange of its own
    }


def test_a_study_without_validation_draws_its_curve_on_the_test_part(tmp_path: Path) -> None:
    values = study_values(
        data={"parts": {"by": "random", "train": 0.6, "validation": 0.0, "test": 0.4}}
    )
    files = opened(tmp_path, [ward(1, train=20), ward(2, train=20)], values)
    outcome = federate(parse_study(values), files)

    assert outcome.part == "test"
    assert outcome.validation is None
    assert outcome.threshold == 0.5
    assert outcome.curve[-1] == outcome.test


def test_the_listener_hears_the_rounds_in_order(tmp_path: Path) -> None:
    files = opened(tmp_path, [ward(1, train=10), ward(2, train=10)], study_values())
    events: list[Event] = []
    outcome = federate(study_of(), files, events=events)

    a_round = [RoundStarted, Answered, Answered, RoundFinished]
    assert [type(event) for event in events] == [*a_round, *a_round, Outcome]
    assert events[-1] is outcome
    finished = [event for event in events if isinstance(event, RoundFinished)]
    assert finished == outcome.rounds
    assert [(event.round, event.answered) for event in finished] == [(1, 2), (2, 2)]
    assert 0 <= sum(event.seconds for event in finished) <= outcome.seconds


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """One run through the aggregator's own Flower app, and the folder that it left."""
    folder = tmp_path_factory.mktemp("run")
    values = study_values(task={"threshold": "max_accuracy"})
    wards = [ward(1, train=10, test=40), ward(2, train=35)]
    files = opened(folder / "hospitals", wards, values)
    study = files[0].parent / "studies" / "0.toml"
    heard: list[Event] = []
    with InProcessGrid(files) as grid:
        run = context(study=str(study), out=str(folder / "out"), seed=SEED, run="run")
        make_app(heard.append)(grid, run)
    (outcome,) = [event for event in heard if isinstance(event, Outcome)]
    return outcome, folder / "out"


def test_a_run_leaves_these_files_and_no_half_ones(finished: tuple[Outcome, Path]) -> None:
    _, folder = finished

    assert {path.name for path in folder.iterdir()} == {
        "federation.json",
        "judged.safetensors",
        "model.safetensors",
        "rounds.csv",
    }


def test_the_model_file_loads_into_a_fresh_network_and_judges_the_same(
    finished: tuple[Outcome, Path],
) -> None:
    outcome, folder = finished
    model = network(seed=99)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)

    known = judge(model, [ward(1, train=10, test=40), ward(2, train=35)], "test")
    np.testing.assert_array_equal(weights(model), outcome.model.astype(np.float64))
    assert outcome.test["loss"] == pytest.approx(known.loss, rel=1e-6)
    assert outcome.test["auc"] == pytest.approx(known.auc, abs=5e-3)


def test_the_model_file_says_what_it_is(finished: tuple[Outcome, Path]) -> None:
    outcome, folder = finished
    study = study_of(task={"threshold": "max_accuracy"})
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["fedward"])

    assert about == {
        "study": "tiny",
        "digest": study.digest(),
        "classes": ["benign", "malignant"],
        "model": {"name": "mlp", "hidden": [4]},
        "threshold": outcome.threshold,
    }


def test_rounds_csv_has_a_row_for_every_model(finished: tuple[Outcome, Path]) -> None:
    outcome, folder = finished
    with (folder / "rounds.csv").open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        rows = list(reader)

    assert reader.fieldnames == [
        *("round", "seconds", "hospitals", "part", "records", "loss", "accuracy", "auc")
    ]
    assert tuple(reader.fieldnames[:5]) == COLUMNS
    assert [row["round"] for row in rows] == ["0", "1", "2"]
    assert [row["hospitals"] for row in rows] == ["", "2", "2"]
    assert {row["part"] for row in rows} == {"validation"}
    for row, point in zip(rows, outcome.curve, strict=True):
        assert point is not None
        for column in ("records", "loss", "accuracy", "auc"):
            assert float(row[column]) == point[column]


def test_federation_json_holds_the_outcome(finished: tuple[Outcome, Path]) -> None:
    outcome, folder = finished
    document = json.loads((folder / "federation.json").read_text(encoding="utf-8"))

    assert document["study"] == study_of(task={"threshold": "max_accuracy"}).digest()
    assert document["test"] == outcome.test
    assert document["seconds"] == outcome.seconds


def test_a_run_without_out_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = opened(tmp_path / "hospitals", [ward(1, train=9), ward(2, train=9)], study_values())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with InProcessGrid(files) as grid:
        make_app()(grid, context(study=str(files[0].parent / "studies" / "0.toml"), out=""))

    assert list((tmp_path / "empty").iterdir()) == []


def test_a_run_without_a_study_says_how_to_give_one() -> None:
    with (
        InProcessGrid([]) as grid,
        pytest.raises(OptionError, match=r"no study; .*--run-config 'study=") as caught,
    ):
        make_app()(grid, context(study=""))
    assert isinstance(caught.value, FedwardError)


def test_a_json_file_is_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_json({"auc": 0.5}, path)

    with pytest.raises(ValueError, match="JSON"):
        write_json({"auc": float("nan")}, path)

    assert json.loads(path.read_text(encoding="utf-8")) == {"auc": 0.5}
    assert [file.name for file in tmp_path.iterdir()] == ["document.json"]


def test_an_outcome_without_metrics_still_makes_a_table(tmp_path: Path) -> None:
    outcome = Outcome(
        model=weights(network(0)).astype(np.float32),
        test={},
        validation=None,
        threshold=0.5,
        part="validation",
        curve=[None, None],
        rounds=[RoundFinished(1, 1, 0.5, 2, 0, "validation", None)],
    )
    write_rounds(outcome, tmp_path / "rounds.csv")
    write_model(study_of(), outcome, tmp_path / "model.safetensors")

    lines = (tmp_path / "rounds.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["0,,,validation,,", "1,0.5000,2,validation,,"]


def test_a_run_keeps_the_newest_refusals_and_not_all_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedward.server.federation._MOST_REFUSALS", 3)
    told: list[Event] = []
    with InProcessGrid([]) as grid:
        federation = Federation(study_of(), grid, run="run", seed=SEED, listener=told.append)
        for number in range(5):
            federation._note(number, [Refusal("A", "RefusedError", "no", "")])

    assert [refused.round for refused in federation._so_far.refusals] == [2, 3, 4]
    assert len(told) == 5
