"""One small network for each kind of layer, and clipped sums by their definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from fedward.models import mlp, small_cnn
from fedward.models.inputs import Inputs
from fedward.privacy.gradients.bounds import Clipping
from fedward.privacy.gradients.source import ClippedSums
from fedward.privacy.precision import FLOAT32, Precision


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


class Headed(nn.Module):
    """A layer, and a head on the mean over its positions."""

    def __init__(
        self, layer: nn.Module, features: int, show: Callable[[Tensor], Tensor] = lambda y: y
    ) -> None:
        super().__init__()
        self.layer, self.head, self._show = layer, nn.Linear(features, 2), show

    def forward(self, inputs: Tensor) -> Tensor:
        seen = torch.tanh(self._show(self.layer(inputs)))
        found: Tensor = self.head(seen.flatten(1, -2).mean(dim=1) if seen.ndim > 2 else seen)
        return found


def channels_last(outputs: Tensor) -> Tensor:
    return outputs.flatten(2).mT


def slanted(outputs: Tensor) -> Tensor:
    """Places weigh differently, so that a norm over them is not forgotten in their mean."""
    weights = torch.linspace(-1, 2, outputs[0, 0].numel(), dtype=outputs.dtype)
    return channels_last(outputs) * weights[:, None]


def by_channels(outputs: Tensor) -> Tensor:
    """Slanted too, but its gradient lies as its values do.

    PyTorch 2.13 differentiates instance norms of a single record wrongly where it does not.
    """
    weights = torch.linspace(-1, 2, outputs[0, 0].numel(), dtype=outputs.dtype)
    return outputs.flatten(2) * weights


class Words(nn.Module):
    """An embedding of small whole numbers that are made of the inputs."""

    def __init__(self, *, padded: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=3 if padded else None)
        self.back = nn.Linear(6, 11, bias=False)
        if tied:
            self.back.weight = self.table.weight

    def forward(self, inputs: Tensor) -> Tensor:
        words = (inputs[:, :, 0].abs() * 4).long().clamp(max=10)
        found: Tensor = self.back(torch.tanh(self.table(words)))
        return found


class Sequences(nn.Module):
    """What a recurrent layer says of whole sequences, its last states included."""

    def __init__(self, layer: nn.RNNBase, *, packed: bool = False) -> None:
        super().__init__()
        self.layer, self.packed = layer, packed

    def forward(self, inputs: Tensor) -> Tensor:
        given: Tensor | PackedSequence = inputs
        if not self.layer.batch_first:
            given = inputs.transpose(0, 1)
        if self.packed:
            lengths = (inputs[:, 0, 0].abs() * 10).long() % inputs.shape[1] + 1
            given = pack_padded_sequence(
                inputs, lengths.cpu(), batch_first=True, enforce_sorted=False
            )
        outputs, last = self.layer(given)
        if isinstance(outputs, PackedSequence):
            outputs, _ = pad_packed_sequence(
                outputs, batch_first=True, total_length=inputs.shape[1]
            )
        elif not self.layer.batch_first:
            outputs = outputs.transpose(0, 1)
        states = last if isinstance(last, tuple) else (last,)
        ends = torch.cat([state.square().sum(dim=0) for state in states], dim=1)
        whole = torch.cumsum(outputs, dim=1).mean(dim=1)
        found: Tensor = torch.cat([whole, ends], dim=1)
        return found


class Attention(nn.Module):
    """nn.MultiheadAttention over itself, or from other keys and values, with masks."""

    def __init__(
        self, *, across: bool = False, first: bool = True, weights: bool = False, keys: int = 8
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=first, kdim=keys, vdim=keys)
        self.other = nn.Linear(8, keys)
        self.across, self.first, self.weights = across, first, weights

    def forward(self, inputs: Tensor) -> Tensor:
        other = self.other(inputs)
        keys = other if self.across else inputs
        causal = torch.ones(inputs.shape[1], inputs.shape[1]).triu(1).bool()
        ended = torch.zeros(inputs.shape[:2]).bool()
        ended[:, -1] = inputs[:, 0, 0] > 0
        turned = {id(t): t if self.first else t.transpose(0, 1) for t in (inputs, keys)}
        query, key = turned[id(inputs)], turned[id(keys)]
        seen, _ = self.attention(
            query, key, key, need_weights=self.weights, attn_mask=causal, key_padding_mask=ended
        )
        seen = seen if self.first else seen.transpose(0, 1)
        found: Tensor = torch.cat([seen, other], dim=2)
        return found


class Checkpointed(nn.Module):
    """A block whose inside is computed again on the way back."""

    def __init__(self, before: nn.Module, *block: nn.Module) -> None:
        super().__init__()
        self.before, self.block = before, nn.Sequential(*block)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = checkpoint(self.block, self.before(inputs), use_reentrant=False)
        return found


class Repeated(nn.Module):
    """A layer that is used many times, on more and on fewer positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, inputs: Tensor) -> Tensor:
        once: Tensor = torch.tanh(self.norm(self.layer(inputs)))
        twice: Tensor = torch.tanh(self.norm(self.layer(once)))
        found: Tensor = twice + self.layer(once.mean(dim=1)).unsqueeze(1)
        return found


def transformer() -> nn.Module:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return Headed(nn.TransformerEncoder(block, 2, enable_nested_tensor=False), 8)


Build = Callable[[], nn.Module]
SERIES = (5, 8)
KINDS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "linear": (lambda: Headed(nn.Linear(8, 7), 7), SERIES),
    "linear without bias": (lambda: Headed(nn.Linear(8, 7, bias=False), 7), (8,)),
    "convolution 1d": (
        lambda: Headed(nn.Conv1d(4, 6, 3, 2, 2, dilation=2, groups=2), 6, channels_last),
        (4, 9),
    ),
    "convolution 2d": (
        lambda: Headed(
            nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), dilation=(1, 2), groups=2), 6, channels_last
        ),
        (4, 9, 8),
    ),
    "convolution 3d": (
        lambda: Headed(nn.Conv3d(2, 4, (3, 2, 2), (2, 1, 1), (1, 0, 1)), 4, channels_last),
        (2, 5, 4, 5),
    ),
    "convolution of one place": (lambda: Headed(nn.Conv2d(3, 9, 4), 9, channels_last), (3, 4, 4)),
    "convolution, same": (
        lambda: Headed(nn.Conv2d(2, 4, (4, 3), padding="same"), 4, channels_last),
        (2, 6, 5),
    ),
    "convolution, reflected": (
        lambda: Headed(
            nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="reflect"), 4, channels_last
        ),
        (2, 6, 5),
    ),
    "group norm": (
        lambda: Headed(nn.Sequential(nn.Conv1d(4, 6, 1), nn.GroupNorm(3, 6)), 6, slanted),
        (4, 9),
    ),
    "instance norm": (
        lambda: Headed(
            nn.Sequential(nn.Conv2d(4, 6, 1), nn.InstanceNorm2d(6, affine=True)), 12, by_channels
        ),
        (4, 3, 4),
    ),
    "layer norm": (
        lambda: Headed(nn.Sequential(nn.Linear(8, 6), nn.LayerNorm((5, 6))), 6),
        SERIES,
    ),
    "rms norm": (lambda: Headed(nn.Sequential(nn.Linear(8, 6), nn.RMSNorm(6)), 6), SERIES),
    "embedding": (lambda: Headed(Words(padded=True), 11), SERIES),
    "tied": (lambda: Headed(Words(tied=True), 11), SERIES),
    "used often": (lambda: Headed(Repeated(), 8), SERIES),
    "lstm": (lambda: Headed(Sequences(nn.LSTM(8, 4, batch_first=True)), 12), SERIES),
    "lstm, stacked both ways": (
        lambda: Headed(Sequences(nn.LSTM(8, 3, 2, bidirectional=True)), 12),
        SERIES,
    ),
    "lstm, packed": (
        lambda: Headed(
            Sequences(nn.LSTM(8, 3, 2, batch_first=True, bidirectional=True), packed=True), 12
        ),
        SERIES,
    ),
    "gru, stacked both ways": (
        lambda: Headed(Sequences(nn.GRU(8, 3, 2, bidirectional=True, batch_first=True)), 9),
        SERIES,
    ),
    "gru, packed": (
        lambda: Headed(Sequences(nn.GRU(8, 4, 2, bias=False, batch_first=True), packed=True), 8),
        SERIES,
    ),
    "rnn": (lambda: Headed(Sequences(nn.RNN(8, 4, 2, batch_first=True)), 8), SERIES),
    "rnn, relu, packed": (
        lambda: Headed(
            Sequences(nn.RNN(8, 4, nonlinearity="relu", batch_first=True), packed=True), 8
        ),
        SERIES,
    ),
    "attention": (lambda: Headed(Attention(), 16), SERIES),
    "attention across, time first": (
        lambda: Headed(Attention(across=True, first=False, weights=True), 16),
        SERIES,
    ),
    "attention, other keys": (lambda: Headed(Attention(across=True, keys=5), 13), SERIES),
    "changed in place": (
        lambda: Headed(
            nn.Sequential(nn.Linear(8, 6), nn.ReLU(True), nn.Linear(6, 7), nn.ReLU(True)), 7
        ),
        SERIES,
    ),
    "convolution, changed in place": (
        lambda: Headed(nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(True)), 6, channels_last),
        (4, 9),
    ),
    "by opacus": (
        lambda: Headed(nn.Sequential(nn.ConvTranspose1d(4, 6, 3), nn.PReLU()), 6, channels_last),
        (4, 9),
    ),
    "checkpointed": (
        lambda: Headed(
            Checkpointed(
                nn.Linear(8, 8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6)
            ),
            6,
        ),
        SERIES,
    ),
    "checkpointed convolution": (
        lambda: Headed(
            Checkpointed(
                nn.Conv2d(4, 6, 1),
                nn.GroupNorm(2, 6),
                nn.Tanh(),
                nn.Conv2d(6, 6, 3, padding=1),
                nn.InstanceNorm2d(6, affine=True),
            ),
            12,
            by_channels,
        ),
        (4, 3, 4),
    ),
    "mlp": (lambda: mlp.build(mlp.Settings(hidden=(9, 5)), Inputs("features", (8,)), 2), (8,)),
    "small_cnn": (
        lambda: small_cnn.build(
            small_cnn.Settings(channels=(4, 6), groups=2, hidden=5),
            Inputs("image", (1, 6, 6)),
            2,
        ),
        (1, 6, 6),
    ),
    "transformer": (transformer, SERIES),
}


def network(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[name][0]().to(dtype).train()


def records(
    name: str, count: int, dtype: torch.dtype = torch.float64, seed: int = 0, size: float = 1.3
) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, *KINDS[name][1], generator=source, dtype=torch.float64) * size
    return inputs.to(dtype), torch.randint(0, 2, (count,), generator=source)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def of_patients(model: nn.Module, inputs: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each patient's mean gradient by plain autograd, shape (patients, parameters)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    found = []
    for x, y in zip(inputs.split(list(sizes)), labels.split(list(sizes)), strict=True):
        own = torch.autograd.grad(loss(model(x), y).mean(), trained, materialize_grads=True)
        found.append(flat(own))
    return torch.stack(found)


def clipped(each: Tensor, bound: float) -> Tensor:
    """Their sum, each shortened to the bound."""
    norms = each.double().norm(dim=1, keepdim=True)
    total: Tensor = (each * (bound / norms).clamp(max=1).to(each)).sum(dim=0)
    return total


def sums_of(
    kind: type[ClippedSums],
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    *,
    bound: float,
    clipping: Clipping = "flat",
    precision: Precision = FLOAT32,
) -> Tensor:
    """What an engine makes of these patients."""
    source = kind(model, bound=bound, clipping=clipping, precision=precision)
    return flat(source.of(loss, inputs, labels, torch.tensor(list(sizes))))
