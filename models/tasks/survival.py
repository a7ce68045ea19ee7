"""How long until something happens, where some were not watched for long enough.

Concordance (Harrell et al. 1982) is told in two ways. `concordance_inside` compares patients of one
hospital with each other, exactly. `concordance` compares everybody with everybody: hospitals send
how many records there are in each bin of risk, time and event, and of the sum all pairs are counted
whose times are in different bins; risks of one bin count as tied. With 256 bins of risk and 33 or
more of time it is within 0.01 of the exact one where times spread over the intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedward.models import scores
from fedward.models.tasks.any_task import Sums, Task
from fedward.study.task import SurvivalTask

_LARGEST = 30.0
_RISKS = 256
_TIMES = 32  # bins of time, at least, if the intervals are few
_PAIRS = 2048  # records that are compared with all others at the same time


class Survival(Task):
    """Discrete-time hazards, from logits of shape (n, intervals), or Cox's risk of shape (n, 1).

    The sums are `[records, loss, pairs that can be compared, concordant ones, histogram]`. An event
    after the last interval's end is one that was not seen.
    """

    whole = True

    def __init__(self, task: SurvivalTask) -> None:
        """Take intervals and loss from the study's task."""
        self._hazards = task.loss == "hazards"
        ends = torch.tensor([0.0, *task.intervals])
        self._starts, self._ends = ends[:-1], ends[1:]
        pieces = -(-_TIMES // len(task.intervals))
        shares = torch.arange(pieces) / pieces
        cuts = self._starts.unsqueeze(1) + shares * (self._ends - self._starts).unsqueeze(1)
        self._cuts = torch.cat([cuts.flatten()[1:], self._ends[-1:]])  # inner edges, and the end

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 4 + self._bins

    @property
    def reals(self) -> tuple[int, ...]:
        """The loss, and pairs: of these there may be more than a word has room for."""
        return (1, 2, 3)

    @property
    def _bins(self) -> int:
        return _RISKS * (len(self._cuts) + 1) * 2

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Minus the log-likelihood of each record, shape (n,).

        Args:
            outputs: Logits of the hazards, shape (n, intervals); or log risks, shape (n, 1).
            labels: Time, and 1 where it is the event's, shape (n, 2).
        """
        times, seen = self._told(labels)
        return (
            self._of_hazards(outputs, times, seen) if self._hazards else _cox(outputs, times, seen)
        )

    def bounded(self, outputs: Tensor) -> Tensor:
        """Logits or risks of at most 30, 0 where they were not finite."""
        known = torch.where(outputs.isfinite(), outputs, outputs.new_zeros(()))
        return known.clamp(-_LARGEST, _LARGEST)

    def risk(self, outputs: Tensor) -> Tensor:
        """Higher where the event is expected sooner, shape (n,), float64.

        Of hazards it is the logarithm of the cumulative hazard at the last interval's end, which
        under proportional hazards is Cox's log risk and a constant.
        """
        if not self._hazards:
            return outputs[:, 0].double()
        return functional.softplus(outputs.double()).sum(dim=1).clamp(min=1e-30).log()

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records: all that a hospital judges on, for they are compared."""
        if not len(labels):
            return np.zeros(self.size)
        times, seen = self._told(labels)
        risk = self.risk(outputs)
        loss = self.loss(outputs, labels).double().sum().item()
        pairs, concordant = _pairs(risk, times, seen)
        when = torch.bucketize(times, self._cuts.to(times.device), right=True)
        place = (scores.bin_of(risk, _RISKS) * (len(self._cuts) + 1) + when) * 2 + seen.long()
        counts = torch.bincount(place, minlength=self._bins).double().cpu().numpy()
        return np.concatenate([[len(labels), loss, pairs, concordant], counts])

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Concordance over everybody, and within hospitals; None where nobody can be compared."""
        del threshold
        records, loss, pairs, concordant = map(float, sums[:4])
        if records == 0:
            return {"records": 0, "loss": None, "concordance": None, "concordance_inside": None}
        counts = self.counted(sums)
        return {
            "records": round(records),
            "loss": loss / records,
            "concordance": _binned_concordance(counts),
            "concordance_inside": concordant / pairs if pairs else None,
            "events": round(float(counts[:, :, 1].sum())),
        }

    @property
    def ends(self) -> NDArray[np.float64]:
        """Upper ends of the bins of time, rising; the last bin, after them, has none."""
        ends: NDArray[np.float64] = self._cuts.double().numpy()
        return ends

    def counted(self, sums: Sums) -> NDArray[np.float64]:
        """Records by risk, time and whether the event was seen, shape (risks, times, 2)."""
        return sums[4:].reshape(_RISKS, -1, 2)

    def _told(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Times, and whether the event was seen by the end of the last interval."""
        times = labels[:, 0].contiguous()
        return times, (labels[:, 1] > 0.5) & (times < self._ends[-1])

    def _of_hazards(self, outputs: Tensor, times: Tensor, seen: Tensor) -> Tensor:
        """Gensheimer and Narasimhan 2019, equation 3, and their rule for who was not watched on.

        A record survives each interval that it is past the end of (the middle, if the event was not
        seen), and fails in the interval of its event.
        """
        time, happened = times.unsqueeze(1), seen.unsqueeze(1)
        starts, ends = self._starts.to(times.device), self._ends.to(times.device)
        past = torch.where(happened, time >= ends, time >= (starts + ends) / 2)
        fails = happened & (time >= starts) & (time < ends)
        zero = outputs.new_zeros(())
        survived = torch.where(past, functional.softplus(outputs), zero)
        failed = torch.where(fails, functional.softplus(-outputs), zero)
        return (survived + failed).sum(dim=1)


def _cox(outputs: Tensor, times: Tensor, seen: Tensor) -> Tensor:
    """Minus the log partial likelihood (Cox 1972; Breslow's for ties) over the records at hand.

    Each event's term stands at its record, 0 elsewhere. A risk set is those of the same batch.
    """
    risk, order = outputs[:, 0], times.argsort(descending=True)
    ends = torch.searchsorted(-times[order], -times, right=True) - 1  # the last of equal times
    total = risk[order].logcumsumexp(dim=0)[ends]
    return torch.where(seen, total - risk, risk.new_zeros(()))


def _pairs(risk: Tensor, times: Tensor, seen: Tensor) -> tuple[float, float]:
    """Pairs of an event and somebody later, and how many have the risks in that order.

    Ties of risk count one half; whoever was last seen at the time of an event is later.
    """
    pairs = concordant = 0.0
    for piece in torch.arange(len(times), device=times.device)[seen].split(_PAIRS):
        later = times[piece].unsqueeze(1) < times
        later |= (times[piece].unsqueeze(1) == times) & ~seen
        above = (risk[piece].unsqueeze(1) - risk).sign().add(1) / 2
        pairs += later.sum().item()
        concordant += above[later].sum().item()
    return pairs, concordant


def _binned_concordance(counts: NDArray[np.float64]) -> float | None:
    """From records in each bin of risk, time and event, shape (risks, times, 2)."""
    events, everybody = counts[:, :, 1], counts.sum(axis=2)
    later = everybody[:, ::-1].cumsum(axis=1)[:, ::-1] - everybody
    below = later.cumsum(axis=0) - later
    pairs = float((events.sum(axis=0) * later.sum(axis=0)).sum())
    return float((events * (below + later / 2)).sum() / pairs) if pairs else None
