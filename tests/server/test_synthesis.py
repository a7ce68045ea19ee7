"""Synthetic images as files, and the statement beside them: never more than may be said."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image

from fedward.models import flat
from fedward.models.gan import Gan
from fedward.models.registry import build, settled
from fedward.privacy.schedule import epsilon_after
from fedward.server.events import Outcome
from fedward.server.run_folder import write_model
from fedward.server.synthesis import images, synthesize
from fedward.server.synthesis_privacy import SIMULATED, UNPROTECTED
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study, parse_study

PRIVATE: dict[str, Any] = {
    "mode": "local",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "sampling_rate": 0.1,
    "accountant": "rdp",
}


def study_of(**tables: Any) -> Study:  # noqa: ANN401
    values = {
        "study": {"name": "tiny"},
        "task": {"kind": "generation", "classes": ["low", 'high, "up"']},
        "model": {"name": "gan", "channels": [4], "code": 3},
        "data": {"kind": "images", "shape": [1, 6, 5]},
        "training": {"rounds": 4, "local_steps": 2, "learning_rate": 0.1},
        "participation": {"hospitals": 3},
    }
    return settled(parse_study(values | tables))


def finished(folder: Path, study: Study, spent: dict[str, Any] | None = None) -> Path:
    """A run folder as a run leaves it; with a simulation's result if there is one."""
    folder.mkdir()
    text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
    (folder / "study.toml").write_text(text, encoding="utf-8")
    model = flat.flatten(build(study, seed=5))
    write_model(study, Outcome(model, {}, None, 0.5, None), folder / "model.safetensors")
    if spent is not None:
        result = {"study": {"digest": study.digest()}, "privacy": spent}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


def first_line(out: Path) -> str:
    return (out / "PRIVACY.md").read_text("utf-8").splitlines()[0]


def test_images_are_the_mean_generator_s_and_have_their_classes(tmp_path: Path) -> None:
    study = study_of()
    run, out = finished(tmp_path / "run", study), tmp_path / "out"

    synthesize(run, out, count=5, seed=3)

    files = sorted(path.name for path in out.glob("*.png"))
    assert files == [f"0000{n}.png" for n in range(5)]
    network = build(study, seed=5)
    assert isinstance(network, Gan)
    expected = list(images(network, count=5, seed=3))
    for name, (pixels, _) in zip(files, expected, strict=True):
        with Image.open(out / name) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels[0])
    with (out / "labels.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["file"] for row in rows] == files
    assert [row["class"] for row in rows] == ["low", 'high, "up"', "low", 'high, "up"', "low"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]  # nothing is left beside


def test_the_same_seed_gives_the_same_images_and_another_others(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", study_of())
    found = []
    for number, seed in enumerate((1, 1, 2)):
        synthesize(run, tmp_path / str(number), count=4, seed=seed)
        found.append((tmp_path / str(number) / "00003.png").read_bytes())

    assert found[0] == found[1] != found[2]


def test_colours_without_classes(tmp_path: Path) -> None:
    study = study_of(
        task={"kind": "generation"}, data={"kind": "images", "shape": [3, 6, 5], "label": []}
    )

    synthesize(finished(tmp_path / "run", study), tmp_path / "out", count=1, seed=0)

    with Image.open(tmp_path / "out" / "00000.png") as image:
        assert (image.mode, image.size) == ("RGB", (5, 6))
    assert not (tmp_path / "out" / "labels.csv").exists()


def test_without_privacy_the_first_line_says_that_images_may_show_patients(tmp_path: Path) -> None:
    spent = {"A": {"epsilon": None, "delta": None, "unit": None, "noise": "none"}}
    run = finished(tmp_path / "run", study_of(), spent)

    statement = synthesize(run, tmp_path / "out", count=1, seed=0)

    assert first_line(tmp_path / "out") == UNPROTECTED
    assert "may show real patients" in UNPROTECTED
    assert not statement.protects
    assert "epsilon" not in (tmp_path / "out" / "PRIVACY.md").read_text("utf-8")


def test_a_simulation_s_ledgers_are_told_and_protect_nobody(tmp_path: Path) -> None:
    spent = {
        name: {"epsilon": epsilon, "delta": 1e-5, "unit": "patient", "noise": "seeded"}
        for name, epsilon in (("North | A", 2.5), ("South", 7.25))
    }
    run = finished(tmp_path / "run", study_of(privacy=PRIVATE), spent)

    synthesize(run, tmp_path / "out", count=1, seed=0)

    words = (tmp_path / "out" / "PRIVACY.md").read_text("utf-8")
    assert first_line(tmp_path / "out") == SIMULATED
    assert "| North \\| A | 2.5 | 1e-05 | rdp | seeded |" in words
    assert "| South | 7.25 | 1e-05 | rdp | seeded |" in words
    found = json.loads((tmp_path / "out" / "privacy.json").read_bytes())
    assert not found["protects"]
    assert {name: each["epsilon"] for name, each in found["hospitals"].items()} == {
        "North | A": 2.5,
        "South": 7.25,
    }


def test_a_deployed_run_says_what_the_whole_run_charges(tmp_path: Path) -> None:
    study = study_of(privacy=PRIVATE)

    statement = synthesize(finished(tmp_path / "run", study), tmp_path / "out", count=1, seed=0)

    epsilon = epsilon_after(study, 4)
    assert statement.protects
    assert statement.epsilon == epsilon
    assert f"epsilon {epsilon:.4g} and delta 1e-05" in first_line(tmp_path / "out")


def test_where_declared_patients_decide_no_epsilon_is_made_up(tmp_path: Path) -> None:
    privacy = {k: v for k, v in PRIVATE.items() if k != "sampling_rate"} | {"patients_per_step": 8}
    run = finished(tmp_path / "run", study_of(privacy=privacy))

    statement = synthesize(run, tmp_path / "out", count=1, seed=0)

    assert statement.epsilon is None
    assert "by its declared patients" in (tmp_path / "out" / "PRIVACY.md").read_text("utf-8")


def test_a_round_that_validation_chose_is_said_to_be_chosen_without_noise(tmp_path: Path) -> None:
    words = "chosen on validation sums without noise"
    for name, early in (("plain", None), ("early", {"metric": "loss", "patience": 2})):
        training = {"rounds": 4, "local_steps": 2, "learning_rate": 0.1}
        study = study_of(
            privacy=PRIVATE,
            training=training | ({} if early is None else {"early_stopping": early}),
        )
        statement = synthesize(
            finished(tmp_path / name, study), tmp_path / f"{name} images", count=1, seed=0
        )
        said = (tmp_path / f"{name} images" / "PRIVACY.md").read_text("utf-8")
        assert (words in said) == statement.chosen == (early is not None)


@pytest.mark.parametrize("broken", [{}, {"A": {"epsilon": "low", "delta": 1, "noise": "none"}}])
def test_ledgers_that_cannot_be_read_stop_it(tmp_path: Path, broken: dict[str, Any]) -> None:
    run = finished(tmp_path / "run", study_of(privacy=PRIVATE), broken)

    with pytest.raises(DataError, match="ledgers"):
        synthesize(run, tmp_path / "out", count=1, seed=0)

    assert not (tmp_path / "out").exists()


def test_a_model_of_another_study_is_refused(tmp_path: Path) -> None:
    """A model without noise beside a private study would be called private."""
    plain = finished(tmp_path / "plain", study_of())
    private = finished(tmp_path / "private", study_of(privacy=PRIVATE))
    (plain / "model.safetensors").replace(private / "model.safetensors")

    with pytest.raises(DataError, match="another study"):
        synthesize(private, tmp_path / "out", count=1, seed=0)


def test_other_runs_and_full_folders_are_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", study_of())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OptionError, match="not empty"):
        synthesize(run, tmp_path / "out", count=1, seed=0)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]

    (run / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no finished model"):
        synthesize(run, tmp_path / "new", count=1, seed=0)

    other = study_of(
        task={"kind": "reconstruction"},
        model={"name": "vae"},
        data={"kind": "images", "shape": [1, 6, 5], "label": []},
    )
    with pytest.raises(OptionError, match="reconstruction"):
        synthesize(finished(tmp_path / "other", other), tmp_path / "new", count=1, seed=0)
