"""What recurrent cells do at one step, backwards: from all states, which the vendor's kernel found.

Once the states are known, the gates of all steps follow from two products, and what is left step by
step is h's gradient through the recurrent matrix, and in an LSTM the memory's. Tensors here are
(time, gates, hidden, n), so that each step's numbers lie beside each other. Gates are in PyTorch's
order. `valid` is (time, 1, n), 0 where a record has ended, or None.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """Gradients of what goes into the gates.

    Attributes:
        by_input: Of the input's part, shape (time, gates, hidden, n).
        by_state: Of the state's part; the same tensor but in a GRU.
        state: Of the first state, shape (hidden, n).
        memory: Of the first memory, shape (hidden, n); only of an LSTM.
    """

    by_input: Tensor
    by_state: Tensor
    state: Tensor
    memory: Tensor | None


class Sums(NamedTuple):
    """What goes into the gates, shape (time, gates, hidden, n) each.

    Attributes:
        by_input: From the input, with its bias.
        by_state: From the state before, with its bias.
    """

    by_input: Tensor
    by_state: Tensor


def rnn_gates(
    rectified: bool, states: Tensor, gradients: Tensor, matrix: Tensor, valid: Tensor | None
) -> Gates:
    """Of a plain cell, h = tanh or relu of the sum.

    Args:
        rectified: It is relu.
        states: After each step, shape (time, hidden, n).
        gradients: Of the states by what is outside, same shape.
        matrix: The recurrent one, shape (hidden, hidden).
        valid: Where records have not ended.
    """
    slope = (states > 0).to(states) if rectified else 1 - states.square()
    if valid is not None:
        slope = slope * valid
    found, back = torch.empty_like(slope), matrix.mT.contiguous()
    state = torch.zeros_like(states[0])
    for step in reversed(range(len(states))):
        torch.mul(state.add_(gradients[step]), slope[step], out=found[step])
        state = back @ found[step]
    whole = found.unsqueeze(1)
    return Gates(whole, whole, state, None)


def gru_gates(
    sums: Sums, before: Tensor, gradients: Tensor, matrix: Tensor, valid: Tensor | None
) -> Gates:
    """Of a GRU cell: h = (1 - z) n + z h', n = tanh(x_n + r s_n).

    Args:
        sums: Of its gates r, z, n.
        before: States before each step, shape (time, hidden, n).
        gradients: Of the states by what is outside, same shape.
        matrix: The recurrent one, shape (3 hidden, hidden).
        valid: Where records have not ended.
    """
    reset, update = (sums.by_input[:, :2] + sums.by_state[:, :2]).sigmoid_().unbind(1)
    inner = sums.by_state[:, 2]
    new = torch.addcmul(sums.by_input[:, 2], reset, inner).tanh_()
    of_new = (1 - update) * (1 - new.square())
    slopes = torch.stack(
        [
            of_new * inner * reset * (1 - reset),
            (before - new) * update * (1 - update),
            of_new * reset,
        ],
        dim=1,
    )
    if valid is not None:
        slopes, update = slopes * valid.unsqueeze(1), update * valid
        of_new = of_new * valid
    found, back = torch.empty_like(slopes), matrix.mT.contiguous()
    whole = torch.empty_like(before)
    state = torch.zeros_like(before[0])
    for step in reversed(range(len(before))):
        now = torch.add(state, gradients[step], out=whole[step])
        torch.mul(slopes[step], now, out=found[step])
        state = torch.addmm(now * update[step], back, found[step].flatten(0, 1))
    by_input = found.clone()
    torch.mul(of_new, whole, out=by_input[:, 2])
    return Gates(by_input, found, state, None)


def lstm_gates(
    sums: Tensor,
    memory: Tensor,
    gradients: Tensor,
    of_memory: Tensor,
    matrix: Tensor,
    valid: Tensor | None,
) -> Gates:
    """Of an LSTM cell: c = f c' + i g, h = o tanh(c).

    Args:
        sums: Of its gates i, f, g, o, shape (time, 4, hidden, n); it is written over.
        memory: c before the first step, shape (hidden, n).
        gradients: Of the states by what is outside, shape (time, hidden, n).
        of_memory: Gradient of the last c by what is outside, shape (hidden, n).
        matrix: The recurrent one, shape (4 hidden, hidden).
        valid: Where records have not ended.
    """
    new = sums[:, 2].tanh()
    write, keep, _, out = sums.sigmoid_().unbind(1)
    added, kept = write * new, torch.empty_like(new)
    before = torch.empty_like(new)
    for step in range(len(new)):
        before[step] = memory
        memory = torch.addcmul(added[step], keep[step], memory, out=kept[step])
    shown = kept.tanh()
    through = out * (1 - shown.square())
    slopes = torch.empty_like(sums)
    torch.mul(added, 1 - write, out=slopes[:, 0])
    torch.mul(before * keep, 1 - keep, out=slopes[:, 1])
    torch.mul(write, 1 - new.square(), out=slopes[:, 2])
    torch.mul(shown * out, 1 - out, out=slopes[:, 3])
    if valid is not None:
        slopes, through = slopes * valid.unsqueeze(1), through * valid
        keep = torch.where(valid > 0, keep, 1)
    found, back = torch.empty_like(slopes), matrix.mT.contiguous()
    state, carried = torch.zeros_like(of_memory), of_memory
    steps = zip(
        reversed(gradients.unbind()),
        reversed(through.unbind()),
        reversed(slopes[:, :3].unbind()),
        reversed(slopes[:, 3].unbind()),
        reversed(keep.unbind()),
        reversed(found.unbind()),
        reversed(found.flatten(1, 2).unbind()),
        strict=True,
    )
    for outside, pass_on, inner, last, stay, gates, flat in steps:
        state += outside
        carried = torch.addcmul(carried, state, pass_on)
        torch.mul(inner, carried, out=gates[:3])
        torch.mul(last, state, out=gates[3])
        carried *= stay
        state = back @ flat
    return Gates(found, found, state, carried)
