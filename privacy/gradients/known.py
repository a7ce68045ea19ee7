"""Which layers can be trained privately, and by which rule; the others are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fedward.privacy.gradients.attention import AttentionRule
from fedward.privacy.gradients.convolution import ConvolutionRule
from fedward.privacy.gradients.embedding import EmbeddingRule
from fedward.privacy.gradients.linear import LinearRule
from fedward.privacy.gradients.norms import ChannelNormRule, RowNormRule
from fedward.privacy.gradients.opacus_rule import OpacusRule, opacus_fault
from fedward.privacy.gradients.recurrent import RecurrentRule
from fedward.privacy.gradients.rule import Rule
from fedward.privacy.privacy_errors import UntrainableLayer

_RULES: dict[type[nn.Module], Rule] = {
    kind: rule
    for rule in (
        LinearRule(),
        ConvolutionRule(),
        ChannelNormRule(),
        RowNormRule(),
        EmbeddingRule(),
        RecurrentRule(),
        AttentionRule(),
    )
    for kind in rule.kinds
}
BY_OPACUS = OpacusRule()
"""For every layer that the others are not for."""


class Ruled(NamedTuple):
    """A layer that is trained, and how.

    Attributes:
        path: Of the layer in the model.
        layer: The layer; what is in it is the rule's too.
        rule: The rule.
    """

    path: str
    layer: nn.Module
    rule: Rule


def ruled_layers(model: nn.Module, path: str = "") -> Iterator[Ruled]:
    """Every layer that has trainable parameters of its own, or a rule, with its rule.

    Args:
        model: The network, or a part of it.
        path: Where the part is in the network.

    Raises:
        UntrainableLayer: Neither the engine nor Opacus can train a layer; the message names it.
    """
    if not any(p.requires_grad for p in model.parameters()):
        return
    rule = rule_of(model)
    below = {id(p) for child in model.children() for p in child.parameters()}
    own = [p for p in model.parameters(recurse=False) if p.requires_grad and id(p) not in below]
    if rule is None and not own:
        for name, child in model.named_children():
            yield from ruled_layers(child, f"{path}.{name}" if path else name)
        return
    fault = fault_by_opacus(model) if rule is None else rule.fault(model)
    if "forward" in vars(model):
        fault = "its forward was replaced"
    if is_parametrized(model):
        fault = "its weights are computed from others (weight_norm or the like)"
    if fault is not None:
        raise untrainable(path, model, fault)
    yield Ruled(path, model, rule or BY_OPACUS)


def fault_by_opacus(layer: nn.Module) -> str | None:
    """Why Opacus cannot make the gradients of a layer and of all in it, or None."""
    for path, inner in layer.named_modules():
        rule = rule_of(inner)
        fault = opacus_fault(inner) if rule is None else rule.fault(inner)
        if path and fault is None:
            fault = _fault_inside(inner)
        if fault is not None:
            return f"{path}: {fault}" if path else fault
    return None


def _fault_inside(inner: nn.Module) -> str | None:
    """Why `torch.func` cannot go through a layer inside of one with parameters of its own."""
    if isinstance(inner, nn.modules.dropout._DropoutNd) and inner.p > 0:
        return "no dropout inside of a layer that has parameters of its own"
    if isinstance(inner, nn.RNNBase):
        return "no recurrent layer inside of a layer that has parameters of its own"
    return None


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule for a layer, and for one that comes from its kind and computes the same."""
    for kind in type(layer).__mro__:
        if kind in _RULES:
            return _RULES[kind] if type(layer).forward is kind.forward else None
    return None


def untrainable(path: str, layer: nn.Module, fault: str) -> UntrainableLayer:
    """The error that names a layer."""
    return UntrainableLayer(
        f"layer {path or 'model'!r}, {type(layer).__name__}, cannot be trained privately: {fault}",
        todo="choose a model whose layers can be (see fedward models)",
    )
