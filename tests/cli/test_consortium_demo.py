"""`fedward consortium demo` as a user runs it: real processes, one command, every file named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli_w

from tests.cli.conftest import Fedward, study_values, write_table


@pytest.mark.slow
def test_the_demo_trains_and_says_where_each_part_s_files_are(
    fedward: Fedward, tmp_path: Path
) -> None:
    study = study_values(simulation={"split": "iid"}, participation={"hospitals": 3})
    (tmp_path / "study.toml").write_bytes(tomli_w.dumps(study).encode())
    data = write_table(tmp_path / "records.csv")

    said = fedward("consortium", "demo", "study.toml", "--data", data, "--out", "demo")

    assert (said.code, said.err) == (0, "")
    lines = said.out.replace("\n", " ")
    assert "approved at every hospital" in lines
    named = re.findall(r"(?:coordinator|aggregator|the run|hospital \w+): +(\S*/\S*)", lines)
    assert len(named) == 3 + 3  # coordinator, aggregator, run; three hospitals
    assert all((tmp_path / place).is_dir() for place in named), named
    assert (tmp_path / named[2] / "model.safetensors").is_file()
    again = fedward("consortium", "demo", "study.toml", "--data", data, "--out", "demo")
    assert again.only_error(2)
