"""The networks of `private_training.py`, with random records for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from fedward.models import small_cnn
from fedward.models.inputs import Inputs


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 5)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(inputs)[0][:, -1])
        return found


class Encoder(nn.Module):
    """Two layers of a transformer encoder over 128 tokens of 1,000."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(1000, width)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
                for _ in range(2)
            )
        )
        self.head = nn.Linear(width, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(self.tokens(inputs)).mean(dim=1))
        return found


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        build: Makes it.
        records: Makes so many random inputs.
        batch: Records in a step.
        classes: Outputs.
        missing: The package that is not there, or None.
        slow: Takes minutes: measured where `--only` names it, with fewer steps.
    """

    build: Callable[[], nn.Module]
    records: Callable[[int], Tensor]
    batch: int
    classes: int
    missing: str | None = None
    slow: bool = False


def _densenet() -> nn.Module:
    from monai.networks.nets import DenseNet121  # type: ignore[import-not-found]

    from fedward.models.private_form import private_form

    return private_form(DenseNet121(spatial_dims=2, in_channels=1, out_channels=5))


def _bert() -> nn.Module:
    """BERT base (Devlin et al. 2019) with random weights: its size is what counts here."""
    from transformers import BertConfig, BertModel

    from fedward.models.huggingface import Settings, headed

    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # ghost goes twice
    body = BertModel(BertConfig(**plain, attn_implementation="sdpa"), add_pooling_layer=False)
    return headed(body, 5, Settings(pretrained="0" * 64))


def _series(count: int) -> Tensor:
    return torch.randn(count, 140, 12)


CASES = {
    "small CNN, 28 x 28": Case(
        lambda: small_cnn.build(small_cnn.Settings(), Inputs("image", (1, 28, 28)), 2),
        lambda count: torch.randn(count, 1, 28, 28),
        64,
        2,
    ),
    "DenseNet121, 64 x 64": Case(
        _densenet,
        lambda count: torch.randn(count, 1, 64, 64),
        8,
        5,
        None if find_spec("monai") else "monai",
        slow=True,
    ),
    "LSTM 12 to 64, 140 steps": Case(
        lambda: Recurrent(nn.LSTM(12, 64, batch_first=True)), _series, 64, 5
    ),
    "GRU of 2 layers, both directions": Case(
        lambda: Recurrent(nn.GRU(12, 64, 2, batch_first=True, bidirectional=True)), _series, 64, 5
    ),
    "transformer, 2 layers, 128 tokens": Case(
        Encoder, lambda count: torch.randint(0, 1000, (count, 128)), 64, 5
    ),
    "BERT base with LoRA, 64 tokens": Case(
        _bert,
        lambda count: torch.randint(1, 30523, (count, 64)),
        4,
        5,
        None if find_spec("transformers") and find_spec("peft") else "fedward[huggingface]",
        slow=True,
    ),
}
