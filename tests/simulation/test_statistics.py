"""Federated statistics of pretended hospitals: exact if nothing hides, charged if it must be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fedward.client.app import open_site
from fedward.models.registry import settled
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.small_cells import Hidden, shown_for
from fedward.privacy.statistics import layout_of
from fedward.privacy.statistics_table import cells_of, norm_with_table, table_rows
from fedward.privacy.summaries import summarized
from fedward.simulation.statistics import Options, statistics, summed
from fedward.study.errors import FedwardError, OptionError
from fedward.study.study import Study, parse_study, read_study
from tests.simulation.conftest import study_of, write_images

ROOT = Path(__file__).resolve().parents[2]
HEART = ROOT.parent / "shared" / "data" / "uci_heart_disease"
SPANS = {
    "age": [20.0, 90.0],
    "resting_blood_pressure": [80.0, 200.0],
    "cholesterol": [100.0, 400.0],
    "max_heart_rate": [60.0, 220.0],
    "st_depression": [0.0, 4.0],
}
LOCAL: dict[str, Any] = {
    "mode": "local",
    "epsilon": 5.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
    "statistics_noise_multiplier": 2.0,
}
FEATURES: dict[str, Any] = {"age": {"span": [-2.0, 4.0]}, "size": {"span": [-2.0, 4.0]}}


def table_study(**tables: dict[str, Any]) -> Study:
    data = {"features": FEATURES, "statistics": {"bins": 4, "fewest": 3}}
    return study_of(**{**tables, "data": data})


def heart(scaling: str = "given", **privacy: Any) -> Study:  # noqa: ANN401
    values = read_study(ROOT / "examples" / "heart-disease.toml").model_dump(
        mode="json", exclude_none=True
    )
    values["data"] |= {"statistics": {"bins": 5, "fewest": 10}, "scaling": scaling}
    for name, ends in SPANS.items():
        feature = values["data"]["features"][name]
        if scaling == "measured":
            kept = {k: v for k, v in feature.items() if k == "absent"}
            values["data"]["features"][name] = {**kept, "bounds": ends}
        else:
            feature["span"] = ends
    if privacy:
        values["privacy"] = privacy
        values["data"]["parts"]["by"] = "hash"
    return parse_study(values)


def pooled(study: Study, folder: Path) -> tuple[Any, Any]:
    """The training records' raw values and labels, of all hospitals."""
    files = sorted((folder / "hospitals").glob("*/hospital.toml")) or sorted(
        folder.glob("*/hospital.toml")
    )
    parts = [open_site(file).load(settled(study).digest()).parts["train"] for file in files]
    return (
        np.concatenate([p.whole.double().numpy() for p in parts]),
        np.concatenate([p.whole_labels.numpy() for p in parts]),
    )


@pytest.mark.skipif(not HEART.is_dir(), reason=f"no heart disease data at {HEART}")
@pytest.mark.parametrize("scaling", ["given", "measured"])
def test_four_real_hospitals_give_the_pooled_mean_and_variance(
    scaling: str, tmp_path: Path
) -> None:
    study = heart(scaling)
    sums, epsilon = summed(study, Options(HEART), tmp_path, say=lambda _: None)
    inputs, labels = pooled(study, tmp_path)
    features = {m.name: m for m in (*study.data.measured, *study.data.spanned)}

    assert epsilon is None
    assert sums.patients == len(inputs) == 486
    assert [n.name for n in sums.numbers] == list(SPANS)
    for found in sums.numbers:
        feature = features[found.name]
        there = np.ones(len(inputs), dtype=bool)
        if feature.absent is not None:
            there = inputs[:, feature.absent] == 0
        raw = inputs[there, feature.place] * feature.scale + feature.center
        values = np.clip(raw, found.low, found.high)
        # Each of four hospitals rounds each sum to half of 2^-16.
        off = 4 * 2**-17 / len(values)
        slack = (1 if feature.absent is None else 3) * off + 1e-9
        half = (found.high - found.low) / 2
        assert found.mean(486) == pytest.approx(values.mean(), abs=half * slack)
        assert found.variance(486) == pytest.approx(values.var(), abs=half**2 * 3 * slack)
        bins = np.histogram(values, bins=5, range=(found.low, found.high))[0]
        edges = np.isclose((values - found.low) / (found.high - found.low) * 5 % 1, 0)
        assert np.abs(found.cells - bins).sum() <= 2 * edges.sum() * (found.name == "st_depression")
        assert found.absent is None or round(found.absent) == int((~there).sum())
    assert sums.classes is not None
    assert np.rint(sums.classes.cells).tolist() == np.bincount(labels).tolist()
    assert {c.name for c in sums.categories} == {"chest_pain", "resting_ecg"}
    for category in sums.categories:
        assert category.cells.sum() == pytest.approx(486, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_noise_is_paid_for_once_and_has_the_deviation_that_was_paid(
    secure: bool, table: Path, tmp_path: Path
) -> None:
    study = table_study(privacy=LOCAL, aggregation={"strategy": "fedavg", "secure": secure})
    sums, epsilon = summed(study, Options(table), tmp_path, say=lambda _: None)
    sites = [open_site(file) for file in sorted(tmp_path.glob("*/hospital.toml"))]

    assert epsilon == epsilon_of([SampledGaussian(2.0, 1.0, 1)], 1e-3, "rdp")
    assert len(sites) == 3
    for site in sites:
        (entry,) = site.ledger.entries()
        assert (entry.charge.round, entry.charge.steps) == (0, SampledGaussian(2.0, 1.0, 1))
    off = []
    for seed in range(8):
        folder = tmp_path / str(seed)
        noisy, _ = summed(study, Options(table, seed), folder, say=lambda _: None)
        _, labels = pooled(study, folder)
        exact = np.bincount(labels, minlength=2)  # two records a patient, of one class
        assert noisy.classes is not None
        off += [*(noisy.classes.cells - exact / 2)]
    wanted = 2.0 * norm_with_table(settled(study)) * math.sqrt(3)
    assert 0.5 * wanted < np.std(off) < 1.7 * wanted
    assert sums.patients == noisy.patients


def test_one_patient_s_row_is_within_the_norm(table: Path, tmp_path: Path) -> None:
    study = table_study()
    summed(study, Options(table), tmp_path, say=lambda _: None)
    inputs, labels = pooled(study, tmp_path)
    rows = table_rows(inputs, labels, study)

    assert rows.shape == (len(inputs), cells_of(study))
    # Two histograms and a class of length 1, and what the moments are at most.
    assert norm_with_table(study) == pytest.approx(math.sqrt(2 + 2 + 1))
    assert (rows[:, 4:] ** 2).sum(axis=1).tolist() == [3.0] * len(rows)


def test_no_more_is_answered_than_the_study_asks_for() -> None:
    without = study_of(data={"features": {"age": {"bounds": [-2.0, 4.0]}}, "scaling": "measured"})

    assert cells_of(without) == 0
    assert layout_of(without.data, cells=cells_of(without)).metrics == 3
    assert cells_of(table_study()) == 2 * 2 + 2 * 4 + 2


def test_a_study_that_asks_for_none_is_told_none(table: Path) -> None:
    with pytest.raises(OptionError, match="asks for no statistics"):
        statistics(study_of(), Options(table), say=lambda _: None)


@pytest.mark.slow
def test_a_training_run_and_the_statistics_stay_within_the_study_s_epsilon() -> None:
    """The rounds leave room for what the statistics cost, though a run does not measure them."""
    from fedward.privacy.schedule import epsilon_after

    study = table_study(privacy=LOCAL)
    spent = epsilon_after(settled(study), 2)

    assert spent is not None
    assert 4.9 < spent <= 5.0


def test_small_cells_are_hidden_in_what_is_told(table: Path) -> None:
    told = statistics(table_study(), Options(table), say=lambda _: None).statistics
    cells = [cell for number in told.numbers.values() for cell in number.cells]

    assert any(cell is Hidden.SMALL for cell in cells)
    assert all(cell >= 3 for cell in cells if isinstance(cell, int))
    assert json.loads(told.model_dump_json())["fewest"] == 3


def test_too_few_patients_have_no_table(table: Path) -> None:
    data = {"features": FEATURES, "statistics": {"fewest": 500}}

    with pytest.raises(FedwardError, match="fewer than 500"):
        statistics(study_of(data=data), Options(table), say=lambda _: None)


def test_the_command_shows_it(table: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from fedward.cli.main import app

    file, out = tmp_path / "study.toml", tmp_path / "table.json"
    values = table_study().model_dump(mode="json", exclude_none=True)
    file.write_text(tomli_w.dumps(values), encoding="utf-8")
    done = CliRunner().invoke(app, ["stats", str(file), "--data", str(table), "--out", str(out)])

    assert done.exit_code == 0, done.output
    assert set(json.loads(out.read_text("utf-8"))["numbers"]) == {"number", "age", "size"} - {
        "number"
    }


def picture_study(**tables: dict[str, Any]) -> Study:
    values = study_of().model_dump(mode="json", exclude_none=True)
    parts = {"by": "hash", "train": 0.6, "validation": 0.2, "test": 0.2}
    values["data"] = {
        **{"kind": "images", "shape": [1, 8, 8], "parts": parts},
        "statistics": {"bins": 10, "fewest": 3},
    }
    values["model"] = {"name": "linear"}
    return parse_study(values | tables)


def test_pictures_give_the_histograms_of_all_pictures_together(tmp_path: Path) -> None:
    study = picture_study()
    data = write_images(tmp_path / "pictures", 48)
    sums, epsilon = summed(study, Options(data), tmp_path / "run", say=lambda _: None)
    pictures, labels = pooled(study, tmp_path / "run")
    pixels = pictures[:, 0].reshape(len(pictures), -1) * 0.5 + 0.5
    wanted = {
        "mean": (pixels.mean(axis=1), 1.0),
        "deviation": (pixels.std(axis=1), 0.5),
        "low": (np.quantile(pixels, 0.05, axis=1), 1.0),
        "high": (np.quantile(pixels, 0.95, axis=1), 1.0),
    }

    assert epsilon is None
    assert sums.patients == len(pictures) > 20
    assert [n.name for n in sums.numbers] == list(wanted)
    for found in sums.numbers:
        values, high = wanted[found.name]
        assert (found.low, found.high, found.absent) == (0.0, high, None)
        np.testing.assert_allclose(
            found.cells, np.histogram(values, bins=10, range=(0, high))[0], atol=1e-3
        )
        assert found.mean(sums.patients) == pytest.approx(values.mean(), abs=1e-4)
    assert sums.classes is not None
    assert np.rint(sums.classes.cells).tolist() == np.bincount(labels).tolist()


@pytest.mark.slow
def test_pictures_of_a_private_study_are_noised_and_charged_as_tables_are(tmp_path: Path) -> None:
    study = picture_study(privacy=LOCAL)
    data = write_images(tmp_path / "pictures", 60)
    sums, epsilon = summed(study, Options(data), tmp_path / "run", say=lambda _: None)

    assert epsilon == epsilon_of([SampledGaussian(2.0, 1.0, 1)], 1e-3, "rdp")
    for file in sorted((tmp_path / "run").glob("*/hospital.toml")):
        (entry,) = open_site(file).ledger.entries()
        assert (entry.charge.round, entry.charge.steps) == (0, SampledGaussian(2.0, 1.0, 1))
    pictures, labels = pooled(study, tmp_path / "run")
    exact = table_rows(summarized(pictures, study.data), labels, study).sum(axis=0)
    found = np.concatenate([n.cells for n in sums.numbers])
    off = found - exact[8 : 8 + len(found)]
    wanted = 2.0 * norm_with_table(settled(study)) * math.sqrt(3)
    assert 0.6 * wanted < off.std() < 1.5 * wanted
    table = shown_for(settled(study), sums)
    assert table.deviation == pytest.approx(wanted)
    assert table.study == settled(study).digest()
