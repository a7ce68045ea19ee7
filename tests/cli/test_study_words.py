"""What an approver is shown is what stands in the study, and nothing that a terminal obeys."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.client.hospital import Limits
from fedward.client.study_words import words_of
from fedward.study.study import Study, parse_study
from tests.enrolled import Enrolled, enrol
from tests.secure_sites import PRIVATE, study_of

FREE = Limits()
TOLD: dict[str, dict[str, Any]] = {
    "study": {"name": "told", "title": "A title"},
    "model": {"name": "mlp", "hidden": [12, 5]},
    "data": {
        "kind": "table",
        "features": {f"column-{number}": {} for number in range(70)},
        "label": "diagnosis",
        "parts": {"by": "hash", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 7},
    },
    "training": {
        **{"rounds": 17, "local_epochs": None, "local_steps": 9},
        **{"learning_rate": 0.375, "momentum": 0.5, "weight_decay": 0.0625},
    },
    "aggregation": {"max_records": 640, "clip": 2.5, "colluding": 1, "min_honest": 3},
    "participation": {"hospitals": 6, "invited": 6, "min_hospitals": 6},
}


def told(**tables: dict[str, Any]) -> Study:
    return study_of(**{**TOLD, **tables})


def words(study: Study, limits: Limits = FREE) -> dict[str, str]:
    """The lines, by what they are about."""
    lines = list(words_of(study, study.digest(), limits))
    return {line[:12].strip(): line[12:].strip() for line in lines if line.startswith("  ")}


def test_what_the_model_is_for_is_told() -> None:
    about = {"intended_use": "A second look.", "limits": ["Not for children.", "Not alone."]}
    lines = words(told(study={"name": "told", **about}))
    assert lines["is for"] == "A second look."
    assert lines["not for"] == "Not for children. Not alone."
    assert not {"is for", "not for"} & set(words(told()))


def test_a_title_cannot_write_over_other_lines() -> None:
    """Not even in a study that no reader of files would have taken."""
    title = "nice\x1b[1A\x1b[2K\n  patients    differential privacy\u202e"
    study = study_of()
    study = study.model_copy(update={"study": study.study.model_copy(update={"title": title})})

    lines = list(words_of(study, study.digest(), FREE))

    assert all(line.isprintable() for line in lines)
    assert "nice\ufffd[1A" in lines[0]
    assert sum(line.startswith("  patients") for line in lines) == 1


def test_subgroups_and_replicates_are_told() -> None:
    groups = {
        "sex": {"column": "gender", "values": ["f", "m"]},
        "age": {"column": "years", "edges": [40, 65]},
    }
    line = words(told(evaluation={"replicates": 30, "fewest": 7, "subgroups": groups}))["evaluates"]

    assert "age (column years: below 40; 40 to below 65; 65 or more)" in line
    assert "sex (column gender: f; m)" in line
    assert "below 7 patients shown (the aggregator can read smaller ones too);" in line
    assert "30 times" in line
    assert "without noise" in line
    assert "CLEAR" not in line
    plain = {**TOLD["aggregation"], "secure": False}
    line = words(told(evaluation={"subgroups": groups}, aggregation=plain))["evaluates"]
    assert "(the aggregator can read smaller ones too, IN CLEAR and of each hospital)" in line
    alone = words(told(evaluation={}))["evaluates"]
    assert alone.startswith("the final model on the test records; ")
    assert "evaluates" not in words(told())


def test_nothing_that_matters_is_left_out() -> None:
    study = told(privacy={**PRIVATE, "noise_multiplier": 1.25, "clipping_norm": 0.75})
    found = words(study)

    assert all(f"column-{number}" in found["reads"] for number in range(70))
    assert "diagnosis" in found["reads"]
    assert "hidden = [12, 5]" in found["model"]
    for text in ("17 rounds", "9 steps", "sgd", "learning rate 0.375", "momentum 0.5", "0.0625"):
        assert text in found["trains"]
    assert "6 hospitals, 6 of them in a round, which counts with 6 answers" in found["with"]
    assert "2.5" in found["updates"]
    assert "at most 640" in found["updates"]
    assert "at most 1 hospitals side with it (colluding)" in found["sums"]
    assert "at least 3 honest hospitals (min_honest)" in found["sums"]
    for text in ("noise multiplier 1.25", "delta 1e-05", "clipped to 0.75", "probability 0.5"):
        assert text in found["patients"]
    assert "training" not in found["metrics"]


def test_what_is_bad_for_patients_is_said_loudly() -> None:
    found = words(told(aggregation={**TOLD["aggregation"], "secure": False}))

    assert found["sums"].startswith("IN CLEAR")
    assert found["patients"].startswith("NO differential privacy")
    assert "training" in found["metrics"]
    assert "read IN CLEAR" in found["metrics"]


def test_what_one_approval_allows() -> None:
    private = told(privacy=PRIVATE)

    assert "ANY NUMBER of runs" in words(private)["runs"]
    assert "hospital.toml sets no limit" in words(private)["runs"]
    capped = words(private, Limits(epsilon=3.5, delta=1e-6))["runs"]
    assert "until this hospital's budget is spent: epsilon 3.5 at delta 1e-06" in capped
    assert "no budget counts them" in words(told())["runs"]


@pytest.fixture
def north(tmp_path: Path) -> Enrolled:
    return enrol(tmp_path, "north")[0]


def said(north: Enrolled, *given: str) -> str:
    command = ["hospital", "studies", *given, "--hospital", str(north.path)]
    return CliRunner().invoke(app, command, catch_exceptions=False).stdout


def test_a_study_is_shown_whole_before_anybody_approves_it(north: Enrolled) -> None:
    study = told(privacy=PRIVATE)
    digest = north.offer(study)

    text = said(north, digest[:8])

    head, toml = text.split("\n\n", 1)
    shown = parse_study(tomllib.loads(toml))
    assert shown.digest() == digest
    assert shown.contract() == study.contract()
    assert "ANY NUMBER of runs" in head
    assert "budget is spent: epsilon 8 at delta 1e-05" in head  # as its hospital.toml says
    assert head.endswith("offered")


def test_its_canonical_text_has_the_digest(north: Enrolled) -> None:
    digest = north.offer(told())

    text = said(north, digest, "--canonical")

    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_an_unknown_digest_is_one_line(north: Enrolled) -> None:
    result = CliRunner().invoke(
        app, ["hospital", "studies", "ab" * 8, "--hospital", str(north.path)]
    )
    assert "0 studies begin with" in str(result.exception)


def test_noise_in_evaluation_is_a_line_of_its_own() -> None:
    silent = told(privacy=PRIVATE)
    noised = told(privacy={**PRIVATE, "evaluation_noise_multiplier": 2.5})

    assert "2.5" in words(noised)["judges"]
    assert "judges" not in words(silent)


def test_a_study_that_makes_images_says_so() -> None:
    images = {"kind": "images", "shape": [1, 6, 5]}
    study = parse_study(
        {
            **study_of().model_dump(mode="json", exclude_none=True),
            "task": {"kind": "generation", "classes": ["well", "ill"]},
            "model": {"name": "gan"},
            "data": images,
        }
    )

    assert words(study)["learns"] == "to make images of well, ill that look like the records"


def test_what_stays_at_the_hospital_is_a_line_of_its_own() -> None:
    assert "keeps" not in words(told())
    kept = words(told(aggregation={"strategy": "fedper", "head_layers": 1}))["keeps"]
    assert "its own last 1 layers: at this hospital alone" in kept
    kept = words(told(training={"fine_tuning": {"steps": 20, "learning_rate": 0.01}}))["keeps"]
    assert "trained 20 steps further on the records here" in kept
