"""LSTM, GRU and RNN on the vendor's kernels, with the gradients of all gates at every step.

One layer and direction at a time. Given the gradients of what goes into the gates, the matrices are
linear layers over time: of the inputs, and of the states one step before.

On a processor the kernel runs forward alone, and `cells` goes backward. On a GPU, where each step
of that would wait for the last, the inputs are projected outside and the kernel gets an identity
as its input matrix: the gradient of its input is then that of the gates (in a GRU the reset gate
splits the state's part off).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

from fedward.privacy.gradients.cells import Gates, gru_gates, lstm_gates, rnn_gates
from fedward.privacy.gradients.linear import linear_uses
from fedward.privacy.gradients.rule import Rule
from fedward.privacy.gradients.seen import Seen
from fedward.privacy.gradients.tape import Tape, changeable
from fedward.privacy.gradients.uses import Use
from fedward.privacy.privacy_errors import NotPerRecord

_KERNELS: dict[str, Callable[..., Any]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}
Write = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class RecurrentRule(Rule):
    """nn.LSTM, nn.GRU and nn.RNN: stacked, in both directions, of whole or packed sequences."""

    kinds = (nn.LSTM, nn.GRU, nn.RNN)

    def fault(self, layer: nn.Module) -> str | None:
        """Why this layer cannot be trained privately, or None."""
        if getattr(layer, "proj_size", 0):
            return "no rule for projections (proj_size)"
        return None

    def forward(  # type: ignore[override]
        self,
        layer: nn.RNNBase,
        tape: Tape,
        input: Tensor | PackedSequence,
        hx: Any = None,  # noqa: ANN401
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Outputs and last states: as the layer's own."""
        lengths: Tensor | None = None
        if isinstance(input, PackedSequence):
            refuse_reordered(input)
            x, lengths = pad_packed_sequence(input)
        else:
            x = input.transpose(0, 1) if layer.batch_first and input.ndim == 3 else input
        if x.ndim != 3:
            raise NotPerRecord(
                "a recurrent layer does not see one entry for each record",
                todo="choose a model whose sequences have the records in a dimension of their own",
            )
        with torch.autocast(x.device.type, enabled=False):
            outputs, last = _all_layers(
                layer, tape, x.to(next(layer.parameters()).dtype), lengths, hx
            )
        if isinstance(input, PackedSequence) and lengths is not None:
            return _packed_like(input, outputs, lengths), last
        return (outputs.transpose(0, 1) if layer.batch_first else outputs), last


def refuse_reordered(packed: PackedSequence) -> None:
    """Accept sequences that PyTorch has sorted, and knows the way back, by returning.

    Raises:
        NotPerRecord: The model has sorted the records itself: nobody knows whose they are.
    """
    if packed.sorted_indices is None:
        raise NotPerRecord(
            "a recurrent layer sees records in an order of the model's own",
            todo="pack sequences with enforce_sorted=False, in the records' order",
        )


def _packed_like(packed: PackedSequence, outputs: Tensor, lengths: Tensor) -> PackedSequence:
    """Outputs, shape (time, n, width), in the places where the inputs were."""
    order = packed.sorted_indices
    assert order is not None  # noqa: S101 - refused before
    found = pack_padded_sequence(outputs.index_select(1, order), lengths[order.cpu()])
    return PackedSequence(found.data, packed.batch_sizes, order, packed.unsorted_indices)


def _all_layers(
    layer: nn.RNNBase,
    tape: Tape,
    x: Tensor,
    lengths: Tensor | None,
    hx: Any,  # noqa: ANN401
) -> tuple[Tensor, Any]:
    """Layer after layer, each in its directions, as the layer's own `forward` does."""
    directions = 2 if layer.bidirectional else 1
    cell, states, memories = layer.mode == "LSTM", [], []
    first = x.new_zeros(layer.num_layers * directions, x.shape[1], layer.hidden_size)
    given, kept = (hx if cell else (hx, first)) if hx is not None else (first, first)
    for number in range(layer.num_layers):
        sides = []
        for way in range(directions):
            place = number * directions + way
            suffix = f"l{number}" + ("_reverse" if way else "")
            one = Direction.of(layer, suffix, tape, lengths)
            around = _turned(x, lengths) if way else x
            y, h, c = one.outputs(around, given[place], kept[place] if cell else None)
            sides.append(_turned(y, lengths) if way else y)
            states.append(h)
            memories.append(c)
        x = torch.cat(sides, dim=2) if directions == 2 else sides[0]
        if number + 1 < layer.num_layers:
            x = functional.dropout(x, layer.dropout, layer.training)
    last = torch.stack(states)
    return x, (last, torch.stack([c for c in memories if c is not None])) if cell else last


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence from its own end to its beginning; what lies behind its end stays there."""
    if lengths is None:
        return x.flip(0)
    steps, ends = torch.arange(len(x), device=x.device)[:, None], lengths.to(x.device)
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    return x.gather(0, places[:, :, None].expand(-1, -1, x.shape[2]))


@dataclass(frozen=True)
class Direction:
    """One layer in one direction.

    Attributes:
        mode: Of the cell, as PyTorch calls it.
        tape: Where uses are written.
        parameters: Input and recurrent matrices, then their biases if there are any.
        lengths: Of the records, int64, on the CPU; None if all are whole.
        through_kernel: Go backward through the kernel, with an identity as input matrix.
    """

    mode: str
    tape: Tape
    parameters: tuple[Tensor, ...]
    lengths: Tensor | None
    through_kernel: bool

    @staticmethod
    def of(layer: nn.RNNBase, suffix: str, tape: Tape, lengths: Tensor | None) -> Direction:
        """The one whose parameters have this suffix."""
        names = ("weight_ih_", "weight_hh_", "bias_ih_", "bias_hh_")[: 4 if layer.bias else 2]
        parameters = tuple(getattr(layer, name + suffix) for name in names)
        on_gpu = parameters[0].device.type != "cpu"
        return Direction(layer.mode, tape, parameters, lengths, through_kernel=on_gpu)

    def outputs(
        self, x: Tensor, state: Tensor, memory: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs of all steps, 0 behind a record's end, and its last state and memory.

        Args:
            x: Shape (time, n, into).
            state: Before the first step, shape (n, hidden).
            memory: The same of an LSTM, else None.
        """
        keys = self.tape.await_uses(self.parameters)
        bare = [parameter.detach() for parameter in self.parameters]

        def write(by_input: Tensor, by_state: Tensor, seen: Tensor, before: Tensor) -> None:
            self.tape.write(keys, self._uses(by_input, by_state, seen, before))

        if self.through_kernel:
            return self._by_kernel(x, state, memory, bare, write)
        anchor = x.new_empty(0, requires_grad=True)
        memory_given = state if memory is None else memory
        y, h, c = _Recurrence.apply(self, write, anchor, x, state, memory_given, *bare)  # type: ignore[no-untyped-call]
        return y, h, c if memory is not None else None

    def _uses(
        self, by_input: Tensor, by_state: Tensor, seen: Tensor, before: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        by_input, by_state, seen, before = (
            each.transpose(0, 1) for each in (by_input, by_state, seen, before)
        )
        biases = self.parameters[2:] or (None, None)
        yield from linear_uses(self.parameters[0], biases[0], seen, by_input)
        yield from linear_uses(self.parameters[1], biases[1], before, by_state)

    def kernel(
        self, x: Tensor, state: Tensor, memory: Tensor, weights: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The vendor's kernel; the last is the memory of an LSTM, and nothing else."""
        run, cell, biased = _KERNELS[self.mode], self.mode == "LSTM", len(weights) == 4
        if self.lengths is None:
            given = (state[None], memory[None]) if cell else state[None]
            found = run(x, given, weights, biased, 1, 0.0, True, False, False)
            y, h = found[0], found[1][0]
            return y, h, found[2][0] if cell else h
        packed = pack_padded_sequence(x, self.lengths, enforce_sorted=False)
        order, back = packed.sorted_indices, packed.unsorted_indices
        first = state[None, order], memory[None, order]
        given = first if cell else first[0]
        found = run(packed.data, packed.batch_sizes, given, weights, biased, 1, 0.0, True, False)
        again = PackedSequence(found[0], packed.batch_sizes, order, back)
        y, _ = pad_packed_sequence(again, total_length=len(x))
        h = found[1][0][back]
        return y, h, found[2][0][back] if cell else h

    def _by_kernel(
        self, x: Tensor, state: Tensor, memory: Tensor | None, bare: list[Tensor], write: Write
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Forward and backward by the kernel, whose input is projected outside."""
        matrix, recurrent, *biases = bare
        hidden, bias, inner = state.shape[1], None, torch.zeros_like(bare[0][:, 0])
        if biases:
            bias = biases[0] + biases[1]
            if self.mode == "GRU":  # what the reset gate multiplies stays inside
                inner[2 * hidden :] = biases[1][2 * hidden :]
                bias = bias - inner
        projected = changeable(functional.linear(x, matrix, bias))
        weights = [torch.eye(len(matrix)).to(matrix), recurrent, torch.zeros_like(inner), inner]
        y, h, c = self.kernel(projected, state, state if memory is None else memory, weights)
        # A hook that holds a tensor of its own graph would keep the whole pass alive for ever.
        kept = Seen(x, y, state, projected)

        def hook(gradient: Tensor) -> None:
            seen, outputs, first, known = kept.again()
            before = torch.cat([first[None], outputs[:-1]])
            by_state = gradient
            if self.mode == "GRU":
                own = functional.linear(before, recurrent[:hidden])
                reset = torch.sigmoid(known[..., :hidden] + own)
                by_state = gradient.clone()
                by_state[..., 2 * hidden :] *= reset
            write(gradient, by_state, seen, before)

        if projected.requires_grad:
            projected.register_hook(hook)
        return y, h, c if memory is not None else None

    def gates(
        self,
        x: Tensor,
        y: Tensor,
        before: Tensor,
        memory: Tensor,
        *,
        outside: Tensor,
        of_memory: Tensor,
        weights: list[Tensor],
    ) -> Gates:
        """Gradients of what goes into the gates, at every step.

        Args:
            x: Inputs, shape (time, n, into).
            y: States after each step, shape (time, n, hidden).
            before: States before each step, same shape.
            memory: Of an LSTM before the first step, shape (n, hidden).
            outside: Gradients of the states by what is outside, same shape as they.
            of_memory: Gradient of the last memory, same shape as it.
            weights: As `parameters`.
        """
        matrix, recurrent, *biases = weights
        valid = None
        if self.lengths is not None:
            steps = torch.arange(len(x), device=x.device)[:, None]
            valid = (steps < self.lengths.to(x.device)).to(x).unsqueeze(2)
        if self.mode == "RNN_RELU":
            return rnn_gates((y > 0).to(y), outside, recurrent, valid)
        if self.mode == "RNN_TANH":
            return rnn_gates(1 - y.square(), outside, recurrent, valid)
        apart = (-1, before.shape[2])
        if self.mode == "GRU":
            of_x, of_state = (
                functional.linear(*each).unflatten(2, apart)
                for each in zip((x, before), weights[:2], biases or (None, None), strict=True)
            )
            return gru_gates(of_x, of_state, before, outside, recurrent, valid)
        both = functional.linear(before, recurrent, biases[0] + biases[1] if biases else None)
        both.flatten(0, 1).addmm_(x.flatten(0, 1), matrix.T)
        return lstm_gates(both.unflatten(2, apart), memory, outside, of_memory, recurrent, valid)


class _Recurrence(torch.autograd.Function):
    """The kernel forward, and `cells` backward."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        direction: Direction,
        write: Write,
        _anchor: Tensor,
        x: Tensor,
        state: Tensor,
        memory: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, last state and last memory."""
        x = x.contiguous()
        y, h, c = direction.kernel(x, state, memory, list(weights))
        if c is h:
            c = h.clone()
        ctx.direction, ctx.write = direction, write
        ctx.save_for_backward(x, y, state, memory, *weights)
        return y, h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_h: Tensor, of_c: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        """Write the uses down; gradients of inputs, first state and first memory."""
        x, y, state, memory, *weights = ctx.saved_tensors
        direction: Direction = ctx.direction
        before = torch.cat([state[None], y[:-1]])
        outside = of_y.clone(memory_format=torch.contiguous_format)
        if direction.lengths is None:
            outside[-1] += of_h
        else:
            records = torch.arange(x.shape[1], device=x.device)
            outside[direction.lengths.to(x.device) - 1, records] += of_h
        gates = direction.gates(
            x, y, before, memory, outside=outside, of_memory=of_c, weights=weights
        )
        by_input, by_state = gates.by_input.flatten(2), gates.by_state.flatten(2)
        ctx.write(by_input, by_state, x, before)
        of_x = by_input @ weights[0] if ctx.needs_input_grad[3] else None
        return (None, None, None, of_x, gates.state, gates.memory, *[None] * len(weights))
