"""Small encoders with random weights, in folders as Hugging Face's libraries write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordPiece

WORDS = ("the", "heart", "lung", "is", "well", "ill", "very", "##ness", ".", "not")
_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
PLACES = 24
_SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}
for _kind in ("roberta", "camembert", "xlm-roberta"):  # as real ones: places begin at 2
    _SIZES[_kind] = _SIZES["bert"] | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_SIZES["electra"] = _SIZES["bert"] | {"embedding_size": 8}
KINDS = tuple(_SIZES)


def write_encoder(
    folder: Path,
    kind: str = "bert",
    *,
    seed: int = 0,
    dropout: float = 0.0,
    deviation: float | None = 0.3,
) -> Path:
    """A tokenizer of a few words, and an encoder.

    Args:
        folder: For its files.
        kind: One of `KINDS`.
        seed: Of its weights.
        dropout: Of its layers.
        deviation: Of all its weights, large enough that each matters; the library's own if None,
            which tells words apart.
    """
    import transformers

    names = {
        **{"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra"},
        **{"roberta": "Roberta", "camembert": "Camembert", "xlm-roberta": "XLMRoberta"},
    }
    drops = (
        {"dropout": dropout, "attention_dropout": dropout}
        if kind == "distilbert"
        else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    )
    width = {} if kind == "distilbert" else {"intermediate_size": 32}
    config = getattr(transformers, f"{names[kind]}Config")(
        vocab_size=len(_PIECES), max_position_embeddings=PLACES, **_SIZES[kind], **width, **drops
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{names[kind]}Model")(config)
        if deviation is not None:
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=deviation)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordPiece({p: n for n, p in enumerate(_PIECES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
