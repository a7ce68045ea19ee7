"""Pictures like the records, of nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedward.models.picture_features import NUMBERS, features
from fedward.models.tasks.any_task import Sums, Task
from fedward.study.task import GenerationTask

_MOST_LOGIT = 100.0
_ABOVE = np.triu_indices(NUMBERS)
_MOMENTS = NUMBERS + len(_ABOVE[0])


class Generation(Task):
    """What a discriminator learns, and how far the generator's pictures are from the records.

    Outputs have shape (n, classes + 1 + numbers), see `fedward.models.gan`. The sums are `[records,
    loss]`, then sums of the records' features and of their products, then those of the pictures'.
    """

    def __init__(self, task: GenerationTask, shape: tuple[int, ...]) -> None:
        """Take the classes from the study's task.

        Args:
            task: The study's.
            shape: Of one record: channels, height, width.
        """
        self._classes = task.outputs
        self._shape = shape

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 2 + 2 * _MOMENTS

    @property
    def reals(self) -> tuple[int, ...]:
        """Places among the sums that hold no whole numbers."""
        return tuple(range(1, self.size))

    def truth(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The records' own numbers and their class, shape (n, numbers + 1); 0 where there is none.

        A class is a small whole number, which any type of the inputs holds exactly.
        """
        kinds = labels if labels.ndim == 1 else labels.new_zeros(len(labels))
        return torch.cat([inputs.flatten(1), kinds.unsqueeze(1).to(inputs)], dim=1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """-log D(record) - log(1 - D(picture)), shape (n,) (Goodfellow et al. 2014, equation 1)."""
        kinds = labels[:, -1:].long()
        real = outputs[:, : self._classes].gather(1, kinds).squeeze(1)
        return functional.softplus(-real) + functional.softplus(outputs[:, self._classes])

    def bounded(self, outputs: Tensor) -> Tensor:
        """Logits of at most 100 and pixels between -1 and 1, 0 where they were not finite."""
        known = torch.where(outputs.isfinite(), outputs, outputs.new_zeros(()))
        logits, pixels = known.tensor_split([self._classes + 1], dim=1)
        return torch.cat([logits.clamp(-_MOST_LOGIT, _MOST_LOGIT), pixels.clamp(-1, 1)], dim=1)

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records, and over as many pictures."""
        loss = self.loss(outputs, labels).double().sum().item()
        made = outputs[:, self._classes + 1 :]
        each = [self._moments(pixels) for pixels in (labels[:, :-1], made)]
        return np.concatenate([[len(labels), loss], *each])

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """The discriminator's loss (2 log 2 if it cannot tell), and the distance.

        The distance is Frechet's between normal distributions of the features (Dowson and Landau
        1982), in units of the records' own variance: 0 where mean and covariance are the same; 1
        is how far off somebody is who always shows the mean of the records' features.
        """
        del threshold
        records = float(sums[0])
        if records == 0:
            return {"records": 0, "distance": None, "loss": None}
        real, fake = (sums[2:][at : at + _MOMENTS] / records for at in (0, _MOMENTS))
        return {
            "records": round(records),
            "distance": _distance(real, fake),
            "loss": float(sums[1]) / records,
        }

    def _moments(self, pixels: Tensor) -> NDArray[np.float64]:
        """Sums of the features and of the products of two of them, each pair once."""
        found = features(pixels.unflatten(1, self._shape)).double().cpu().numpy()
        products: NDArray[np.float64] = found.T @ found
        return np.concatenate([found.sum(axis=0), products[_ABOVE]])


def _distance(real: NDArray[np.float64], fake: NDArray[np.float64]) -> float | None:
    """From means of features and of their products; None where the records are all the same."""
    (mean, own), (made, other) = (_normal(moments) for moments in (real, fake))
    spread = float(np.trace(own))
    if spread <= 1e-9:
        return None
    root = _root(own)
    both = np.trace(_root(root @ other @ root))
    apart = float(np.square(mean - made).sum() + np.trace(own) + np.trace(other) - 2 * both)
    return max(apart, 0.0) / spread


def _normal(moments: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance."""
    mean, products = moments[:NUMBERS], np.zeros((NUMBERS, NUMBERS))
    products[_ABOVE] = moments[NUMBERS:]
    products += np.triu(products, 1).T
    return mean, products - np.outer(mean, mean)


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a symmetric matrix; rounding may have made a value a little less than 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    rooted: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return rooted
