"""A service puts a record into the cells that a hospital put it into."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedward.client.scaling import centered
from fedward.clinic.watching.cells import SCORE_BINS, histograms_of, placed
from fedward.models import scores
from fedward.privacy.statistics_table import table_rows
from fedward.privacy.summaries import summarized
from fedward.study.scaling import Scaling
from fedward.study.study import Study
from tests.clinic.serving.small_models import study_of

TABLE: dict[str, Any] = {
    "kind": "table",
    "label": "ill",
    "scaling": "measured",
    "features": {
        "age": {"bounds": [20.0, 90.0]},
        "sex": {"categories": ["f", "m", "x"]},
        "sugar": {"bounds": [100.0, 400.0], "absent": 0.0},
        "size": {"center": 170.0, "scale": 10.0, "span": [120.0, 220.0]},
    },
    "statistics": {"bins": 7, "fewest": 2},
}
LETTERS: dict[str, Any] = {
    **{"kind": "sequence", "alphabet": ["A", "C", "G", "T"], "length": 12},
    "statistics": {"bins": 5},
}


def rows(count: int) -> np.ndarray:
    """As a hospital's reader gives them, not scaled where constants are measured."""
    random = np.random.default_rng(3)
    sugar = np.where(random.uniform(size=count) < 0.3, 0.0, random.uniform(50, 450, count))
    sex = np.eye(3)[random.integers(0, 3, count)]
    age, size = random.uniform(10, 99, count), random.normal(0, 3, count)
    return np.column_stack([age, sex, sugar, sugar == 0, size]).astype(np.float32)


def counted(study: Study, inputs: np.ndarray, scaling: Scaling | None = None) -> dict[str, Any]:
    said = np.zeros((len(inputs), 2), np.float32)
    histograms = histograms_of(study, scaling)
    found = placed(histograms, study, inputs, said)
    return {
        h.name: np.bincount(places[places >= 0], minlength=h.cells)
        for h, places in zip(histograms, found, strict=True)
        if h.kind != "score"
    }


def test_a_row_scaled_by_measured_constants_is_in_the_hospital_s_cell() -> None:
    study, raw = study_of(TABLE), rows(300)
    scaling = Scaling((55.0, 250.0), (12.5, 80.0))
    seen = centered(torch.from_numpy(raw), study.data, scaling).numpy()
    hospital = table_rows(raw.astype(np.float64), np.zeros(300, int), study)[:, 2:].sum(axis=0)

    found = counted(study, seen, scaling)

    assert list(found) == ["age", "sugar", "size", "sex"]
    age, sugar, size, sex = np.split(hospital[:24], [7, 14, 21])
    # A constant divides and multiplies a float32: a value at an edge may cross it.
    for name, wanted in (("age", age), ("sugar", sugar)):
        assert np.abs(found[name][-7:] - wanted).sum() <= 2, name
    assert found["sugar"][0] == np.sum(raw[:, 5])
    assert found["size"].tolist() == size.tolist()
    assert found["sex"].tolist() == sex.tolist()


def test_sequences_of_any_length_are_counted_as_at_the_hospitals() -> None:
    study = study_of(LETTERS)
    tokens = np.random.default_rng(4).integers(0, 6, (50, 12))
    hospital = table_rows(summarized(tokens, study.data), np.zeros(50, int), study).sum(axis=0)

    found = counted(study, tokens)

    names = ["length", "variety", "unknown", *(f"share of {letter}" for letter in "ACGT")]
    assert list(found) == names
    assert np.concatenate([*found.values()]).tolist() == hospital[14:-2].tolist()
    assert all(cells.sum() == 50 for cells in counted(study, np.tile(tokens, 3)).values())
    assert all(cells.sum() == 50 for cells in counted(study, tokens[:, :1]).values())


def test_scores_are_in_the_cells_of_those_that_judged_the_model() -> None:
    logits = torch.randn(500, 2, generator=torch.Generator().manual_seed(1)) * 5
    study = study_of({"kind": "images", "shape": [1, 4, 4]})
    (histogram,) = histograms_of(study)
    (found,) = placed((histogram,), study, np.zeros((500, 1, 4, 4)), logits.numpy())
    fine = scores.histogram(logits[:, 1] - logits[:, 0])

    assert (histogram.kind, histogram.name) == ("score", "ill")
    counts = np.bincount(found, minlength=SCORE_BINS)
    assert counts.tolist() == fine.reshape(SCORE_BINS, -1).sum(axis=1).tolist()


def test_several_classes_and_findings_each_have_a_histogram() -> None:
    pictures = {"kind": "images", "shape": [1, 4, 4]}
    several = study_of(pictures, {"kind": "multiclass", "classes": ["a", "b", "c"]})
    findings = study_of(
        {**pictures, "label": ["x", "y"]}, {"kind": "multilabel", "classes": ["x", "y"]}
    )
    number = study_of(pictures, {"kind": "regression", "bounds": [0.0, 9.0]})

    assert [h.name for h in histograms_of(several)] == ["a", "b", "c"]
    assert [h.name for h in histograms_of(findings)] == ["x", "y"]
    assert histograms_of(number) == ()
