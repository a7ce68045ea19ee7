"""What sums up a record that is no row of a table: by hand, within its bounds, and paid for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedward.privacy.statistics import clipped_sum
from fedward.privacy.statistics_table import (
    cells_of,
    norm_with_table,
    numbers_of,
    table_rows,
)
from fedward.privacy.summaries import summarized
from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study

STATISTICS: dict[str, Any] = {"bins": 4, "fewest": 3}
PICTURES: dict[str, Any] = {"kind": "images", "shape": [2, 3, 4], "center": 0.4, "scale": 0.2}
SIGNALS: dict[str, Any] = {
    **{"kind": "signals", "channels": ["II", "V1"], "rate": 50, "length": 6, "shorter": "pad"},
    "statistics": {**STATISTICS, "span": [-2.0, 3.0]},
}
LETTERS: dict[str, Any] = {"kind": "sequence", "alphabet": ["A", "C", "G", "T"], "length": 8}
TEXTS: dict[str, Any] = {"kind": "text", "vocabulary": ["ill", "well"], "length": 5}


def study(data: dict[str, Any], **tables: Any) -> Study:  # noqa: ANN401
    return parse_study(
        {
            "study": {"name": "sums"},
            "task": {"kind": "binary", "classes": ["healthy", "ill"]},
            "model": {"name": "any"},
            "data": {"statistics": STATISTICS, **data},
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
            **tables,
        }
    )


def test_a_picture_s_numbers_are_in_units_of_a_pixel_s_range() -> None:
    pixels = np.random.default_rng(1).uniform(0, 1, (5, 2, 3, 4))
    seen = ((pixels - 0.4) / 0.2).astype(np.float32)
    found = study(PICTURES)

    rows = summarized(seen, found.data)
    numbers = numbers_of(found.data)
    values = np.stack([rows[:, n.place] * n.scale + n.center for n in numbers], axis=1)

    assert [n.name for n in numbers][:5] == [
        *(f"channel 1 {what}" for what in ("mean", "deviation", "low", "high")),
        "channel 2 mean",
    ]
    flat = pixels.reshape(5, 2, -1)
    for channel in (0, 1):
        own = flat[:, channel]
        wanted = [own.mean(1), own.std(1), *np.quantile(own, (0.05, 0.95), axis=1)]
        got = values[:, 4 * channel : 4 * channel + 4]
        np.testing.assert_allclose(got, np.stack(wanted, 1), atol=1e-6)
    assert [(n.low, n.high) for n in numbers][:2] == [(0.0, 1.0), (0.0, 0.5)]


def test_a_signal_s_channels_are_summed_up_without_the_padding_s() -> None:
    found = study(SIGNALS)
    inputs = np.zeros((1, 3, 6), np.float32)
    inputs[0, 0], inputs[0, 1], inputs[0, 2] = 1.0, [0, 1, 2, 3, 4, 5], 99.0

    row = summarized(inputs, found.data)[0]

    names = [n.name for n in numbers_of(found.data)]
    assert dict(zip(names, row.tolist(), strict=True)) == pytest.approx(
        {
            **{"II mean": 1.0, "II deviation": 0.0, "II low": 1.0, "II high": 1.0},
            **{"V1 mean": 2.5, "V1 deviation": math.sqrt(35 / 12), "V1 low": 0.25},
            "V1 high": 4.75,
        }
    )


def test_letters_and_words_are_counted() -> None:
    letters, texts = study(LETTERS), study(TEXTS)
    of_letters = summarized(np.array([[2, 2, 3, 1, 0, 0, 0, 0], [0] * 8]), letters.data)
    of_words = summarized(np.array([[3, 3, 3, 3, 1]]), texts.data)

    names = ["length", "variety", "unknown", *(f"share of {letter}" for letter in "ACGT")]
    assert [n.name for n in numbers_of(letters.data)] == names
    assert of_letters.tolist() == [[0.5, 0.75, 0.25, 0.5, 0.25, 0, 0], [0] * 7]
    assert [n.name for n in numbers_of(texts.data)] == ["length", "variety", "unknown"]
    assert of_words.tolist() == [[1.0, 0.4, 0.2]]


@pytest.mark.parametrize("data", [PICTURES, SIGNALS, LETTERS, TEXTS], ids=lambda d: d["kind"])
def test_one_record_s_row_is_within_the_norm_and_in_one_cell_of_each(data: dict[str, Any]) -> None:
    found = study(data)
    random = np.random.default_rng(2)
    shape = (20, *found.data.input_shape)
    inputs: Any = random.normal(0, 50, shape).astype(np.float32)
    if data["kind"] in {"sequence", "text"}:
        inputs = random.integers(0, 4, shape)
    else:
        inputs[0], inputs[1] = math.nan, math.inf
    with np.errstate(invalid="ignore"):
        rows = table_rows(summarized(inputs, found.data), random.integers(0, 2, 20), found)

    numbers = len(numbers_of(found.data))
    assert rows.shape == (20, cells_of(found)) == (20, 2 * numbers + 4 * numbers + 2)
    assert norm_with_table(found) == pytest.approx(math.sqrt(2 * numbers + 1))
    norm, lengths = norm_with_table(found), np.linalg.norm(rows, axis=1)
    assert lengths.max() <= math.sqrt(3 * numbers + 1)
    for row, length in zip(rows, lengths, strict=True):
        given = clipped_sum(row[None], norm)
        assert np.linalg.norm(given) == pytest.approx(min(length, norm), rel=1e-12)
        np.testing.assert_allclose(given, row * min(1, norm / length), rtol=1e-12)
    if data["kind"] in {"images", "signals"}:
        assert lengths.max() > norm * 1.05, "values at their bounds are shrunk"
    cells = rows[:, 2 * numbers : -2].reshape(20, numbers, 4)
    assert np.array_equal(cells.sum(axis=2), np.ones((20, numbers)))


def test_what_was_agreed_on_before_has_the_digest_that_it_had() -> None:
    without = study({**PICTURES, "statistics": None})
    assert "statistics" not in without.contract()["data"]
    old = study(
        {
            "kind": "table",
            "label": "ill",
            "features": {"age": {"span": [0.0, 99.0]}},
        }
    )
    assert old.contract()["data"]["statistics"] == {"bins": 4, "fewest": 3}
    assert study(PICTURES).contract()["data"]["statistics"] == {"bins": 4, "fewest": 3}
    assert study(SIGNALS).contract()["data"]["statistics"]["span"] == [-2, 3]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({**SIGNALS, "statistics": STATISTICS}, "a span in statistics"),
        ({**PICTURES, "statistics": {**STATISTICS, "span": [0.0, 1.0]}}, "no span in statistics"),
        ({**SIGNALS, "statistics": {**STATISTICS, "span": [1.0, 1.0]}}, "ends are at least"),
    ],
)
def test_a_span_stands_where_it_is_needed_and_only_there(data: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        study(data)


def test_with_privacy_on_it_is_never_free() -> None:
    local = {"mode": "local", "epsilon": 5.0, "delta": 1e-3, "sampling_rate": 0.5}
    with pytest.raises(StudyError, match="statistics_noise_multiplier"):
        study(PICTURES, privacy=local)
    noisy = study(PICTURES, privacy={**local, "statistics_noise_multiplier": 2.0})
    with pytest.raises(StudyError, match="statistics_noise_multiplier"):
        study(
            {**PICTURES, "statistics": None}, privacy={**local, "statistics_noise_multiplier": 2.0}
        )
    assert noisy.data.summed
