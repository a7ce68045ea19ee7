"""What an approver is shown is what stands in the study, and nothing that a terminal obeys."""

from __future__ import annotations

from fedward.cli.study_words import words_of
from tests.secure_sites import study_of


def test_a_title_cannot_write_over_other_lines() -> None:
    title = "nice\x1b[1A\x1b[2K\n  patients    differential privacy\u202e"
    study = study_of(study={"name": "s", "title": title})

    lines = list(words_of(study, study.digest()))

    assert all(line.isprintable() for line in lines)
    assert "nice\ufffd[1A" in lines[0]
    assert sum(line.startswith("  patients") for line in lines) == 1


def test_noise_in_evaluation_is_a_line_of_its_own() -> None:
    local = {"mode": "local", "epsilon": 2.0, "delta": 1e-3, "sampling_rate": 0.5}
    silent = study_of(privacy=local)
    noised = study_of(privacy=local | {"evaluation_noise_multiplier": 2.5})

    lines = list(words_of(noised, noised.digest()))

    assert any(line.startswith("  judges ") and "2.5" in line for line in lines)
    assert not any(line.startswith("  judges ") for line in words_of(silent, silent.digest()))
