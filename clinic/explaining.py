"""Why a model says what it says of one record: how much each of the record's numbers adds to it.

Pictures: what changes when a patch is covered (occlusion: Zeiler and Fergus 2014), or Grad-CAM
(Selvaraju et al. 2017) at the last convolution. Signals, tables and tokens: integrated gradients
(Sundararajan et al. 2017), whose parts add up to the difference from a record that says nothing.
A model without gradients is explained by occlusion, whatever its records are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fedward.clinic.asked_model import AskedModel
from fedward.models.inputs import inputs_of
from fedward.models.tasks.classification import log_odds_of
from fedward.study.errors import MissingExtra, OptionError
from fedward.study.task import ClassTask, MultilabelTask, SegmentationTask
from fedward.study.token_data import UNKNOWN

Method = Literal["occlusion", "grad-cam", "integrated-gradients"]
_PATCHES = 10  # along each side of a picture
_WINDOWS = 32  # along a signal
_AT_ONCE = 32
_STEPS = 64  # of the integral


class Explanation(NamedTuple):
    """What each number of a record adds to what is explained.

    Attributes:
        values: Shape of the record; of pictures without channels.
        method: How it was found.
        target: What is explained, in words.
        difference: What the record says above the record that says nothing; for integrated
            gradients `values` add up to it.
    """

    values: NDArray[np.float64]
    method: Method
    target: str
    difference: float


def explain(
    model: AskedModel, record: Tensor, target: str | None = None, method: Method | None = None
) -> Explanation:
    """Explain what a model says of a record.

    Args:
        model: That is asked.
        record: As the model sees it, shape (1, *input_shape).
        target: A class or finding; the likeliest if None. Tasks without classes have none.
        method: How; the one that the module's head names for such records if None.

    Raises:
        OptionError: There is no such class, or no such method for these records or this model.
        MissingExtra: Captum is not installed.
    """
    kind = inputs_of(model.study.data).kind
    picture = kind in {"image", "volume"}
    usual: Method = "occlusion" if picture or not model.gradients else "integrated-gradients"
    method = method or usual
    possible = ["occlusion"]
    if model.gradients:
        possible.append("grad-cam" if picture else "integrated-gradients")
    if method not in possible:
        raise OptionError(
            f"--method {method} for this model and records of kind {kind}",
            todo=f"give {' or '.join(possible)}",
        )
    words, score = _score(model, record, target)
    nothing = _nothing(model, record)
    with torch.no_grad():
        difference = float(score(record)[0] - score(nothing)[0])
    match method:
        case "occlusion":
            values = _occlusion(score, record, nothing, picture=picture)
        case "grad-cam":
            values = _grad_cam(model.network, score, record)
        case "integrated-gradients":
            values = _integrated(model.network, score, record, nothing)
    return Explanation(values.double().numpy(), method, words, difference)


Score = Callable[[Tensor], Tensor]
"""From records (n, *shape) to one number each, (n,)."""


def _score(model: AskedModel, record: Tensor, target: str | None) -> tuple[str, Score]:
    """What is explained, in words and as a function."""
    task, network = model.study.task, model.network
    if isinstance(task, ClassTask | MultilabelTask | SegmentationTask):
        if target is not None and target not in task.classes:
            raise OptionError(f"no class {target!r}", todo=f"give {', '.join(task.classes)}")
        maps = isinstance(task, SegmentationTask)
        with torch.no_grad():
            outputs = network(record).flatten(2).mean(2) if maps else network(record)
        place = int(outputs[0].argmax()) if target is None else task.classes.index(target)
        name = task.classes[place]
        if maps:
            return f"pixels called {name}", lambda x: network(x)[:, place].flatten(1).mean(1)
        if isinstance(task, MultilabelTask):
            return name, lambda x: network(x)[:, place]
        return name, lambda x: log_odds_of(network(x), place)
    if target is not None:
        raise OptionError(f"a {task.kind} task has no classes", todo="leave --target out")
    match task.kind:
        case "regression":
            return "the value", lambda x: network(x)[:, 0]
        case "survival":
            return "the risk", lambda x: network(x).mean(dim=1)
        case "reconstruction":
            return "the error", lambda x: (network(x)[:, :-1] - x.flatten(1)).square().mean(dim=1)
    raise OptionError(f"nothing is explained for a {task.kind} task", todo="see fedward synthesize")


def _nothing(model: AskedModel, record: Tensor) -> Tensor:
    """A record like this one that says nothing.

    A picture of its own mean grey; tokens that are not known, as many; 0, the mean after scaling,
    for signals and tables. A signal lasts as long.
    """
    inputs = inputs_of(model.study.data)
    if inputs.kind in {"tokens", "pieces"}:
        return torch.where(record == 0, 0, UNKNOWN)
    if inputs.kind in {"image", "volume"}:
        return record.flatten(2).mean(dim=2).view(1, -1, *[1] * (record.ndim - 2)).expand_as(record)
    nothing = torch.zeros_like(record)
    if inputs.padded:
        nothing[:, -1] = record[:, -1]
    return nothing


@torch.no_grad()
def _occlusion(score: Score, record: Tensor, nothing: Tensor, *, picture: bool) -> Tensor:
    """How much less is said when a window is covered, the mean over all windows that cover it."""
    shape = record.shape[2:] if picture else record.shape[1:]
    total, times = torch.zeros(shape), torch.zeros(shape)
    whole = score(record)[0]
    windows = list(_windows(shape, picture=picture, signal=record.ndim == 3))
    for start in range(0, len(windows), _AT_ONCE):
        some = windows[start : start + _AT_ONCE]
        covered = record.repeat(len(some), *[1] * (record.ndim - 1))
        for row, window in zip(covered, some, strict=True):
            place = (slice(None), *window) if picture else window
            row[place] = nothing[0][place]
        for window, found in zip(some, score(covered), strict=True):
            total[window] += whole - found
            times[window] += 1
    return total / times


def _windows(shape: tuple[int, ...], *, picture: bool, signal: bool) -> Iterator[tuple[slice, ...]]:
    """Windows that overlap by half in pictures and along signals; one number each otherwise."""
    sides, strides = [], []
    for axis, length in enumerate(shape):
        along = picture or (signal and axis == len(shape) - 1)
        side = math.ceil(length / (_PATCHES if picture else _WINDOWS)) if along else 1
        sides.append(min(length, 2 * side) if along and side > 1 else side)
        strides.append(side)
    starts = [
        range(0, max(1, length - side + stride), stride)
        for length, side, stride in zip(shape, sides, strides, strict=True)
    ]
    for corner in itertools.product(*starts):
        yield tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))


def _integrated(network: nn.Module, score: Score, record: Tensor, nothing: Tensor) -> Tensor:
    """Integrated gradients; of tokens those of their embeddings, added up."""
    attribution = _captum()
    if record.is_floating_point():
        method = attribution.IntegratedGradients(score)
        found: Tensor = method.attribute(
            record, nothing, n_steps=_STEPS, internal_batch_size=_STEPS
        )
        return found[0].detach()
    layer = _embedding(network, record)
    method = attribution.LayerIntegratedGradients(score, layer)
    parts: Tensor = method.attribute(record, nothing, n_steps=_STEPS)
    return parts[0].sum(dim=1).detach()


def _embedding(network: nn.Module, record: Tensor) -> nn.Module:
    """The layer that looks the record's tokens up."""
    seen: list[nn.Module] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
        if given[0].shape == record.shape:
            seen.append(layer)

    _watch(network, nn.Embedding, note, record)
    if not seen:
        raise OptionError("this model looks no tokens up", todo="give --method occlusion")
    return seen[0]


def _grad_cam(network: nn.Module, score: Score, record: Tensor) -> Tensor:
    """Grad-CAM at the last convolution that leaves a picture, enlarged to the record's size."""
    layers: list[nn.Module] = []

    def note(layer: nn.Module, _: object, found: Tensor) -> None:
        if min(found.shape[2:]) > 1:
            layers.append(layer)

    _watch(network, _ConvNd, note, record)
    if not layers:
        raise OptionError("this model has no convolution", todo="give --method occlusion")
    attribution = _captum()
    # The maps need a gradient, and the run's weights have none.
    found = attribution.LayerGradCam(score, layers[-1]).attribute(
        record.clone().requires_grad_(), relu_attributions=True
    )
    way = {4: "bilinear", 5: "trilinear"}[record.ndim]
    large = nn.functional.interpolate(found, record.shape[2:], mode=way, align_corners=False)
    return large[0, 0].detach()


@torch.no_grad()
def _watch(
    network: nn.Module, kind: type[nn.Module], note: Callable[..., None], record: Tensor
) -> None:
    """Run a record through, and be told of each layer of a kind, what it got and what it gave."""
    hooks = [x.register_forward_hook(note) for x in network.modules() if isinstance(x, kind)]
    network(record)
    for hook in hooks:
        hook.remove()


def _captum() -> ModuleType:
    try:
        return import_module("captum.attr")
    except ImportError:
        raise MissingExtra(
            "captum is not installed, which gradients are explained with",
            todo="pip install 'fedward[explain]', or give --method occlusion",
        ) from None
