"""A whole simulation: what it leaves, that a seed repeats it, and what it refuses to do."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.accountants import RDPAccountant
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.models.judged import JUDGED, read_judged
from fedward.models.task import task_of
from fedward.privacy.ledger import Ledger
from fedward.server.events import Event, Outcome
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate, with_hospitals
from fedward.study.errors import DataError, FedwardError, OptionError, StudyError
from fedward.study.study import Study, read_study
from tests.simulation.conftest import COUNT, study_of, write_table

PRIVATE: dict[str, Any] = {
    "mode": "local",
    "epsilon": 5.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}


def ignore(what: object) -> None:
    """Nobody listens."""


def run(study: Study, out: Path, data: Path | None, **options: Any) -> Result:  # noqa: ANN401
    chosen = {"workers": 1, "baselines": False, **options}
    return simulate(study, Options(out=out, data=data, **chosen), listener=ignore, say=ignore)


class Finished:
    """One run with everything in it, to look at from many sides."""

    def __init__(self, folder: Path) -> None:
        self.study = study_of(task={"threshold": "max_accuracy"})
        self.out = folder / "run"
        self.data = write_table(folder / "records.csv", range(COUNT))
        self.said: list[str] = []
        self.events: list[Event] = []
        options = Options(out=self.out, data=self.data, seed=4, workers=1)
        self.result = simulate(
            self.study, options, listener=self.events.append, say=self.said.append
        )

    def document(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "result.json").read_text("utf-8"))
        return loaded

    def parts(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        files = sorted((self.out / "hospitals").glob("*/hospital.toml"))
        sites = [Site(read_hospital(file), file.parent) for file in files]
        found = [site.load(self.study.digest()).parts[part] for site in sites]  # type: ignore[index]
        return torch.cat([r.whole for r in found]), torch.cat([r.whole_labels for r in found])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished"))


def test_a_run_leaves_its_files(finished: Finished) -> None:
    names = {path.name for path in finished.out.iterdir()}

    assert {"result.json", "rounds.csv", "model.safetensors", "study.toml", "curves.png"} <= names
    assert not [name for name in names if "tmp" in name]
    assert (finished.out / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert read_study(finished.out / "study.toml").digest() == finished.study.digest()
    assert len((finished.out / "rounds.csv").read_text("utf-8").splitlines()) == 1 + 3


def test_result_json_is_the_result(finished: Finished) -> None:
    text = (finished.out / "result.json").read_text("utf-8")

    assert Result.model_validate_json(text) == finished.result


def test_result_json_holds_what_others_rely_on(finished: Finished) -> None:
    document = finished.document()
    metrics = document["metrics"]

    assert set(metrics["local"]) == set(document["privacy"]) == {"A", "B", "C"}
    for found in (metrics["federated"], metrics["pooled"], *metrics["local"].values()):
        assert 0 <= found["accuracy"] <= 1
        assert 0 <= found["auc"] <= 1
        assert found["records"] == metrics["federated"]["records"]
    assert document["seconds"] > 0
    assert document["study"] == {"name": "tiny", "digest": finished.study.digest()}
    assert (document["seed"], document["rounds"]) == (4, 2)
    assert document["failures"] == []
    assert document["sums"] == {
        "secure": True,
        "clipped": 0,
        "capped": 0,
        "repeated": 0,
        "lost": 0,
    }


def test_the_figures_follow_from_the_sums_that_are_kept(finished: Finished) -> None:
    task, metrics = task_of(finished.study), finished.document()["metrics"]
    sums = read_judged(finished.out / JUDGED, finished.study.digest(), task.size)
    models = {"federated": metrics["federated"], "pooled": metrics["pooled"]}
    models |= {f"local.{name}": found for name, found in metrics["local"].items()}

    assert set(sums) == {"federated.validation", *(f"{name}.test" for name in models)}
    for name, found in models.items():
        assert task.metrics(sums[f"{name}.test"], found["threshold"]) == found


def test_every_record_is_in_one_part_of_one_hospital(finished: Finished) -> None:
    hospitals = finished.document()["hospitals"]

    assert sum(sum(counts.values()) for counts in hospitals.values()) == COUNT
    tested = sum(counts["test"] for counts in hospitals.values())
    assert finished.result.metrics.federated.records == tested
    assert finished.result.validation is not None
    judged = sum(counts["validation"] for counts in hospitals.values())
    assert finished.result.validation.records == judged


def test_without_privacy_nothing_was_spent(finished: Finished) -> None:
    for spent in finished.document()["privacy"].values():
        assert spent == {"epsilon": None, "delta": None, "unit": None, "noise": "none"}


def test_the_model_file_gives_the_metrics_of_the_result(finished: Finished) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model.load_state_dict(load_file(finished.out / "model.safetensors"), strict=True)
    inputs, labels = finished.parts("test")
    with torch.no_grad():
        positive = model(inputs).softmax(dim=1)[:, 1]

    federated = finished.result.metrics.federated
    assert federated.auc == pytest.approx(roc_auc_score(labels, positive), abs=0.02)
    assert federated.threshold is not None
    called = positive >= federated.threshold
    right = (called == (labels == 1)).double().mean().item()
    assert federated.accuracy == pytest.approx(right, abs=1 / len(labels) + 1e-9)


def test_the_listener_hears_the_federation_and_say_the_rest(finished: Finished) -> None:
    (outcome,) = [event for event in finished.events if isinstance(event, Outcome)]

    assert finished.events[-1] is outcome
    assert outcome.test["auc"] == finished.result.metrics.federated.auc
    assert any("pooled" in line for line in finished.said)


def test_a_seed_repeats_a_run_bit_for_bit(table: Path, tmp_path: Path) -> None:
    study = study_of()
    for out, seed in (("first", 1), ("again", 1), ("other", 2)):
        run(study, tmp_path / out, table, seed=seed, baselines=True)
    models = [(tmp_path / o / "model.safetensors").read_bytes() for o in ("first", "again")]
    results = {
        out: json.loads((tmp_path / out / "result.json").read_text("utf-8"))
        for out in ("first", "again", "other")
    }
    for document in results.values():
        assert document.pop("seconds") >= 0
        assert document.pop("seconds_baselines") >= 0

    assert models[0] == models[1]
    assert results["first"] == results["again"]
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != models[0]
    assert results["other"]["metrics"] != results["first"]["metrics"]


def test_a_folder_can_be_used_again_after_it_was_emptied(table: Path, tmp_path: Path) -> None:
    """In one process too: nothing of the earlier run's hospitals may be remembered."""
    run(study_of(), tmp_path / "run", table, seed=1)
    shutil.rmtree(tmp_path / "run")
    run(study_of(), tmp_path / "run", table, seed=2)
    run(study_of(), tmp_path / "fresh", table, seed=2)

    models = [(tmp_path / o / "model.safetensors").read_bytes() for o in ("run", "fresh")]
    assert models[0] == models[1]


def test_changed_data_is_read_again(table: Path, tmp_path: Path) -> None:
    first = run(study_of(), tmp_path / "first", table, seed=1)
    write_table(table, range(COUNT), seed=2)
    second = run(study_of(), tmp_path / "second", table, seed=1)

    assert first.metrics != second.metrics


def test_one_hospital_learns_what_the_pooled_records_teach(table: Path, tmp_path: Path) -> None:
    study = study_of(
        participation={"hospitals": 1},
        training={"batch_size": "all", "local_epochs": 5},
        aggregation={"secure": False},
    )
    metrics = run(study, tmp_path / "run", table, baselines=True).metrics

    assert metrics.pooled is not None
    for other in (metrics.pooled, metrics.local["A"]):
        assert other.loss == pytest.approx(metrics.federated.loss, rel=1e-5)
        assert other.auc == metrics.federated.auc


def test_baselines_can_be_left_out(table: Path, tmp_path: Path) -> None:
    metrics = run(study_of(), tmp_path / "run", table, baselines=False).metrics

    assert metrics.pooled is None
    assert metrics.local == {}


def test_everything_is_computed_by_one_thread(table: Path, tmp_path: Path) -> None:
    """Workers have one thread each, and time decides whether there are any: bits must not move."""
    before = torch.get_num_threads()
    seen: set[int] = set()
    hook = register_module_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        run(study_of(), tmp_path / "run", table, baselines=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        hook.remove()

    assert seen == {1}


class Spending:
    """A private run."""

    def __init__(self, folder: Path) -> None:
        data = write_table(folder / "records.csv", range(COUNT))
        study = study_of(privacy=PRIVATE)
        self.out = folder / "run"
        self.result = run(study, self.out, data, seed=1, baselines=True)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Spending:
    return Spending(tmp_path_factory.mktemp("private"))


def test_epsilon_is_the_ledgers_and_within_the_budget(private: Spending) -> None:
    assert set(private.result.privacy) == {"A", "B", "C"}
    for file in sorted((private.out / "hospitals").glob("*/hospital.toml")):
        spent = private.result.privacy[read_hospital(file).name]
        ledger = Ledger(file.parent / "state" / "ledger.sqlite")
        assert spent.epsilon == ledger.epsilon(data="data", delta=1e-3, accountant="rdp")
        assert spent.epsilon is not None
        assert 4.5 < spent.epsilon <= 5.0
        assert (spent.delta, spent.unit, spent.noise) == (1e-3, "patient", "seeded")


def test_epsilon_is_what_opacus_says_of_the_charges(private: Spending) -> None:
    for file in sorted((private.out / "hospitals").glob("*/hospital.toml")):
        database = sqlite3.connect(file.parent / "state" / "ledger.sqlite")
        charges = database.execute(
            "SELECT round, noise_multiplier, sampling_rate, steps FROM charge ORDER BY round"
        ).fetchall()
        database.close()
        accountant = RDPAccountant()  # type: ignore[no-untyped-call]
        for _, sigma, rate, steps in charges:
            for _ in range(steps):
                accountant.step(noise_multiplier=sigma, sample_rate=rate)

        assert [charge[0] for charge in charges] == [1, 2]
        assert {charge[3] for charge in charges} == {2}  # one pass at a sampling rate of one half
        spent = private.result.privacy[read_hospital(file).name]
        assert spent.epsilon == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-6)


@pytest.mark.slow
def test_hospitals_of_different_sizes_each_spend_their_own_noise_within_the_budget(
    tmp_path: Path,
) -> None:
    """Two records a patient; 4 patients a step are another rate in each hospital."""
    data = write_table(tmp_path / "records.csv", range(2 * COUNT))
    each = {k: v for k, v in PRIVATE.items() if k != "sampling_rate"} | {"patients_per_step": 4}
    study = study_of(
        privacy=each | {"records_per_patient": 2},
        simulation={
            "split": "quantity",
            "shares": [6.0, 3.0, 2.0],
            "source": {"format": "csv", "patient": "patient"},
        },
    )
    result = run(study, tmp_path / "run", data, seed=1, baselines=True)
    charges = {}
    for file in sorted((tmp_path / "run" / "hospitals").glob("*/hospital.toml")):
        hospital = read_hospital(file)
        (steps,) = {
            entry.charge.steps for entry in Ledger(file.parent / "state/ledger.sqlite").entries()
        }
        charges[hospital.name] = steps
        assert steps.sampling_rate == min(1.0, 4 / (hospital.limits.declared_patients or 0))
        spent = result.privacy[hospital.name].epsilon
        assert spent is not None
        assert 4.5 < spent <= 5.0

    rates = [charges[name].sampling_rate for name in "ABC"]
    noises = [charges[name].noise_multiplier for name in "ABC"]
    assert rates == sorted(set(rates))
    assert noises == sorted(set(noises))
    assert result.metrics.pooled is not None
    assert result.epsilon_baselines is None  # theirs are each another


def test_a_run_does_not_mix_with_an_earlier_one(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "result.json").write_text("precious", encoding="utf-8")

    with pytest.raises(OptionError, match="not empty") as caught:
        run(study_of(), out, table)

    assert str(out) in caught.value.line()
    assert [path.name for path in out.iterdir()] == ["result.json"]
    assert (out / "result.json").read_text("utf-8") == "precious"


def test_a_file_in_the_place_of_the_run_folder_is_left_alone(table: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious", encoding="utf-8")

    with pytest.raises(OptionError, match="--out"):
        run(study_of(), tmp_path / "run", table)
    with pytest.raises(OptionError, match="--out"):
        run(study_of(), tmp_path / "run" / "below", table)

    assert (tmp_path / "run").read_text("utf-8") == "precious"


def broken_table(folder: Path) -> Path:
    path = write_table(folder / "broken.csv", range(COUNT))
    text = path.read_text("utf-8").replace("malignant", "unclear", 1)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_that_could_not_start_leaves_nothing_and_can_be_repeated_with_the_same_out(
    table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    broken = broken_table(tmp_path)
    for data, kind in ((tmp_path / "absent.csv", OptionError), (broken, DataError)):
        with pytest.raises(kind) as caught:
            run(study_of(), out, data)
        assert str(data) in caught.value.line()
        assert not out.exists() or not list(out.iterdir())
    with pytest.raises(StudyError, match=r"model\.name"):
        run(study_of(model={"name": "oracle"}), out, table)

    assert run(study_of(), out, table).metrics.federated.records > 0


def test_more_hospitals_may_be_asked_for(table: Path, tmp_path: Path) -> None:
    study = with_hospitals(study_of(), 5)

    assert study.participation.hospitals == study.participation.fewest == 5
    assert set(run(study, tmp_path / "run", table).hospitals) == {"A", "B", "C", "D", "E"}
    assert with_hospitals(study, None) is study
    assert with_hospitals(study, 5) is study


@pytest.mark.parametrize(
    ("secure", "participation", "least"),
    [
        (False, {"hospitals": 6, "min_hospitals": 3}, 3),
        (False, {"hospitals": 6, "invited": 4}, 4),
        (False, {"hospitals": 6, "invited": 4, "min_hospitals": 2}, 4),
        (False, {"hospitals": 6}, 1),
        (True, {"hospitals": 6, "min_hospitals": 4}, 4),
        (True, {"hospitals": 6, "invited": 4}, 4),
    ],
)
def test_fewer_hospitals_are_allowed_down_to_what_the_study_needs(
    secure: bool, participation: dict[str, int], least: int
) -> None:
    study = study_of(participation=participation, aggregation={"secure": secure})

    assert with_hospitals(study, least).participation.hospitals == least
    if least > 1:
        with pytest.raises(OptionError, match=f"at least {least}") as caught:
            with_hospitals(study, least - 1)
        assert isinstance(caught.value, FedwardError)
        assert f"--hospitals {least - 1}" in caught.value.line()


@pytest.mark.parametrize(
    ("participation", "hospitals", "says"),
    [
        ({"hospitals": 6}, 1, "at least 2 hospitals in a secure sum"),
        ({"hospitals": 6}, 2, "aggregation.two_hospitals"),
        ({"hospitals": 4, "min_hospitals": 3}, 6, "min_hospitals >= 4, not 3"),
    ],
)
def test_a_number_that_no_secure_sum_works_with_is_refused(
    participation: dict[str, int], hospitals: int, says: str
) -> None:
    with pytest.raises(OptionError) as caught:
        with_hospitals(study_of(participation=participation), hospitals)

    assert f"--hospitals {hospitals}" in caught.value.line()
    assert says in caught.value.line()


def test_another_number_of_hospitals_changes_nothing_else_in_a_study() -> None:
    study = study_of(simulation={"split": "site", "site": "ward"}, privacy=PRIVATE)
    other = with_hospitals(study, 5)

    assert other.model_copy(update={"participation": study.participation}) == study
    assert other.participation == study.participation.model_copy(update={"hospitals": 5})


def test_a_baseline_that_fails_leaves_the_federated_result(tmp_path: Path) -> None:
    """One hospital's absurd values make its update infinite: survived, and so must the rest be."""
    for number, name in enumerate(("north", "south", "west", "east")):
        write_table(tmp_path / "data" / f"{name}.csv", range(20 * number, 20 * number + 20))
    bad = tmp_path / "data" / "south.csv"
    lines = [line.split(",") for line in bad.read_text("utf-8").splitlines()]
    for cells in lines[1:]:
        cells[3] = f"{float(cells[3]) * 1e17}"
    bad.write_text("\n".join(map(",".join, lines)), "utf-8")
    study = study_of(
        participation={"hospitals": 4, "min_hospitals": 3},
        simulation={"split": "folders"},
    )
    result = run(study, tmp_path / "run", tmp_path / "data", baselines=True)

    assert result.sums.secure
    assert result.sums.lost == 0
    assert any("south" in line and "not finite" in line for line in result.failures)
    assert result.metrics.pooled is None
    assert any("pooled" in line for line in result.failures)
    assert (tmp_path / "run" / "result.json").exists()
