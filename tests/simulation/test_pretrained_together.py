"""A pretrained encoder is trained by hospitals together, privately, and only adapters travel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from fedward.client.app import open_site
from fedward.client.data.pieces import pieces_of
from fedward.models import flat
from fedward.models.pretrained import digest_of
from fedward.models.registry import build, settled
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import DataError, OptionError, StudyError
from fedward.study.study import Study, parse_study
from fedward.study.token_data import TextData

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.models.tiny_bert import write_encoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
COUNT = 48


def study_of(digest: str, **tables: dict[str, object]) -> Study:
    values = {
        "study": {"name": "notes"},
        "task": {"kind": "binary", "classes": ["well", "ill"]},
        "model": {"name": "huggingface", "pretrained": digest, "rank": 2},
        "data": {"kind": "text", "length": 8, "tokenizer": "model"},
        "training": {"rounds": 1, "local_steps": 2, "learning_rate": 0.1},
        "privacy": {
            "mode": "local",
            "noise_multiplier": 1.0,
            "delta": 1e-5,
            "sampling_rate": 0.5,
            "accountant": "rdp",
        },
        "participation": {"hospitals": 3},
        "simulation": {"split": "iid", "source": {"patient": "record"}},
    }
    return parse_study({**values, **tables})


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    lines = ["text,label"]
    for number in range(COUNT):
        word = ("well", "ill")[number % 2]
        lines.append(f"the {('heart', 'lung')[number % 3 % 2]} is very {word} .,{number % 2}")
    file = tmp_path / "notes.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.slow
def test_a_private_round_with_secure_sums_moves_adapters_and_nothing_else(
    notes: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "models"
    study = settled(study_of(digest_of(write_encoder(shelf / "bert"))))
    assert study.aggregation.secure

    options = Options(out=tmp_path / "run", data=notes, workers=1, baselines=False, models=shelf)
    result = simulate(study, options, listener=lambda _: None, say=lambda _: None)

    assert result.failures == []
    assert result.metrics.federated.model_dump()["records"] > 0
    assert all(spent.epsilon for spent in result.privacy.values())
    model = build(study, seed=0, models=shelf)
    adapters = 2 * 2 * 2 * (16 + 16)  # layers, query and value, rank
    assert len(flat.flatten(model)) == adapters + 34
    for file in sorted((tmp_path / "run" / "hospitals").glob("*/hospital.toml")):
        loaded = open_site(file).load(study.digest())
        assert loaded.size == adapters + 34  # what the secure sum's vectors hold
    with safe_open(tmp_path / "run" / "model.safetensors", "np") as left:
        names = list(left.keys())
        assert all(".lora_" in name or name.startswith("head.") for name in names)
        assert sum(left.get_tensor(name).size for name in names) == adapters + 34
        sent = {name: left.get_tensor(name) for name in names}
    first = flat.named(build(study, seed=0, models=shelf))
    assert all((sent[name] != first[name].numpy()).any() for name in names if "lora_B" in name)


def test_without_its_folder_a_simulation_reads_nothing(notes: Path, tmp_path: Path) -> None:
    study = study_of("0" * 64)
    for models, error in ((None, OptionError), (tmp_path, DataError)):
        options = Options(out=tmp_path / "run", data=notes, models=models)
        with pytest.raises(error, match="pretrained model 000000000000"):
            simulate(study, options, listener=lambda _: None, say=lambda _: None)


# --- Its own tokens -------------------------------------------------------------------------------


def test_tokens_are_the_tokenizer_s_own_plus_one(tmp_path: Path) -> None:
    """[CLS] 2, [SEP] 3, the 4, heart 5, well 8, ##ness 11, unknown 1."""
    folder = write_encoder(tmp_path / "bert")
    study = study_of(digest_of(folder))
    assert isinstance(study.data, TextData)
    texts = pd.Series(["the heart", "wellness", "", "odd heart the the the the heart"], dtype=str)

    found, facts = pieces_of(texts, study, study.data, tmp_path)

    assert found.tolist() == [
        [3, 5, 6, 4, 0, 0, 0, 0],
        [3, 9, 12, 4, 0, 0, 0, 0],
        [3, 4, 0, 0, 0, 0, 0, 0],
        [3, 2, 6, 5, 5, 5, 5, 4],  # the last word is cut off, and the end's sign is kept
    ]
    assert found.dtype == np.int64
    assert [fact.text for fact in facts] == [
        "4 in the middle text, 9 at most",
        "1 of 4 texts (25%) after 8",
    ]


def test_a_tokenizer_that_is_broken_or_another_model_s_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "bert")
    path = folder / "tokenizer.json"
    texts, text = pd.Series(["the heart"], dtype=str), path.read_text()
    for content, why in (("{}", "is no tokenizer"), (text.replace('"not": 13', '"not": 99'), "99")):
        path.write_text(content)
        study = study_of(digest_of(folder))
        assert isinstance(study.data, TextData)
        with pytest.raises(DataError, match=why):
            pieces_of(texts, study, study.data, tmp_path)
    path.write_text(text)
    short = study_of(digest_of(folder), data={"kind": "text", "length": 2, "tokenizer": "model"})
    assert isinstance(short.data, TextData)
    with pytest.raises(StudyError, match="more than the 2 signs"):
        pieces_of(texts, short, short.data, tmp_path)
