"""The metric when labels come later: what is told, of how many, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from fedward.clinic.watching.kept_scores import Bounds
from fedward.clinic.watching.told import Watching, as_json, watching
from fedward.study.errors import DataError, OptionError
from tests.clinic.watching.conftest import Begin

COUNT = 60


@pytest.fixture
def logits() -> np.ndarray:
    found: np.ndarray = np.random.default_rng(8).normal(size=(COUNT, 2)).astype(np.float32)
    return found


@pytest.fixture
def kept(begin: Begin, logits: np.ndarray) -> Path:
    """A folder with 60 answers."""
    watch = begin(keep=Bounds(100, 30))
    pictures = np.zeros((COUNT, 1, 12, 12), np.float32)
    for number in range(COUNT):
        watch.saw(pictures[:1], logits[number : number + 1], f"id {number}")
    watch.close()
    return watch.files.counts.parent


def later(kept: Path, lines: list[str], head: str = "id,label") -> Watching:
    file = kept / "labels.csv"
    file.write_text("\n".join([head, *lines]) + "\n")
    return watching(kept, "chest", file)


def test_it_is_scikit_learn_s_over_the_records_that_have_both(
    kept: Path, logits: np.ndarray
) -> None:
    truth = np.arange(COUNT) % 3 == 0
    words = np.where(truth, "ill", "healthy")
    lines = [f"id {n},{words[n]}" for n in range(50)]
    lines += [f"id {n}," for n in range(50, COUNT)]  # not yet known
    told = later(kept, [*reversed(lines), "id 99,ill"])
    score = 1 / (1 + np.exp(-np.diff(logits[:50].astype(float))[:, 0]))

    assert told.figures is not None
    assert told.figures.records == 50
    found = told.figures.metrics
    assert found["auc"] == round(roc_auc_score(truth[:50], score), 2)
    assert found["sensitivity"] == round(recall_score(truth[:50], score >= 0.5), 2)
    assert watching(kept, "chest").figures == told.figures


def test_one_label_more_moves_nothing_and_as_many_as_may_be_spoken_of_do(kept: Path) -> None:
    def of(numbers: list[int]) -> bytes:
        told = later(kept, [f"id {n},{'ill' if n % 2 else 'healthy'}" for n in numbers])
        assert told.figures == watching(kept, "chest").figures
        assert told.figures is not None
        assert all(round(value, 2) == value for value in told.figures.metrics.values())
        assert told.figures.records % 10 == 0
        return as_json([told])

    first = [*range(25)]
    shown = of(first)
    for numbers in (range(26), range(34), range(24), range(1, 26), range(5), range(9, 34)):
        assert of([*numbers]) == shown, numbers
    moved = of([*range(35)])
    assert moved != shown
    assert of([*range(36)]) == moved
    assert of([*range(20, 45)]) != moved  # as many as before, ten of them new
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept.glob("*.judged"))


def test_a_class_of_few_has_no_figure_of_its_own(kept: Path) -> None:
    told = later(kept, [f"id {n},{'ill' if n < 9 else 'healthy'}" for n in range(COUNT)])

    assert told.figures is not None
    assert set(told.figures.metrics) == {"accuracy", "brier"}


def test_few_labels_are_not_spoken_of(kept: Path) -> None:
    told = later(kept, [f"id {n},ill" for n in range(9)] + [f"unknown {n},ill" for n in range(50)])

    assert told.figures is not None
    assert (told.figures.records, told.figures.metrics) == (0, {})


@pytest.mark.parametrize(
    ("lines", "head", "said"),
    [
        (["id 1,ill", "id 1,ill"], "id,label", "stands twice"),
        (["id 1,ill"], "name,label", "no column 'id'"),
        (["id 1,ill"], "id,diagnosis", "no column 'label'"),
        ([f"id {n},purple" for n in range(20)], "id,label", "'purple' of record 1 is none of"),
    ],
)
def test_what_cannot_be_is_refused(kept: Path, lines: list[str], head: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        later(kept, lines, head)


def test_without_kept_answers_nothing_can_be_judged(begin: Begin) -> None:
    watch = begin()
    watch.close()
    with pytest.raises(DataError, match="--keep-scores"):
        later(watch.files.counts.parent, ["id 1,ill"])


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    from fedward.clinic.watching.folder import models_in

    with pytest.raises(OptionError, match="no model is watched there"):
        models_in(tmp_path)
