"""The record itself, from few numbers: features, or how unusual a record is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward.models import scores
from fedward.models.tasks.any_task import Sums, Task

_LARGEST = 1e3


class Reconstruction(Task):
    """A record's own numbers, from outputs of shape (n, numbers + 1).

    The last column is the price of the record's code, which a variational model pays and another
    does not (0). The sums are `[records, loss, squared errors, histogram of the records' errors]`:
    an error, the mean square over a record's numbers, is counted in the bin of its logarithm, as
    scores are. Two such histograms, of records with and without a finding, have an AUC.
    """

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 3 + scores.BINS

    @property
    def reals(self) -> tuple[int, ...]:
        """Places among the sums that hold no whole numbers."""
        return (1, 2)

    def truth(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The records' own numbers, shape (n, numbers)."""
        del labels
        return inputs.flatten(1)

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of each record's numbers, shape (n,)."""
        return (outputs[:, :-1] - labels).square().mean(dim=1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The error and the price of the code, shape (n,)."""
        return self.errors(outputs, labels) + outputs[:, -1]

    def bounded(self, outputs: Tensor) -> Tensor:
        """Outputs of at most 1000, 0 where they were not finite."""
        known = torch.where(outputs.isfinite(), outputs, outputs.new_zeros(()))
        return known.clamp(-_LARGEST, _LARGEST)

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records; an error counts 4e6 at most, for a sum has an end."""
        errors = self.errors(outputs.double(), labels.double()).clamp(max=4 * _LARGEST**2)
        loss = (errors + outputs[:, -1].double()).sum().item()
        head = np.array([len(labels), loss, errors.sum().item()])
        return np.concatenate([head, scores.histogram(errors.clamp(min=1e-30).log())])

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Mean error, and the errors that half and 95 % of the records stay within."""
        del threshold
        records = float(sums[0])
        if records == 0:
            return {"records": 0, "loss": None, "error": None}
        return {
            "records": round(records),
            "loss": float(sums[1]) / records,
            "error": float(sums[2]) / records,
            "error_median": _quantile(sums[3:], 0.5),
            "error_95": _quantile(sums[3:], 0.95),
        }


def _quantile(counts: NDArray[np.float64], share: float) -> float:
    """Upper edge of the bin that a share of the records lies up to."""
    place = int(np.searchsorted(counts.cumsum(), share * counts.sum()))
    p = scores.probability_at(min(place + 1, scores.BINS))
    return math.exp(math.log(p / (1 - p))) if p < 1 else math.inf
