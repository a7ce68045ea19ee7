"""A task whose evaluation has noise: each patient's sums are bounded, and the noisy ones mended.

A patient adds the mean over the patient's records of

    [ 1 | loss / bound | confusion (classes x classes) | histograms with 16 bins ]

in which a record counts as 1 in one place of the confusion counts and of each class's histograms,
and its loss is cut to a public bound. Each of these blocks has a norm of at most 1, so a patient's
vector is at most sqrt(blocks) long. What is counted over hospitals are patients, not records.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedward.models import scores
from fedward.models.tasks.any_task import Sums
from fedward.models.tasks.classification import Classification, log_odds_of
from fedward.study.privacy import LocalPrivacy
from fedward.study.task import ClassTask

_TIMES_UNKNOWING = 4  # the bound of a loss, in units of the loss of a model that knows nothing
_FEWEST = 1.0  # patients; below that nothing is known


class NoisedClassification(Classification):
    """The same task, for a study whose evaluation has noise.

    Every bin has the same noise, so bins are few.
    """

    bins = 16

    def __init__(self, task: ClassTask, privacy: LocalPrivacy, noise_multiplier: float) -> None:
        """Take classes and threshold from the study.

        Args:
            task: The study's.
            privacy: The study's.
            noise_multiplier: Standard deviation of the noise in units of `norm`, > 0.
        """
        super().__init__(task)
        self.records_per_patient = privacy.records_per_patient
        self._noise_multiplier = noise_multiplier

    @property
    def reals(self) -> tuple[int, ...]:
        """All of them: noise is in every place."""
        return tuple(range(self.size))

    @property
    def norm(self) -> float:
        """Largest L2 norm of what one patient adds: public."""
        return math.sqrt(3 + len(self._scored))

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise that each hospital adds to each of its sums."""
        return self._noise_multiplier * self.norm

    @property
    def loss_bound(self) -> float:
        """What a record's loss is cut to, in nats: public."""
        return _TIMES_UNKNOWING * math.log(self._classes)

    def patient_vectors(self, outputs: Tensor, labels: Tensor, patients: Tensor) -> Sums:
        """What each patient adds, shape (m, size); a row for each different patient.

        Args:
            outputs: Logits, shape (n, classes), finite.
            labels: Class numbers, shape (n,), int64.
            patients: Of each record, shape (n,).
        """
        k = self._classes
        loss = self.plain_loss(outputs, labels).double().clamp(0, self.loss_bound) / self.loss_bound
        places = [torch.zeros_like(labels), 2 + labels * k + self._called(outputs)]
        for number, positive in enumerate(self._scored):
            pair = 2 * number + (labels == positive).long()
            place = scores.bin_of(log_odds_of(outputs, positive), self.bins)
            places.append(2 + k * k + pair * self.bins + place)
        names, row, records = patients.unique(return_inverse=True, return_counts=True)
        share = records.double().reciprocal()[row]
        vectors = torch.zeros(len(names), self.size, dtype=torch.float64, device=outputs.device)
        vectors[:, 1].index_add_(0, row, loss * share)
        for place in places:
            vectors.index_put_((row, place), share, accumulate=True)
        found: Sums = vectors.cpu().numpy()
        return found

    def threshold(self, validation: Sums | None) -> float:
        """The probability from which a binary task calls the finding, as without noise."""
        return super().threshold(None if validation is None else self._possible(validation))

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Metrics of noisy sums, after noise is kept from making them impossible."""
        return super().metrics(self._possible(sums), threshold)

    def scored(self, sums: Sums) -> list[tuple[Sums, Sums]]:
        """Scores of noisy sums, after noise is kept from making them impossible."""
        return super().scored(self._possible(sums))

    def table(self, sums: Sums, threshold: float = 0.5) -> Sums:
        """Patients by the class that they have and are called, likewise."""
        return super().table(self._possible(sums), threshold)

    def _called(self, outputs: Tensor) -> Tensor:
        """The class that each record is called, at the study's threshold where it has one."""
        if self._binary and isinstance(self._threshold, float):
            odds = self._threshold / (1 - self._threshold)
            return (log_odds_of(outputs, 1) >= math.log(odds)).long()
        return outputs.argmax(dim=1)

    def _confusion(self, sums: Sums, threshold: float) -> tuple[float, float, float, float]:
        """Exactly at the study's threshold; a chosen one is an edge of the few bins."""
        if isinstance(self._threshold, float):
            tn, fp, fn, tp = map(float, sums[2:6])
            return tn, fp, fn, tp
        return super()._confusion(sums, threshold)

    def _possible(self, sums: Sums) -> Sums:
        """The nearest sums that patients can have, block by block; zeros for fewer than one.

        No count is negative, those of a block come to the patients of the block, and the loss is
        within its bound.
        """
        k, patients = self._classes, float(sums[0])
        if patients < _FEWEST:
            return np.zeros(self.size)
        loss = min(max(float(sums[1]), 0.0), patients) * self.loss_bound
        confusion = _nearest(sums[2 : 2 + k * k], patients)
        of_class = confusion.reshape(k, k).sum(axis=1)
        blocks = [np.array([patients, loss]), confusion]
        for positive, (others, own) in zip(self._scored, self._histograms(sums), strict=True):
            blocks += [
                _nearest(others, patients - float(of_class[positive])),
                _nearest(own, float(of_class[positive])),
            ]
        return np.concatenate(blocks)


def _nearest(values: Sums, total: float) -> Sums:
    """The nearest vector (L2) without negative entries whose sum is `total`, >= 0.

    Duchi et al. 2008, "Efficient projections onto the l1-ball", algorithm 1.
    """
    if total <= 0:
        return np.zeros_like(values)
    falling = np.sort(values)[::-1]
    over = (np.cumsum(falling) - total) / np.arange(1, len(values) + 1)
    kept = int(np.flatnonzero(falling >= over)[-1])
    found: Sums = np.maximum(values - over[kept], 0.0)
    return found
