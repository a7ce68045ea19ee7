"""A report says what the run's files say, with nothing of the outside in it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedward.clinic.report import CARD, REPORT, write_report
from fedward.clinic.report_pictures import (
    pictures_of,
    precision_recall_lines,
    rings_of,
    roc_lines,
)
from fedward.clinic.told import read_told
from fedward.models import scores
from fedward.models.judged import JUDGED
from fedward.models.tasks.classification import Classification
from fedward.models.tasks.multilabel import Multilabel
from fedward.privacy.signed_study import sign_study
from fedward.server.app import make_app
from fedward.server.run_registry import RunRegistry
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import DataError, FedwardError, OptionError
from fedward.study.study import parse_study
from tests.server.conftest import context
from tests.server.cut_off import Watched, private_study, sites_of
from tests.simulation.conftest import COUNT, study_of, write_table

HOSTILE = {
    "title": '<script src="https://example.org/a.js">alert(1)</script> | *bold* "q" & $x$',
    "intended_use": "A second look at [tables](https://example.org).",
    "limits": ["Not for <b>children</b>.", "Not 心 alone."],
}
PRIVATE: dict[str, Any] = {
    **{"mode": "local", "noise_multiplier": 1.0, "delta": 1e-3},
    **{"sampling_rate": 0.5, "accountant": "rdp"},
}


def run_of(folder: Path, *, baselines: bool = False, **tables: dict[str, Any]) -> Path:
    tables.setdefault("simulation", {"split": "iid", "source": {"patient": "patient"}})
    data = write_table(folder / "records.csv", range(COUNT))
    options = Options(out=folder / "run", data=data, seed=4, workers=1, baselines=baselines)
    simulate(study_of(**tables), options, listener=lambda _: None, say=lambda _: None)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private study with models for comparison, and with texts of somebody hostile."""
    return run_of(
        tmp_path_factory.mktemp("report"),
        baselines=True,
        study={"name": "tiny", **HOSTILE},
        task={"classes": ["benign", "<i>malignant</i>"], "threshold": "max_accuracy"},
        data={"class_values": [["benign"], ["malignant"]]},
        privacy=PRIVATE,
    )


class Read(HTMLParser):
    """What a browser would make of a page: elements that are closed, tables, and what they load."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, dict[str, list[str]]] = {}
        self.words: list[str] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
            self.tables[self._table] = {}
        if tag == "data":
            values = self.tables.get(self._table)
            if values and "table" in self.open:
                values[list(values)[-1]].append(dict(attrs)["value"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "tbody" in self.open and self.open[-1] == "th":
            self.tables[self._table][data] = []


@pytest.fixture(scope="module")
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    out = tmp_path_factory.mktemp("out") / "new"
    found = write_report(run, out)
    assert {path.name for path in out.iterdir()} == {REPORT, CARD}
    assert found.missing == []
    return (out / REPORT).read_text("utf-8"), (out / CARD).read_text("utf-8")


def test_figures_of_the_page_are_those_of_result_json(run: Path, written: tuple[str, str]) -> None:
    page, result = Read(written[0]), json.loads((run / "result.json").read_text("utf-8"))
    metrics = result["metrics"]
    rows = page.tables["figures"]
    for name, key in (("AUC", "auc"), ("Brier score", "brier"), ("records", "records")):
        for place, found in enumerate((metrics["federated"], result["validation"])):
            assert float(rows[name][place]) == found[key]
    assert len(rows) == len(metrics["federated"])
    models = page.tables["models"]
    assert float(models["pooled"][0]) == metrics["pooled"]["auc"]
    for name, found in metrics["local"].items():
        assert float(models[f"only {name}"][2]) == found["loss"]
    for name, spent in result["privacy"].items():
        assert float(page.tables["hospitals"][name][0]) == spent["epsilon"]
    for words in (result["study"]["digest"], "Not for <b>children</b>.", HOSTILE["intended_use"]):
        assert words in page.words


def test_the_page_loads_nothing_and_obeys_nobody(written: tuple[str, str]) -> None:
    page = Read(written[0])
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "a", "i", "b"})
    allowed = {"img": {"src", "alt"}}
    for tag, attributes in page.tags:
        loads = {"src", "href", "srcset", "action", "style"} & set(attributes)
        assert loads <= allowed.get(tag, set()), tag
        assert not [name for name in attributes if name.startswith("on")]
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 6
    for picture in pictures:
        start, _, content = str(picture["src"]).partition(",")
        assert start == "data:image/svg+xml;base64"
        svg = base64.b64decode(content).decode()
        assert svg.startswith("<svg")
        addresses = {where for where in re.findall(r'"(https?://[^"]*)"', svg)}
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert not re.findall(r'href="(?!#|data:)|url\((?!#)|@import|<script', svg)
        assert len(str(picture["alt"])) > 20
    styles = re.findall(r"<style>(.*?)</style>", written[0], re.DOTALL)
    assert not re.search(r"url\(|@import", "".join(styles))


def test_the_drawn_lines_have_the_areas_of_result_json(run: Path) -> None:
    told = read_told(run)
    assert isinstance(told.task, Classification)
    metrics = json.loads((run / "result.json").read_text("utf-8"))["metrics"]
    known = [metrics["federated"], metrics["pooled"], *metrics["local"].values()]
    for lines, metric in ((roc_lines, "auc"), (precision_recall_lines, "average_precision")):
        drawn = lines(told, told.task)
        assert len(drawn) == len(known)
        areas = [
            np.trapezoid(line.curve.y, line.curve.x)
            if metric == "auc"
            else (np.diff(line.curve.x) * line.curve.y[1:]).sum()
            for line in drawn
        ]
        if metric == "auc":
            assert areas == pytest.approx([found["auc"] for found in known], abs=1e-12)
        assert areas[0] == pytest.approx(known[0][metric], abs=1e-12)


def test_the_operating_point_and_the_table_are_those_of_the_threshold(run: Path) -> None:
    told = read_told(run)
    found = told.federation.test
    table = next(p for p in pictures_of(told).pictures if p.title == "Confusion table")
    tn, fp, fn, tp = (int(n) for n in re.findall(r"(\d+) called", table.alt))
    assert tp / (tp + fn) == pytest.approx(found["sensitivity"])
    assert tn / (tn + fp) == pytest.approx(found["specificity"])
    assert tn + fp + fn + tp == found["records"]


def test_a_model_that_calls_nobody_has_a_point_on_its_roc(run: Path) -> None:
    told = read_told(run)
    assert isinstance(told.task, Classification)
    known = told.sums or {}
    sums = known["federated.test"]
    rings = rings_of(told, told.task, sums)
    test = told.federation.test
    ((fpr, sensitivity),) = rings.roc.values()
    assert sensitivity == pytest.approx(test["sensitivity"])
    assert 1 - fpr == pytest.approx(test["specificity"])
    ((recall, precision),) = rings.recall.values()
    assert (recall, precision) == pytest.approx((test["sensitivity"], test["precision"]))
    nobody = replace(told, facts=told.facts.model_copy(update={"threshold": 1 - 1e-12}))
    rings = rings_of(nobody, told.task, sums)
    assert list(rings.roc.values()) == [(0.0, 0.0)]
    assert rings.recall == {}
    drawn = pictures_of(nobody)
    assert any("nobody is called <i>malignant</i>" in line for line in drawn.missing)
    captions = {picture.title: picture.caption for picture in drawn.pictures}
    assert "The ring is the threshold" in captions["ROC"]
    assert "ring" not in captions["Precision and recall"]


def test_the_caption_of_calibration_says_which_group_a_count_is_of(run: Path) -> None:
    told = read_told(run)
    assert isinstance(told.task, Classification)
    caption = next(p for p in pictures_of(told).pictures if p.title == "Calibration").caption
    negatives, positives = told.task.scored((told.sums or {})["federated.test"])[0]
    p, counts = scores.probabilities(len(negatives)), negatives + positives
    found = re.findall(r"(0\.\d) to (\d\.\d): (\d+)", caption)
    assert sum(int(count) for *_, count in found) == told.federation.test["records"]
    for low, high, count in found:
        inside = (p >= float(low)) & (p < float(high))
        assert counts[inside].sum() == int(count) > 0


def test_the_card_s_front_matter_is_yaml_and_its_text_is_plain(
    run: Path, written: tuple[str, str]
) -> None:
    _, front, text = written[1].split("---\n", 2)
    said = yaml.safe_load(front)
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert said["library_name"] == "fedward"
    assert said["pipeline_tag"] == "tabular-classification"
    (index,) = said["model-index"]
    metrics = {m["type"]: m["value"] for m in index["results"][0]["metrics"]}
    assert metrics["auc"] == result["metrics"]["federated"]["auc"]
    assert "<" not in text
    assert r"\| \*bold\*" in text
    assert r"\[tables\](https\://example.org)" in text
    assert r"& $x$".replace("&", "&amp;").replace("$", r"\$") in text
    assert not re.search(r"(?<!\\)[$@]|https?://|www\.", text)
    assert f"| AUC | {result['metrics']['federated']['auc']:.3f} |" in text
    assert "|---|---:|---:|\n| records |" in text
    assert "- Not 心 alone.\n" in text


def test_the_card_is_one_that_hugging_face_reads(written: tuple[str, str]) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="an extra")
    data = hub.ModelCard(written[1]).data
    assert data.model_name == "tiny"
    assert {result.metric_type for result in data.eval_results} >= {"auc", "brier", "loss"}


def test_a_run_without_sums_gets_one_line_and_no_such_picture(run: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    (old / JUDGED).unlink()
    written = write_report(old, old)
    (line,) = written.missing
    assert "judged.safetensors" in line
    page = Read(written.report.read_text("utf-8"))
    assert line in page.words
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 2


def test_damaged_and_mixed_folders_are_refused(run: Path, tmp_path: Path) -> None:
    def refusal(name: str, file: str, content: bytes) -> FedwardError:
        folder = Path(shutil.copytree(run, tmp_path / name))
        (folder / file).write_bytes(content)
        with pytest.raises(FedwardError) as refused:
            write_report(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert file in refused.value.line()
        return refused.value

    result = json.loads((run / "result.json").read_text("utf-8"))
    other = result | {"study": {"name": "tiny", "digest": "0" * 64}}
    assert "another study" in refusal("a", "result.json", json.dumps(other).encode()).line()
    assert isinstance(refusal("b", "result.json", b"{"), DataError)
    assert isinstance(refusal("c", "rounds.csv", b"\xff\xfe"), DataError)
    assert isinstance(refusal("d", JUDGED, b"\0" * 9), DataError)
    rounds = (run / "rounds.csv").read_bytes().splitlines()
    for number, row in enumerate((b"x," * 20, b",".join([b"1"] * 2 + [b"many"] * 20))):
        damaged = b"\n".join([*rounds, row])
        assert isinstance(refusal(f"e{number}", "rounds.csv", damaged), DataError)
    events = (b'{"event": "Answered"}', b'{"event": "Answered", "hospital": "a", "round": "x"}')
    for number, event in enumerate((*events, b"[" * 100_000)):
        assert isinstance(refusal(f"f{number}", "events.jsonl", event), DataError)
    federation = json.loads((run / "federation.json").read_text("utf-8"))
    for number, key in enumerate(("early_stopping", "evaluation_noise")):
        text = json.dumps({**federation, key: {}}).encode()
        assert isinstance(refusal(f"g{number}", "federation.json", text), DataError)
    with pytest.raises(OptionError, match=r"no study\.toml"):
        write_report(tmp_path, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot be written"):
        write_report(run, tmp_path / "file")


@pytest.mark.slow
def test_an_aggregator_s_run_says_what_it_does_not_know(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    registry = RunRegistry(tmp_path / "runs")
    registry.set_roster((sites.files["a"].parent.parent / "roster.json").read_bytes())
    run = registry.create(study, sign_study(study, sites.coordinator), seed=5, name="run")
    with Watched(list(sites.files.values())) as grid:
        make_app(lambda _: None)(grid, context(folder=str(run.folder)))
    written = write_report(run.folder, tmp_path / "out")
    page = Read(written.report.read_text("utf-8"))
    federation = json.loads((run.folder / "federation.json").read_text("utf-8"))

    assert float(page.tables["figures"]["loss"][0]) == federation["test"]["loss"]
    assert set(page.tables["hospitals"]) == set(sites.files)
    assert any("how many records" in line for line in written.missing)
    assert any("fedward hospital budget" in line for line in written.missing)
    assert {tag for tag, _ in page.tags} >= {"img"}
    assert federation["versions"]["torch"] in page.words


@pytest.mark.slow
def test_noisy_evaluation_is_said_and_drawn_from_what_can_be(tmp_path: Path) -> None:
    noisy = PRIVATE | {"evaluation_noise_multiplier": 0.05}
    run = run_of(tmp_path, privacy=noisy)
    written = write_report(run, run)
    told = read_told(run)
    assert isinstance(told.task, Classification)
    (line,) = roc_lines(told, told.task)
    area = np.trapezoid(line.curve.y, line.curve.x)
    assert area == pytest.approx(told.federation.test["auc"], abs=1e-9)
    assert any("16 bins" in line for line in written.missing)
    page = written.report.read_text("utf-8")
    assert "All figures have noise" in page
    assert "Patients (with noise) of the test part" in page


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression", "survival"])
def test_every_task_has_a_page(kind: str, tmp_path: Path) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "multiclass": {"kind": "multiclass"},
        "multilabel": {"kind": "multilabel", "classes": ["sick", "old"]},
        "regression": {"kind": "regression", "bounds": [0.0, 4.0]},
        "survival": {"kind": "survival", "intervals": [0.5, 1.0, 2.0]},
    }
    titles = {
        "multiclass": ["ROC", "Precision and recall", "Confusion table", "Calibration"],
        "multilabel": ["ROC", "Precision and recall", "Calibration"],
        "regression": [],
        "survival": ["Survival by risk"],
    }
    label = {"multilabel": ["sick", "old"], "regression": "years", "survival": ["years", "seen"]}
    data = tmp_path / "records.csv"
    rows = ["patient,age,size,diagnosis,sick,old,years,seen"]
    rng = np.random.default_rng(2)
    for number in range(COUNT):
        age, size, years = rng.normal(), rng.normal(), rng.exponential()
        words = f"{('benign', 'malignant')[number % 2]},{number % 2},{number // 2 % 2}"
        rows.append(f"{number},{age},{size},{words},{years},{int(number % 3 > 0)}")
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    study = study_of(data={"features": {"age": {}, "size": {}}}).model_dump(
        mode="json", exclude_none=True
    )
    study["data"]["label"] = label.get(kind, "diagnosis")
    chosen = tasks[kind]
    if kind == "multiclass":
        chosen["classes"] = ["benign", "malignant"]
    study["task"] = chosen
    options = Options(out=tmp_path / "run", data=data, seed=1, workers=1, baselines=False)
    simulate(parse_study(study), options, listener=lambda _: None, say=lambda _: None)
    written = write_report(tmp_path / "run", tmp_path / "out")
    drawn = pictures_of(read_told(tmp_path / "run")).pictures
    assert [picture.title for picture in drawn] == ["Learning curves", *titles[kind]]
    page = Read(written.report.read_text("utf-8"))
    if kind == "multilabel":
        told = read_told(tmp_path / "run")
        assert isinstance(told.task, Multilabel)
        assert set(page.tables["findings"]) == {"sick", "old"}
        areas = [np.trapezoid(line.curve.y, line.curve.x) for line in roc_lines(told, told.task)]
        known = told.federation.test["classes"]
        assert areas == pytest.approx([known["sick"]["auc"], known["old"]["auc"]], abs=1e-12)
        rings = rings_of(told, told.task, (told.sums or {})["federated.test"])
        for name, counts in page.tables["findings"].items():
            assert counts == []  # in cells of their own, see the page
            assert 0 <= rings.roc[name][1] <= 1
        assert set(rings.roc) == {"sick", "old"}
        assert set(rings.recall) | set(rings.silent) == {"sick", "old"}
