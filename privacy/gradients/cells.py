"""What recurrent cells do at one step, backwards: from all states, which the vendor's kernel found.

Once the states are known, the gates of all steps follow from two products, and what is left step by
step is h's gradient through the recurrent matrix, and in an LSTM the memory's. Tensors here are
(time, n, gates, hidden); gates are in PyTorch's order. `valid` is (time, n, 1), 0 where a record
has ended, or None. What is given is written over: these are the largest tensors of a pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """Gradients of what goes into the gates.

    Attributes:
        by_input: Of the input's part, shape (time, n, gates, hidden).
        by_state: Of the state's part; the same tensor but in a GRU.
        state: Of the first state, shape (n, hidden).
        memory: Of the first memory, shape (n, hidden); only of an LSTM.
    """

    by_input: Tensor
    by_state: Tensor
    state: Tensor
    memory: Tensor | None


def rnn_gates(slope: Tensor, outside: Tensor, matrix: Tensor, valid: Tensor | None) -> Gates:
    """Of a plain cell, h = tanh or relu of the sum.

    Args:
        slope: Of tanh or relu at each step, shape (time, n, hidden).
        outside: Gradients of the states by what is outside, same shape.
        matrix: The recurrent one, shape (hidden, hidden).
        valid: Where records have not ended.
    """
    if valid is not None:
        slope *= valid
    state = outside[-1]
    for step in reversed(range(len(slope))):
        slope[step].mul_(state)
        state = torch.addmm(outside[step - 1], slope[step], matrix) if step else slope[0] @ matrix
    whole = slope.unsqueeze(2)
    return Gates(whole, whole, state, None)


def gru_gates(
    by_input: Tensor,
    by_state: Tensor,
    before: Tensor,
    outside: Tensor,
    matrix: Tensor,
    valid: Tensor | None,
) -> Gates:
    """Of a GRU cell: h = (1 - z) n + z h', n = tanh(x_n + r s_n).

    Args:
        by_input: What goes into the gates r, z, n from the input.
        by_state: And from the state before.
        before: States before each step, shape (time, n, hidden).
        outside: Gradients of the states by what is outside, same shape.
        matrix: The recurrent one, shape (3 hidden, hidden).
        valid: Where records have not ended.
    """
    reset, update = (by_input[:, :, :2] + by_state[:, :, :2]).sigmoid_().unbind(2)
    inner = by_state[:, :, 2]
    new = torch.addcmul(by_input[:, :, 2], reset, inner).tanh_()
    of_new = 1 - update
    of_update = (before - new).mul_(update).mul_(of_new)
    of_new.mul_(1 - new.square())
    of_inner = of_new * reset
    of_reset = inner.mul_(of_inner).mul_(1 - reset)
    slopes = torch.stack([of_reset, of_update, of_inner], dim=2)
    if valid is not None:
        slopes *= valid.unsqueeze(2)
        update, of_new = update * valid, of_new * valid
    flat, now = slopes.flatten(2), outside[-1]
    for step in reversed(range(len(before))):
        slopes[step].mul_(now.unsqueeze(1))
        of_new[step].mul_(now)
        back = torch.addcmul(outside[step - 1], now, update[step]) if step else now * update[0]
        now = back.addmm_(flat[step], matrix)
    whole = torch.cat([slopes[:, :, :2], of_new.unsqueeze(2)], dim=2)
    return Gates(whole, slopes, now, None)


def lstm_gates(
    sums: Tensor,
    memory: Tensor,
    outside: Tensor,
    of_memory: Tensor,
    matrix: Tensor,
    valid: Tensor | None,
) -> Gates:
    """Of an LSTM cell: c = f c' + i g, h = o tanh(c).

    Args:
        sums: What goes into the gates i, f, g, o.
        memory: c before the first step, shape (n, hidden).
        outside: Gradients of the states by what is outside, shape (time, n, hidden).
        of_memory: Gradient of the last c by what is outside, shape (n, hidden).
        matrix: The recurrent one, shape (4 hidden, hidden).
        valid: Where records have not ended.
    """
    new = sums[:, :, 2].tanh()
    write, keep, _, out = sums.sigmoid_().unbind(2)
    stay, added = keep.contiguous(), write * new
    kept = new.new_empty(len(new) + 1, *new.shape[1:])
    kept[0] = memory
    for step in range(len(new)):
        torch.addcmul(added[step], stay[step], kept[step], out=kept[step + 1])
    # x (1 - s) is x - x s in one operation; each gate's slope takes its gate's place.
    shown = kept[1:].tanh()
    seen = shown * out
    through = torch.addcmul(out, seen, shown, value=-1)
    torch.addcmul(seen, seen, out, value=-1, out=sums[:, :, 3])
    torch.addcmul(write, added, new, value=-1, out=sums[:, :, 2])
    torch.addcmul(added, added, write, value=-1, out=sums[:, :, 0])
    lost = torch.mul(kept[:-1], stay, out=new)
    torch.addcmul(lost, lost, stay, value=-1, out=sums[:, :, 1])
    if valid is not None:
        sums *= valid.unsqueeze(2)
        through *= valid
        stay = torch.where(valid > 0, stay, 1)
    state, carried = outside[-1], of_memory
    inner, last, flat = sums[:, :, :3].unbind(), sums[:, :, 3].unbind(), sums.flatten(2).unbind()
    ahead = [None, *outside.unbind()[:-1]]
    for step in reversed(range(len(outside))):
        carried = torch.addcmul(carried, state, through[step])
        inner[step].mul_(carried.unsqueeze(1))
        last[step].mul_(state)
        carried.mul_(stay[step])
        given = ahead[step]
        state = flat[step] @ matrix if given is None else torch.addmm(given, flat[step], matrix)
    return Gates(sums, sums, state, carried)
