"""A contribution as whole numbers modulo 2**32, and the sum of such as what it means.

    [ update * weight / largest weight | counts | real numbers, low halves | high halves ]

The update's scale comes from the study's clipping norm. Counts are exact. A real number (a weight,
a loss) takes two words, because it may be large and must be fine: it becomes a multiple of 2**-16,
whose low and high bits are added up apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.contribution import HEAD, Layout, Summand, Total, not_finite
from fedward.privacy.fixed_point import FixedPoint
from fedward.study.aggregation import Aggregation
from fedward.study.errors import TrainingError
from fedward.study.messages import Words

_FRACTION_BITS = 16
_WORD_BITS = 31  # of a sum that is read as a signed word


class Encoding:
    """The code of one exchange: the same at every hospital and at the aggregator."""

    def __init__(self, layout: Layout, terms: Aggregation, *, hospitals: int) -> None:
        """Make the code.

        Args:
            layout: Of the contribution.
            terms: The study's clipping norm and largest weight.
            hospitals: Most that may be invited to the exchange.
        """
        self._layout = layout
        self._largest = terms.largest_weight
        self._update = FixedPoint.for_bound(terms.clip, hospitals)
        self._room = (2**_WORD_BITS - 1) // hospitals
        self._low_bits = _WORD_BITS - (hospitals - 1).bit_length()
        self._real = np.zeros(HEAD + layout.metrics, dtype=bool)
        self._real[[0, *(HEAD + place for place in layout.reals)]] = True  # 0: the weight
        self._reals = int(self._real.sum())

    @property
    def size(self) -> int:
        """Words of a contribution."""
        return self._layout.size + self._reals

    @property
    def error_bound(self) -> float:
        """Largest error of one coordinate of `weight * update`, for each hospital in the sum."""
        return self._update.error_bound * self._largest

    def encode(self, summand: Summand, *, rng: np.random.Generator) -> Words:
        """The words of one hospital's contribution, shape (size,).

        Args:
            summand: What it adds.
            rng: For the rounding of the update, which is no secret.

        Raises:
            TrainingError: A number is NaN, infinite, or larger than a sum has room for.
        """
        tail = np.concatenate([summand.head, summand.metrics])
        if not np.isfinite(tail).all():
            raise not_finite()
        with np.errstate(over="ignore"):  # what overflows is refused below
            reals = np.rint(np.ldexp(tail[self._real], _FRACTION_BITS))
        counts = tail[~self._real]
        most = np.ldexp(float(self._room), self._low_bits)
        if np.any(np.abs(reals) > most) or np.any(np.abs(counts) > self._room):
            raise TrainingError(
                "its metric sums are too large to be added up",
                todo="lower [training] learning_rate, or check this hospital's data",
            )
        whole = reals.astype(np.int64)
        low = whole & ((1 << self._low_bits) - 1)
        d, size = self._layout.parameters, self.size
        words = np.empty(size, dtype=np.uint32)
        factor = summand.weight / self._largest
        try:
            self._update.encode(summand.update, rng=rng, factor=factor, out=words[:d])
        except ValueError:  # within the study's bounds every finite update can be encoded
            raise not_finite() from None
        words[d : size - 2 * self._reals] = _words(np.rint(counts).astype(np.int64))
        words[size - 2 * self._reals : size - self._reals] = _words(low)
        words[size - self._reals :] = _words(whole >> self._low_bits)
        return words

    def decode(self, total: Words) -> Total:
        """What a sum of contributions means, shape (size,), over at most `hospitals` of them."""
        d, reals = self._layout.parameters, self._reals
        counts = total[d : self.size - 2 * reals].view(np.int32)
        low = total[self.size - 2 * reals : self.size - reals].view(np.int32).astype(np.int64)
        high = total[self.size - reals :].view(np.int32).astype(np.int64)
        tail = np.empty(HEAD + self._layout.metrics)
        tail[~self._real] = counts
        tail[self._real] = np.ldexp((high * (1 << self._low_bits) + low) * 1.0, -_FRACTION_BITS)
        weight, *marks = map(float, tail[:HEAD])
        mean = np.zeros(d)
        if weight > 0:
            mean = self._update.decode(total[:d]) * (self._largest / weight)
        return Total(mean, weight, tail[HEAD:], *map(round, marks))


def _words(values: NDArray[np.int64]) -> Words:
    return values.astype(np.int32).view(np.uint32)
