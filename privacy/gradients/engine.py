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

from fedward.privacy.gradients.attention import AttentionRule
from fedward.privacy.gradients.bounds import Clipping, clip_factors
from fedward.privacy.gradients.convolution import ConvolutionRule
from fedward.privacy.gradients.embedding import EmbeddingRule
from fedward.privacy.gradients.linear import LinearRule
from fedward.privacy.gradients.norms import NormRule
from fedward.privacy.gradients.opacus_rule import OpacusRule
from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.recurrent import RecurrentRule
from fedward.privacy.gradients.rule import Rule
from fedward.privacy.gradients.source import ClippedSums, dtype_of
from fedward.privacy.gradients.tape import Tape
from fedward.privacy.precision import Precision, refuse_imprecise
from fedward.privacy.privacy_errors import NoGradient, UntrainableLayer
from fedward.privacy.private_model import opacus_fault
from fedward.privacy.steps import Loss

_LOG = logging.getLogger("fedward.privacy")
_RULES: dict[type[nn.Module], Rule] = {
    kind: rule
    for rule in (
        LinearRule(),
        ConvolutionRule(),
        NormRule(),
        EmbeddingRule(),
        RecurrentRule(),
        AttentionRule(),
    )
    for kind in rule.kinds
}
_BY_OPACUS = OpacusRule()


class EngineSums(ClippedSums):
    """Clipped sums by this engine."""

    def __init__(
        self, model: nn.Module, *, bound: float, clipping: Clipping, precision: Precision
    ) -> None:
        """Find a rule for every layer that is trained."""
        super().__init__(model, bound=bound, clipping=clipping, precision=precision)
        refuse_imprecise(precision)
        self._ruled = list(_ruled(model, ""))

    def of(self, loss: Loss, inputs: Tensor, labels: Tensor, counts: Tensor) -> list[Tensor]:
        """The sum over patients of the clipped mean gradient of their records."""
        patients = Patients(counts, inputs.device)
        tape = Tape(self._parameters, patients)
        for parameter in self._parameters:
            parameter.grad = None
        with self._watching(tape):
            total = self._total(self._model, loss, inputs, labels, counts)
            if total.requires_grad:
                total.backward()
        if any(parameter.grad is not None for parameter in self._parameters):
            raise NoGradient(
                "a trainable parameter is used outside of its layer, where no patient's gradient "
                "can be kept apart",
                todo="choose a model whose parameters are used by their own layers only",
            )
        contributions = tape.contributions()
        squares = torch.stack([each.squares for each in contributions])
        dtype = dtype_of(self._parameters)
        factors, finite = clip_factors(squares, self._layers, self._bound, self._clipping, dtype)
        only = None if finite.all() else finite
        sums = []
        for place, parameter in enumerate(self._parameters):
            own = factors[place].to(parameter.dtype)
            sums.append(contributions[place].clipped(own, patients, only))
        return sums

    @contextmanager
    def _watching(self, tape: Tape) -> Iterator[None]:
        """Within, every layer that is trained computes by its rule."""
        try:
            for layer, rule in self._ruled:
                layer.__dict__["forward"] = functools.partial(rule.forward, layer, tape)
            yield
        finally:
            for layer, _ in self._ruled:
                layer.__dict__.pop("forward", None)


def _ruled(layer: nn.Module, path: str) -> Iterator[tuple[nn.Module, Rule]]:
    """Each layer that is trained, with its rule; what is in such a layer is the rule's."""
    if not any(p.requires_grad for p in layer.parameters()):
        return
    rule = rule_of(layer)
    below = {id(p) for child in layer.children() for p in child.parameters()}
    own = [p for p in layer.parameters(recurse=False) if p.requires_grad and id(p) not in below]
    if rule is None and not own:
        for name, child in layer.named_children():
            yield from _ruled(child, f"{path}.{name}" if path else name)
        return
    fault = rule.fault(layer) if rule is not None else opacus_fault(layer)
    if fault is None and rule is None:
        try:
            _BY_OPACUS.prepare(layer)
        except NotImplementedError as error:
            fault = str(error).rstrip(".")
        else:
            what = type(layer).__name__
            _LOG.info("layer %r, %s: gradients by Opacus, more slowly", path or "model", what)
    if fault is not None:
        raise UntrainableLayer(
            f"layer {path or 'model'!r}, {type(layer).__name__}, cannot be trained privately: "
            f"{fault}",
            todo="choose a model whose layers can be (see fedward models)",
        )
    yield layer, rule or _BY_OPACUS


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer, and for one that comes from its kind and computes the same."""
    for kind in type(layer).__mro__:
        if kind in _RULES:
            return _RULES[kind] if type(layer).forward is kind.forward else None
    return None
