"""Fedward's gradient engine: one pass forward, one backward, and the sum is clipped by patient.

Opacus forms every record's gradient of every parameter, or goes backward twice. Here autograd finds
only what flows between layers; each layer's rule then has the patients' norms, by Gram products or
by forming what is small, and the clipped sum, where factors are there, in one ordinary product
(book-keeping: Bu et al. 2023, arXiv 2210.00038).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedward.privacy.gradients.bounds import Clipping, clip_factors
from fedward.privacy.gradients.known import BY_OPACUS, Ruled, ruled_layers, untrainable
from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.source import ClippedSums, Pass, dtype_of
from fedward.privacy.gradients.tape import Tape
from fedward.privacy.precision import Precision
from fedward.privacy.privacy_errors import NoGradient

_LOG = logging.getLogger("fedward.privacy")


class EngineSums(ClippedSums):
    """Clipped sums by this engine."""

    def __init__(
        self, model: nn.Module, *, bound: float, clipping: Clipping, precision: Precision
    ) -> None:
        """Find a rule for every layer that is trained."""
        super().__init__(model, bound=bound, clipping=clipping, precision=precision)
        self._ruled = list(ruled_layers(model))
        for ruled in self._ruled:
            if ruled.rule is BY_OPACUS:
                _prepare(ruled)

    def _sums(self, one: Pass) -> tuple[list[Tensor], Tensor]:
        """The sum over patients of the clipped mean gradient of their records, by one pass."""
        patients = Patients(one.counts, one.inputs.device)
        tape = Tape(self._parameters, patients, apart=self._clipping == "per_layer")
        for parameter in self._parameters:
            parameter.grad = None
        with self._watching(tape):
            total = one.total(self._precision.outputs(self._model, one.inputs))
            if total.requires_grad:
                total.backward()
        if any(parameter.grad is not None for parameter in self._parameters):
            raise NoGradient(
                "a trainable parameter is used outside of its layer, where no patient's gradient "
                "can be kept apart",
                todo="choose a model whose parameters are used by their own layers only",
            )
        contributions = tape.contributions()
        squares = torch.stack([each.squares for _, each in contributions]) / one.scale**2
        dtype = dtype_of(self._parameters)
        layers = self._layers_of([places for places, _ in contributions])
        factors, finite = clip_factors(squares, layers, self._bound, self._clipping, dtype)
        used = finite & one.wanted
        only = None if used.all() else used
        sums: dict[int, Tensor] = {}
        for (places, contribution), own in zip(contributions, factors, strict=True):
            shapes = [self._parameters[place].shape for place in places]
            precise = (own / one.scale).to(self._parameters[places[0]].dtype)
            summed = contribution.clipped(precise, patients, only).flatten()
            pieces = summed.split([shape.numel() for shape in shapes])
            sums.update(
                (place, piece.view(shape))
                for place, piece, shape in zip(places, pieces, shapes, strict=True)
            )
        return [sums[place] for place in range(len(sums))], finite

    def _layers_of(self, rows: list[list[int]]) -> list[list[int]]:
        """Which rows of places are bounded together by themselves."""
        if self._clipping != "per_layer":
            return [list(range(len(rows)))]
        row_of = {places[0]: row for row, places in enumerate(rows)}
        return [[row_of[place] for place in layer] for layer in self._layers]

    @contextmanager
    def _watching(self, tape: Tape) -> Iterator[None]:
        """Within, every layer that is trained computes by its rule."""
        try:
            for _, layer, rule in self._ruled:
                layer.__dict__["forward"] = functools.partial(rule.forward, layer, tape)
            yield
        finally:
            for _, layer, _ in self._ruled:
                layer.__dict__.pop("forward", None)


def _prepare(ruled: Ruled) -> None:
    """Get a layer without a rule of the engine's ready, and say so once."""
    try:
        BY_OPACUS.prepare(ruled.layer)
    except NotImplementedError as error:
        raise untrainable(ruled.path, ruled.layer, str(error).rstrip(".")) from error
    what = type(ruled.layer).__name__
    _LOG.info("layer %r, %s: gradients by Opacus, more slowly", ruled.path or "model", what)
