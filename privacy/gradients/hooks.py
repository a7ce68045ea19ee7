"""Opacus' hooks (1.6), the reference: every record's gradient of every parameter is formed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN
from opacus.layers.dp_rnn import DPRNNBase
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from fedward.privacy.gradients.bounds import Clipping, clip_factors
from fedward.privacy.gradients.opacus_rule import opacus_fault
from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.source import ClippedSums, Pass, dtype_of
from fedward.privacy.precision import Precision
from fedward.privacy.privacy_errors import (
    HalfPrecision,
    NoGradient,
    NotPerRecord,
    UntrainableLayer,
)

_RECURRENT: dict[type[nn.Module], Callable[..., DPRNNBase]] = {
    nn.LSTM: DPLSTM,
    nn.GRU: DPGRU,
    nn.RNN: DPRNN,
}


class HookedSums(ClippedSums):
    """Clipped sums of what Opacus keeps apart."""

    def __init__(
        self, model: nn.Module, *, bound: float, clipping: Clipping, precision: Precision
    ) -> None:
        """Hook a copy of the model that has the same parameters."""
        super().__init__(model, bound=bound, clipping=clipping, precision=precision)
        self._hooked = precision.apart(opacus_form(model))

    def _sums(self, one: Pass) -> tuple[list[Tensor], Tensor]:
        """The sum over patients of the clipped mean gradient of their records, by one pass."""
        for parameter in self._parameters:
            parameter.grad = None
            vars(parameter)["grad_sample"] = None
        total = one.total(self._precision.outputs(self._hooked, one.inputs))
        with warnings.catch_warnings():
            # The first layer's input needs no gradient: PyTorch warns, Opacus copes.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            total.backward()
        patients = Patients(one.counts, one.inputs.device)
        each = [patients.added(apart) for apart in self._apart(len(one.inputs))]
        norms = [torch.linalg.vector_norm(g.flatten(1), dim=1).square().double() for g in each]
        squares, dtype = torch.stack(norms) / one.scale**2, dtype_of(self._parameters)
        factors, finite = clip_factors(squares, self._layers, self._bound, self._clipping, dtype)
        factors, used = factors / one.scale, finite & one.wanted
        if not used.all():
            factors, each = factors[:, used], [g[used] for g in each]
        sums = [torch.tensordot(own.to(g), g, dims=1) for own, g in zip(factors, each, strict=True)]
        return sums, finite

    def _apart(self, records: int) -> list[Tensor]:
        """Each record's gradients, taken off the parameters."""
        found = [vars(p).pop("grad_sample", None) for p in self._parameters]
        apart = [g for g in found if isinstance(g, Tensor)]
        if len(apart) < len(found):
            raise NoGradient(
                "a trainable parameter has no gradient for each patient",
                todo="freeze it, or choose a model whose every layer takes part in its output",
            )
        if {len(g) for g in apart} - {records}:
            raise NotPerRecord(
                "a layer does not see one entry for each record",
                todo="choose a model whose every layer keeps the records in its first dimension",
            )
        if any(g.dtype != p.dtype for g, p in zip(apart, self._parameters, strict=True)):
            raise HalfPrecision(
                "a layer keeps its records' gradients with fewer bits than its parameters have",
                todo='set precision = "float32" in [training] of hospital.toml',
            )
        return apart


def refuse_for_opacus(model: nn.Module) -> None:
    """Accept a network for Opacus' hooks by returning.

    Raises:
        UntrainableLayer: Opacus cannot keep a layer's gradients apart; it is named.
    """
    for path, layer in model.named_modules():
        fault = opacus_fault(layer)
        given = vars(layer)
        replaced = type(layer) in _RECURRENT and given["bias"] and not given["proj_size"]
        if fault and not replaced:
            raise UntrainableLayer(
                f"layer {path or 'model'!r}, {type(layer).__name__}, cannot be trained privately "
                f"by Opacus: {fault}",
                todo='set gradients = "fedward" in [training] of hospital.toml',
            )


def opacus_form(model: nn.Module) -> nn.Module:
    """The network with the same parameters, and with Opacus' recurrent layers for PyTorch's.

    Nothing in it changes its input in place: hooks allow no such layer.
    """
    same = {id(parameter): parameter for parameter in model.parameters()}
    form = copy.deepcopy(model, same)
    for path, layer in list(form.named_modules()):
        if getattr(layer, "inplace", False):
            layer.inplace = False
        if type(layer) in _RECURRENT and any(p.requires_grad for p in layer.parameters()):
            new = _recurrent(layer)
            if not path:
                form = new
            else:
                form.set_submodule(path, new)
    return form


def _refuse_packed(_: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Opacus keeps such records' gradients in the sequences' order, other layers' in their own."""
    if inputs and isinstance(inputs[0], PackedSequence):
        raise NotPerRecord(
            "Opacus gives a packed sequence's gradient to another record",
            todo='set gradients = "fedward" in [training] of hospital.toml',
        )


def _recurrent(layer: nn.Module) -> DPRNNBase:
    """Opacus' layer around the parameters of PyTorch's."""
    assert isinstance(layer, nn.RNNBase)  # noqa: S101 - looked up by it
    given: dict[str, Any] = {
        "num_layers": layer.num_layers,
        "bias": layer.bias,
        "batch_first": layer.batch_first,
        "dropout": layer.dropout,
        "bidirectional": layer.bidirectional,
    }
    if isinstance(layer, nn.RNN):
        given["nonlinearity"] = layer.nonlinearity
    new = _RECURRENT[type(layer)](layer.input_size, layer.hidden_size, **given)
    for old, name in new.old_to_new.items():
        cell, part, kind_of = old.split(".")
        parameter = getattr(layer, name)
        setattr(getattr(getattr(new, cell), part), kind_of, parameter)
        new.register_parameter(name, parameter)
    new.register_forward_pre_hook(_refuse_packed)
    return new.train(layer.training)
