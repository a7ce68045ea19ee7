"""What a pass writes down: each use of each trainable parameter, as the gradients come back.

Layers compute with detached parameters, so that autograd never makes an unclipped gradient of a
weight; it finds what flows between the layers, and a hook on a layer's output writes its use down.
As soon as all uses of a parameter are there, they become the patients' contributions to it, and
what is not needed any more is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedward.privacy.gradients.contribution import Contribution, bundle_of, contribution_of
from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.uses import Formed, Use
from fedward.privacy.privacy_errors import NoGradient, NotPerRecord

Written = Iterable[tuple[Tensor, Use]]
_SMALL = 2**12  # numbers of a parameter that is looked at together with others


class Tape:
    """The uses of one pass over some patients."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], patients: Patients, *, apart: bool = True
    ) -> None:
        """Nothing is written yet.

        Args:
            parameters: All trainable ones.
            patients: Whose the records of the pass are.
            apart: Whether each parameter's norms are asked for. If not, small parameters, such as
                biases, are looked at together: for each of them alone the work in Python would be
                most of it.
        """
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._patients = patients
        self._apart = apart
        self._awaited = dict.fromkeys(self._parameters, 0)
        self._uses: dict[int, list[Use]] = {key: [] for key in self._parameters}
        self._done: dict[int, Contribution] = {}
        self._small: dict[torch.dtype, dict[int, Tensor]] = {}
        self._finished: set[int] = set()

    def watch(
        self,
        output: Tensor,
        parameters: Iterable[Tensor | None],
        written: Callable[[Tensor], Written],
    ) -> Tensor:
        """Write uses down when the gradient of an output comes.

        Args:
            output: Computed with detached parameters.
            parameters: That took part; None and frozen ones are passed over.
            written: Makes their uses from the output's gradient.

        Returns:
            The output.
        """
        keys = self.await_uses(parameters)
        if keys and torch.is_grad_enabled():
            output = changeable(output)
            output.register_hook(lambda gradient: self.write(keys, written(gradient.detach())))
        return output

    def await_uses(self, parameters: Iterable[Tensor | None]) -> list[int]:
        """Say that uses of these will come; returns what `write` wants for them."""
        keys = [id(p) for p in parameters if p is not None and id(p) in self._parameters]
        for key in keys:
            self._awaited[key] += 1
        return keys

    def write(self, keys: Sequence[int], written: Written) -> None:
        """Add the uses that were awaited together; those of other parameters are passed over.

        Raises:
            NotPerRecord: What a use keeps apart are not the records of the pass.
        """
        with torch.no_grad():
            for parameter, use in written:
                if id(parameter) not in keys:
                    continue
                if use.records != self._patients.records:
                    raise NotPerRecord(
                        "a layer does not see one entry for each record",
                        todo="choose a model whose every layer keeps the records in its first "
                        "dimension",
                    )
                self._uses[id(parameter)].append(use)
            for key in keys:
                self._awaited[key] -= 1
                if not self._awaited[key] and key not in self._finished:
                    self._finish(key)

    def contributions(self) -> list[tuple[list[int], Contribution]]:
        """Of all trainable parameters, each with the places of those that it is of.

        Raises:
            NoGradient: A parameter had no use whose gradient came.
        """
        with torch.no_grad():
            for key, uses in self._uses.items():
                if key not in self._finished and uses:  # some outputs had no part in the loss
                    self._finish(key)
            if len(self._finished) < len(self._parameters):
                raise NoGradient(
                    "a trainable parameter has no gradient for each patient",
                    todo="freeze it, or choose a model whose every layer takes part in its output",
                )
            places = {key: place for place, key in enumerate(self._parameters)}
            alone = [([places[key]], each) for key, each in self._done.items()]
            return alone + [
                ([places[key] for key in small], bundle_of(list(small.values())))
                for small in self._small.values()
            ]

    def _finish(self, key: int) -> None:
        uses, self._uses[key] = self._uses[key], []
        if not uses:
            raise NoGradient(
                "a layer computes with something else than its trainable parameters",
                todo="take weight_norm or the like off it, or freeze it",
            )
        parameter = self._parameters[key]
        self._finished.add(key)
        if not self._apart and parameter.numel() <= _SMALL:
            formed = [use.formed(self._patients) for use in uses if isinstance(use, Formed)]
            if len(formed) == len(uses):
                small = self._small.setdefault(parameter.dtype, {})
                small[key] = formed[0] if len(formed) == 1 else torch.stack(formed).sum(dim=0)
                return
        self._done[key] = contribution_of(uses, self._patients, parameter.numel())


class _Changeable(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, output: Tensor, __: Tensor) -> Tensor:  # noqa: ANN401 - PyTorch's own
        return output.detach()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradient, None


def changeable(output: Tensor) -> Tensor:
    """The same numbers, whose gradient a hook hears of though the next layer changes them in place.

    A leaf cannot be changed so, and of a view's gradient hooks are not told any more.
    """
    if output.requires_grad and not output._is_view():
        return output
    called = output.new_empty(0, requires_grad=True)
    found: Tensor = _Changeable.apply(output, called)  # type: ignore[no-untyped-call]
    return found


@contextmanager
def detached(layer: nn.Module) -> Iterator[None]:
    """Within, the layer and what is in it compute with parameters that need no gradient."""
    swapped: list[tuple[nn.Module, dict[str, nn.Parameter | None]]] = []
    try:
        for module in layer.modules():
            own = module._parameters
            if own:
                swapped.append((module, own))
                bare = {name: None if p is None else p.detach() for name, p in own.items()}
                module.__dict__["_parameters"] = bare
        yield
    finally:
        for module, own in swapped:
            module.__dict__["_parameters"] = own
