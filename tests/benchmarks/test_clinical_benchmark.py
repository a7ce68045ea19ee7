"""The table of clinical studies: it runs, its targets are judged, and a study is one entry."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.models.registry import build, settled
from fedward.simulation.simulate import Options, simulate
from fedward.study.study import read_study
from tests.benchmarks.conftest import ModuleNamed

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks" / "clinical.py"
REGIONS = ROOT.parent / "shared" / "data" / "fed_tcga_brca"


def nobody(_: object) -> None:
    """Listens to nothing."""


def run(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick", "--workers", "1", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document, done.stderr


@pytest.mark.slow
def test_a_quick_run_has_every_side_beside_its_targets(tmp_path: Path) -> None:
    document, _ = run(tmp_path)

    models = {row["model"] for row in document["figures"]}
    assert models == {"federated", "private", "pooled", "only A", "only B", "only C", "only D"}
    figures = {(row["model"], row["figure"]): row["mean"] for row in document["figures"]}
    assert all(0.5 < value <= 1 for value in figures.values())
    plain, private = document["targets"]
    assert plain["ours"] == figures["federated", "auc"]
    assert private["to_reach"] == pytest.approx(figures["federated", "auc"] - 0.02)
    for target in (plain, private):
        assert target["reached"] == (target["ours"] >= target["to_reach"])
    spent = document["runs"]["breast-cancer"]
    assert spent["federated"]["epsilon"] is None
    assert 7.5 < spent["private"]["epsilon"] <= 8
    out = tmp_path / "runs" / "clinical"
    assert (out / "clinical.png").read_bytes().startswith(b"\x89PNG")
    with (out / "clinical.csv").open(encoding="utf-8", newline="") as file:
        lines = {(row["model"], row["figure"]): row["value"] for row in csv.DictReader(file)}
    assert {key: float(value) for key, value in lines.items()} == figures


@pytest.mark.slow
def test_without_the_data_the_reason_is_said(tmp_path: Path) -> None:
    document, said = run(tmp_path, "--only", "heart-disease", "--data-root", str(tmp_path))

    assert document["figures"] == document["targets"] == []
    (reason,) = document["left_out"]
    assert "--data-root" in reason
    assert f"left out: {reason}" in said


def test_published_rows_stand_below_ours_in_the_text_and_in_the_csv(
    tmp_path: Path,
    module_named: ModuleNamed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clinical, runs = module_named("clinical"), module_named("clinical_runs")
    (tmp_path / "uci_heart_disease").mkdir()

    def made(_: object, side: str, *__: object, **___: object) -> Any:  # noqa: ANN401
        return runs.Run("", {side: {"accuracy": 0.75, "mean_of_centres": 0.625, "auc": 0.5}}, None)

    monkeypatch.setattr(clinical, "run", made)
    monkeypatch.setenv("COLUMNS", "200")
    given = ["--only", "heart-disease", "--data-root", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["clinical.py", "--quick", *given])

    clinical.main()

    said = capsys.readouterr().out
    first = {
        cells[0]: cells[1:]
        for line in said.partition("Targets")[0].splitlines()
        if len(cells := [cell.strip() for cell in line.strip("│").split("│")]) == 4
    }
    assert list(first)[:2] == ["federated", "private"]
    assert first["federated"][0].startswith("0.750 ")
    assert first["FLamby: Cyclic"] == ["0.785", "0.718", "-"]
    assert "a422b61" in said
    with (tmp_path / "clinical.csv").open(encoding="utf-8", newline="") as file:
        lines = {
            (row["model"], row["figure"]): (row["seed"], row["value"])
            for row in csv.DictReader(file)
        }
    assert lines["federated", "accuracy"] == ("0", "0.75")
    assert lines["FLamby: Cyclic", "accuracy"] == ("", "0.785")
    assert lines["FLamby: Cyclic", "mean_of_centres"] == ("", "0.718")


def test_a_kept_run_is_taken_up_only_for_the_same_study_file(
    tmp_path: Path, module_named: ModuleNamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, demo = module_named("clinical_runs"), module_named("clinical_studies").DEMO
    made = []

    def simulated(
        clinical: object,
        side: str,
        study: Any,  # noqa: ANN401
        data: Path | None,
        **__: object,
    ) -> Any:  # noqa: ANN401
        made.append(side)
        return runs.Run(runs.whole(study, data), {side: {"auc": 0.9}}, None)

    monkeypatch.setattr(runs, "_simulated", simulated)
    study = runs.study_of(demo, "federated")
    other = study.model_copy(
        update={"simulation": study.simulation.model_copy(update={"shares": (1, 1, 1, 1)})}
    )
    assert study.digest() == other.digest()
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("1,2\n")

    def times(which: Any = study) -> int:  # noqa: ANN401
        runs.run(demo, "federated", which, data, tmp_path, seed=0, workers=1)
        return len(made)

    assert [times(), times(), times(other), times()] == [1, 1, 2, 3]
    (data / "a.csv").write_text("1,2,3\n")
    assert [times(), times()] == [4, 4]
    os.utime(data / "a.csv", ns=(1, 1))
    assert [times(), times()] == [5, 5]
    monkeypatch.setattr(runs, "version", lambda name: f"another {name}")
    assert [times(), times()] == [6, 6]


def test_every_study_of_the_table_is_there(module_named: ModuleNamed) -> None:
    studies, runs = module_named("clinical_studies"), module_named("clinical_runs")

    for clinical in studies.STUDIES:
        found = {side: runs.study_of(clinical, side) for side in clinical.files}
        modes = {side: study.privacy.mode for side, study in found.items()}
        assert modes.items() <= {"federated": "off", "private": "local"}.items()
        assert "federated" in modes
        assert all(study.aggregation.secure for study in found.values())
        for target in clinical.targets:
            assert target.figure in clinical.figures
            assert (target.least is None) != (target.within is None)
    assert len({clinical.name for clinical in studies.STUDIES}) == len(studies.STUDIES)


@pytest.mark.slow
@pytest.mark.skipif(not REGIONS.is_dir(), reason="Fed-TCGA-BRCA is not on this machine")
def test_concordance_is_of_all_patients_and_tuning_averages_as_a_simulation_does(
    tmp_path: Path, module_named: ModuleNamed
) -> None:
    study = read_study(ROOT / "examples" / "breast-cancer-survival.toml")
    training = study.training.model_copy(update={"rounds": 2})
    study = settled(study.model_copy(update={"training": training}))
    out = tmp_path / "run"
    options = Options(out=out, data=REGIONS, baselines=False, workers=1)
    result = simulate(study, options, listener=nobody, say=nobody)

    tuning = module_named("clinical_tuning")
    everywhere, hospitals = module_named("clinical_runs").judged(study, out, result)

    model = build(study, seed=0)
    model.load_state_dict(load_file(out / "model.safetensors"))
    patients: list[tuple[float, float, float]] = []
    pieces = []
    for file in out.glob("hospitals/*/*.toml"):
        parts = Site(read_hospital(file), file.parent).load(study.digest()).parts
        test = parts["test"]
        pieces.append(tuning.Piece(parts["train"], test))
        risks = model(test.inputs)[:, 0]
        patients += zip(risks.tolist(), *test.whole_labels.T.tolist(), strict=True)
    right = pairs = 0.0
    for risk, time, died in patients:
        for other, later, event in patients:
            if died and (time < later or (time == later and not event)):
                pairs += 1
                right += 1.0 if risk > other else 0.5 if risk == other else 0.0
    assert everywhere["exact_concordance"] == pytest.approx(right / pairs)
    assert len(hospitals) == 6
    federated = result.metrics.federated.concordance
    assert federated == pytest.approx(right / pairs, abs=0.01)
    curve = tuning.curve(study, pieces, "concordance", seed=0)
    assert len(curve) == 2
    assert curve[-1] == pytest.approx(federated, abs=1e-3)
