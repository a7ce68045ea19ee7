"""Encoders that others trained on public texts, from a folder of the machine's own.

The body stays as it is, gets small adapters (LoRA: Hu et al. 2022), or is trained whole. Only what
is trained travels: a body that stays is on every machine already, known by its digest.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedward.models import flat
from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.pretrained import CONFIG, WEIGHTS, config_of
from fedward.models.steps import mean_there
from fedward.study.errors import DataError, OptionError, StudyError
from fedward.study.frozen import Frozen

Target = Literal["query", "key", "value", "output", "feed_forward"]


class Settings(Frozen):
    """Which model, and what of it is trained.

    Attributes:
        pretrained: Digest of its folder, as `fedward study pretrained FOLDER` prints it.
        body: `frozen`: only the head is trained; `lora`: adapters beside some of its matrices, too;
            `full`: everything.
        rank: Of an adapter: a matrix (out, into) gets one of rank * (out + into) weights.
        alpha: What an adapter adds is multiplied by alpha / rank.
        targets: Matrices that get an adapter: of attention, and the two of `feed_forward`.
        reads: What the head sees: the `mean` over a text's tokens, or the `first` token.
    """

    pretrained: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    body: Literal["frozen", "lora", "full"] = "lora"
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = ("query", "value")
    reads: Literal["mean", "first"] = "mean"


class _Kind(NamedTuple):
    """How transformers (5) calls things in one kind of encoder.

    Attributes:
        network: Its class.
        places: Pattern of the names of each target's layers.
        extra: What its class is built with.
        width: Key of the settings that gives the features of a token.
    """

    network: str
    places: dict[Target, str]
    extra: dict[str, bool]
    width: str = "hidden_size"


_BERT: dict[Target, str] = {
    "query": r".*\.attention\.self\.query",
    "key": r".*\.attention\.self\.key",
    "value": r".*\.attention\.self\.value",
    "output": r".*\.attention\.output\.dense",
    "feed_forward": r".*\.\d+\.(intermediate|output)\.dense",
}
_NO_POOLER = {"add_pooling_layer": False}
_KINDS = {
    "bert": _Kind("BertModel", _BERT, _NO_POOLER),
    "camembert": _Kind("CamembertModel", _BERT, _NO_POOLER),
    "roberta": _Kind("RobertaModel", _BERT, _NO_POOLER),
    "xlm-roberta": _Kind("XLMRobertaModel", _BERT, _NO_POOLER),
    "electra": _Kind("ElectraModel", _BERT, {}),
    "distilbert": _Kind(
        "DistilBertModel",
        {
            "query": r".*\.attention\.q_lin",
            "key": r".*\.attention\.k_lin",
            "value": r".*\.attention\.v_lin",
            "output": r".*\.attention\.out_lin",
            "feed_forward": r".*\.ffn\.lin[12]",
        },
        {},
        "dim",
    ),
}
_PADDED_FIRST = ("camembert", "roberta", "xlm-roberta")  # places begin after the padding's number


def build(settings: Settings, inputs: Inputs, outputs: int, folder: Path) -> nn.Module:
    """Inputs (n, time), the tokenizer's numbers plus 1, and 0 after the end; outputs (n, outputs).

    Args:
        settings: What of the model is trained.
        inputs: Of kind `pieces`.
        outputs: Of the head, a linear layer with fresh weights.
        folder: The model's.

    Raises:
        OptionError: Transformers or PEFT is not installed.
        DataError: The folder holds no encoder that is known here.
        StudyError: Its records are longer than the model can read.
    """
    transformers = _library("transformers")
    config = config_of(folder)
    kind = _KINDS.get(str(config.get("model_type")))
    if kind is None or "quantization_config" in config:
        raise DataError(
            f"a model of type {config.get('model_type')!r} is not taken, nor a quantized one",
            todo=f"take one of {', '.join(_KINDS)}",
            where=str(folder / CONFIG),
        )
    body = _loaded(getattr(transformers, kind.network), config, kind, folder)
    longest = int(body.config.max_position_embeddings) - _first_place(body)
    if inputs.shape[0] > longest:
        raise StudyError(
            "data.length", given=str(inputs.shape[0]), allowed=f"at most {longest} for this model"
        )
    return headed(body, outputs, settings)


def headed(body: Any, outputs: int, settings: Settings) -> nn.Module:  # noqa: ANN401
    """An encoder of transformers' with a head; what is trained of it is as the settings say.

    Args:
        body: Of a known kind. It is changed.
        outputs: Of the head.
        settings: What is trained.

    Raises:
        OptionError: PEFT is not installed.
    """
    kind = _KINDS[body.config.model_type]
    body.requires_grad_(settings.body == "full")
    network = _Network(body, nn.Linear(getattr(body.config, kind.width), outputs), settings)
    if settings.body == "lora":
        _adapt(body, settings, kind)
    flat.leave_out_untrained(network)
    return network


def _first_place(body: Any) -> int:  # noqa: ANN401
    """Number of a text's first place."""
    config = body.config
    return int(config.pad_token_id) + 1 if config.model_type in _PADDED_FIRST else 0


class _Network(nn.Module):
    def __init__(self, body: Any, head: nn.Module, settings: Settings) -> None:  # noqa: ANN401
        super().__init__()
        self.body = body
        self.head = head
        self._padding = int(body.config.pad_token_id or 0)
        self._first = _first_place(body)
        self._stays = settings.body == "frozen"
        self._mean = settings.reads == "mean"

    def train(self, mode: bool = True) -> _Network:
        """A body that stays has no dropout: it is the same function whenever it is asked."""
        super().train(mode)
        if self._stays:
            self.body.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        there = inputs != 0
        pieces = torch.where(there, inputs - 1, self._padding)
        # Given for each record: the body would look places up once for all of them.
        places = torch.arange(self._first, self._first + inputs.shape[1], device=inputs.device)
        found = self.body(
            input_ids=pieces, attention_mask=there.long(), position_ids=places.expand_as(inputs)
        ).last_hidden_state
        outputs: Tensor = self.head(mean_there(found, there) if self._mean else found[:, 0])
        return outputs


def _loaded(network: Any, config: dict[str, Any], kind: _Kind, folder: Path) -> Any:  # noqa: ANN401
    """The encoder with its weights, all of which must be there. Nothing is looked for elsewhere."""
    where = str(folder / WEIGHTS)
    try:
        settings = network.config_class.from_dict(config, attn_implementation="sdpa")
        found = network.from_pretrained(
            None,
            config=settings,
            state_dict=load_file(folder / WEIGHTS),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **kind.extra,
        )
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"cannot be loaded ({' '.join(str(error).split())[:200]})",
            todo="copy the model anew",
            where=where,
        ) from None
    body, told = found
    if missing := sorted(told["missing_keys"]):
        raise DataError(
            f"lacks {len(missing)} of the model's weights, {missing[0]!r} for one",
            todo="take a folder whose config.json and model.safetensors belong together",
            where=where,
        )
    return body


def _adapt(body: Any, settings: Settings, kind: _Kind) -> None:  # noqa: ANN401
    """Put adapters beside the targets, in place; they begin as nothing (B = 0)."""
    peft = _library("peft")
    wanted = re.compile("|".join(kind.places[target] for target in settings.targets))
    names = [
        name
        for name, layer in body.named_modules()
        if isinstance(layer, nn.Linear) and wanted.fullmatch(name)
    ]
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
    )
    peft.inject_adapter_in_model(config, body)
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _library(name: Literal["transformers", "peft"]) -> ModuleType:
    try:
        found = import_module(name)
    except ImportError as error:
        raise OptionError(
            f"this model needs {name}, which is not there ({error})",
            todo="pip install 'fedward[huggingface]'",
        ) from None
    if name == "transformers":  # tells of every weight that a body does without
        found.logging.set_verbosity_error()
        found.logging.disable_progress_bar()
    return found


FAMILY = Family("huggingface", Settings, build, inputs=("pieces",), pretrained=True)
