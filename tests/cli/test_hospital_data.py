"""`fedward hospital data check` and `transport`, as the staff of a hospital run them."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import tomli_w
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedward.privacy.transport import TransportKey
from tests.cli.conftest import Fedward, study_values, write_study, write_table


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A hospital with data, and no study yet."""
    write_table(tmp_path / "t.csv")
    values = {"name": "north", "data": {"format": "csv", "path": "t.csv", "patient": "record"}}
    (tmp_path / "hospital.toml").write_bytes(tomli_w.dumps(values).encode())
    return tmp_path


def test_good_data_is_told_and_ends_with_0(fedward: Fedward, here: Path) -> None:
    said = fedward("hospital", "data", "check", "--study", write_study(here))

    assert said.code == 0, said.err
    assert said.err == ""
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0].startswith("Study 'tiny', digest ")
    assert "records 60 can be used, 0 cannot, 0 left out" in lines
    assert "patients 60; each has one record" in lines
    assert any(
        line.startswith("train 36 records of 36 patients: benign 18 (50%)") for line in lines
    )
    assert lines[-1] == "good nothing stands against it"
    assert not (here / "state").exists()


def test_every_approved_study_is_checked_and_every_problem_is_a_line(
    fedward: Fedward, here: Path
) -> None:
    studies = here / "studies"
    studies.mkdir()
    shutil.copy(write_study(here), studies / "one.toml")
    other = study_values(study={"name": "other"}, data={"label": "outcome"})
    (studies / "two.toml").write_bytes(tomli_w.dumps(other).encode())
    with (here / "t.csv").open("a", encoding="utf-8") as table:
        table.write("Ward [a],x,1.0,benign\nWard [a],1.0,,[red]ill[/red]\n")

    said = fedward("hospital", "data", "check")

    assert said.code == 2
    assert said.out.count("Study '") == 2
    assert said.out.count(", approved here") == 2
    problems = said.err.splitlines()
    assert all(line.startswith("problem: ") for line in problems)
    told = "\n".join(problems)
    assert len(problems) == 3
    assert "t.csv: has no column 'outcome'" in told
    assert "t.csv: row 61, column 'age': 'x' is not a finite number of ordinary size" in told
    assert "t.csv: row 62, column 'size': the value is missing" in told


def test_one_study_is_found_by_its_digest(fedward: Fedward, here: Path) -> None:
    (here / "studies").mkdir()
    shutil.copy(write_study(here), here / "studies" / "one.toml")
    digest = fedward("hospital", "studies").out.split()[3]

    said = fedward("hospital", "data", "check", "--study", digest)

    assert said.code == 0, said.err
    assert digest in said.out


def test_many_problems_are_cut_unless_all_are_wanted(fedward: Fedward, here: Path) -> None:
    with (here / "t.csv").open("a", encoding="utf-8") as table:
        table.write("Ward [a],x,1.0,benign\n" * 130)
    words = ("hospital", "data", "check", "--study", write_study(here))

    cut, whole = fedward(*words), fedward(*words, "--all")

    assert (cut.code, whole.code) == (2, 2)
    assert len(cut.err.splitlines()) == 101
    assert cut.err.splitlines()[-1].startswith("30 more problems: ")
    assert len(whole.err.splitlines()) == 130


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no study was offered or approved here"),
        (("--study", "none.toml"), "no such study file"),
        (("--study", "0123456789abcdef"), "0 studies begin with"),
        (("--hospital", "gone.toml"), "no such hospital file"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    words: tuple[str, ...], told: str, fedward: Fedward, here: Path
) -> None:
    assert told in fedward("hospital", "data", "check", *words).only_error()


# --- The key for a stock SuperNode ----------------------------------------------------------------


def test_the_transport_key_is_written_for_its_owner_alone(fedward: Fedward, here: Path) -> None:
    key = TransportKey.generate()
    key.save(here / "transport.pem")
    values = {
        "name": "north",
        "data": {"format": "csv", "path": "t.csv"},
        "consortium": {
            "coordinator": "0" * 64,
            "transport": "transport.pem",
            "ca": "ca.pem",
            "address": "fedward.example.org:9443",
        },
    }
    (here / "hospital.toml").write_bytes(tomli_w.dumps(values).encode())

    said = fedward("hospital", "transport", "--openssh", "key")

    assert said.code == 0, said.err
    assert stat.S_IMODE((here / "key").stat().st_mode) == 0o600
    read = load_ssh_private_key((here / "key").read_bytes(), password=None)
    assert read.private_numbers() == key.key.private_numbers()  # type: ignore[union-attr]
    again = fedward("hospital", "transport", "--openssh", "key").only_error()
    assert "never written over" in again


def test_a_hospital_without_a_transport_key_says_so(fedward: Fedward, here: Path) -> None:
    error = fedward("hospital", "transport", "--openssh", "key").only_error(code=1)

    assert "consortium" in error
