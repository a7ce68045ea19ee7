"""Curves of histograms are those of the scores that were counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from fedward.clinic import curves
from fedward.clinic.pictures import Line, precision_recall, roc
from fedward.models import scores
from fedward.models.tasks.survival import Survival
from fedward.study.task import SurvivalTask

rng = np.random.default_rng(3)
TRUTH = rng.integers(0, 2, 700)
SCORES = torch.from_numpy(rng.normal(size=700) + TRUTH)
NEGATIVES, POSITIVES = (scores.histogram(SCORES[torch.from_numpy(k == TRUTH)]) for k in (0, 1))


def test_the_area_below_the_drawn_line_is_the_auc() -> None:
    curve = curves.roc(NEGATIVES, POSITIVES)
    assert curve is not None
    figure = roc([Line("federated", curve)], [], "")
    (drawn,) = [line for line in figure.axes[0].lines if line.get_label() == "federated"]
    x, y = np.asarray(drawn.get_xydata()).T
    assert np.trapezoid(y, x) == pytest.approx(scores.auc(NEGATIVES, POSITIVES), abs=1e-12)
    bins = scores.bin_of(SCORES).numpy()
    for lowest in (0, 300, 512, 600, 1024):  # of the bins that are called
        assert x[1024 - lowest] == pytest.approx((bins[TRUTH == 0] >= lowest).mean())
        assert y[1024 - lowest] == pytest.approx((bins[TRUTH == 1] >= lowest).mean())


def test_the_area_below_the_drawn_steps_is_the_average_precision() -> None:
    curve = curves.precision_recall(NEGATIVES, POSITIVES)
    assert curve is not None
    figure = precision_recall([Line("federated", curve)], [], "", 0.5)
    (drawn,) = [line for line in figure.axes[0].lines if line.get_label() == "federated"]
    assert drawn.get_drawstyle() == "steps-pre"
    x, y = np.asarray(drawn.get_xydata()).T
    known = scores.average_precision(NEGATIVES, POSITIVES)
    assert float((np.diff(x) * y[1:]).sum()) == pytest.approx(known, abs=1e-12)
    precision, recall, _ = precision_recall_curve(TRUTH, SCORES.numpy())
    middle = (recall > 0.2) & (recall < 1)
    assert np.abs(np.interp(recall[middle], x, y) - precision[middle]).max() < 0.03


def test_calibration_is_scikit_learn_s_to_the_width_of_a_bin() -> None:
    (given, seen), records = curves.reliability(NEGATIVES, POSITIVES)
    known_seen, known_given = calibration_curve(TRUTH, torch.sigmoid(SCORES).numpy(), n_bins=10)
    assert records.sum() == 700
    assert np.abs(given - known_given).max() < 0.01
    assert np.abs(seen - known_seen).max() < 0.05  # some records are on the edge of a group
    error = (np.abs(given - seen) * records).sum() / 700
    assert error == pytest.approx(scores.calibration_error(NEGATIVES, POSITIVES))


def test_there_is_no_curve_where_a_class_is_missing() -> None:
    nobody = np.zeros(1024)
    assert curves.roc(nobody, POSITIVES) is None
    assert curves.roc(NEGATIVES, nobody) is None
    assert curves.precision_recall(NEGATIVES, nobody) is None


def test_the_life_table_by_hand() -> None:
    """Ten at first: two events of 10; then a loss and an event of 8 - 1/2; then 4 are left."""
    counts = np.zeros((4, 4, 2))
    counts[1] = [[0, 2], [1, 1], [2, 0], [4, 0]]
    (group,) = curves.survival_by_risk(counts, np.array([1.0, 2.0, 3.0]), ("all",))
    assert group.records == 10
    assert group.survival.x.tolist() == [0, 1, 2, 3]
    after = 0.8 * (1 - 1 / 7.5)
    assert group.survival.y == pytest.approx([1, 0.8, after, after])


def test_groups_of_higher_risk_survive_less() -> None:
    risk = torch.linspace(-3, 3, 900)
    times = torch.from_numpy(rng.exponential(np.exp(-risk.numpy())) + 1e-3).float()
    task = Survival(SurvivalTask(kind="survival", intervals=(1.0, 2.0, 4.0), loss="cox"))
    sums = task.sums(risk.unsqueeze(1), torch.stack([times, torch.ones(900)], dim=1))
    groups = curves.survival_by_risk(task.counted(sums), task.ends, ("low", "middle", "high"))

    assert [g.name for g in groups] == ["low", "middle", "high"]
    assert sum(g.records for g in groups) == 900
    assert all(250 < g.records < 350 for g in groups)
    low, middle, high = (g.survival.y for g in groups)
    assert (low >= middle[: len(low)]).all()
    assert (middle[: len(high)] >= high).all()
    first = float((times[600:] >= 1.0).float().mean())
    at_one = high[groups[2].survival.x == 1.0]
    assert at_one == pytest.approx(first, abs=0.02)  # nobody was lost: the share that is left
