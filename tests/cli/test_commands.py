"""What the commands do when all is well, each as a real process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import typer.main

from fedward.cli.main import app
from fedward.simulation.result import Result
from fedward.study.study import read_study
from tests.cli.conftest import COMMAND, WARDS, Fedward, Said, write_study, write_table


def commands() -> list[tuple[str, click.Command]]:
    """Every command of the tree with the words that call it."""
    found: list[tuple[str, click.Command]] = []

    def walk(command: click.Command, words: list[str]) -> None:
        found.append((" ".join(words), command))
        if isinstance(command, click.Group):
            for name, below in command.commands.items():
                walk(below, [*words, name])

    walk(typer.main.get_command(app), ["fedward"])
    return found


COMMANDS = commands()


def test_the_tree_holds_the_commands() -> None:
    names = {name for name, _ in COMMANDS}

    for name in ("simulate", "split", "synthesize", "models", "doctor"):
        assert f"fedward {name}" in names
    for name in ("study check", "study digest"):
        assert f"fedward {name}" in names


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_command_and_every_option_has_help(name: str, command: click.Command) -> None:
    assert len(command.help or "") > 20, name
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text, f"{name}: {parameter.name}"
        assert text.rstrip().endswith("."), f"{name} {parameter.name}: {text}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_help_is_printed(fedward: Fedward, name: str) -> None:
    said = fedward(*name.split()[1:], "--help")

    assert (said.code, said.err) == (0, "")
    assert "Usage: " in said.out
    assert name in said.out


@pytest.mark.slow
def test_the_version_is_printed(fedward: Fedward) -> None:
    assert fedward("--version") == Said(0, f"fedward {version('fedward')}\n", "")


@pytest.mark.slow
def test_doctor_says_what_is_installed(fedward: Fedward) -> None:
    said = fedward("doctor")

    assert said.code == 0
    for package in ("torch", "flwr", "opacus"):
        assert re.search(rf"\b{package}\s+{re.escape(version(package))}", said.out)
    assert "Device for training: " in said.out
    assert "CPU" in said.out or "CUDA" in said.out or "MPS" in said.out
    assert said.err == ""


@pytest.mark.slow
def test_models_lists_what_a_study_can_name(fedward: Fedward) -> None:
    said = fedward("models")

    assert said.code == 0
    for word in ("mlp", "hidden = [32]", "small_cnn", "channels = [16, 32, 64]", "features"):
        assert word in said.out


@pytest.mark.slow
def test_study_digest_is_the_librarys(fedward: Fedward, tmp_path: Path) -> None:
    study = write_study(tmp_path)

    assert fedward("study", "digest", study) == Said(0, read_study(study).digest() + "\n", "")


@pytest.mark.slow
def test_study_show_prints_a_study_with_the_same_digest(fedward: Fedward, tmp_path: Path) -> None:
    title = "[bold]Lungs[/bold] :warning: and a title that is much longer than eighty columns are"
    study = write_study(tmp_path, study={"title": title})
    said = fedward("study", "show", study)
    (tmp_path / "shown.toml").write_text(said.out, encoding="utf-8")

    assert (said.code, said.err) == (0, "")
    shown = read_study(tmp_path / "shown.toml")
    assert shown.study.title == title
    assert shown.digest() == read_study(study).digest()
    assert "momentum = 0.0" in said.out  # a default


@pytest.mark.slow
def test_study_check_says_how_large_the_model_is(fedward: Fedward, tmp_path: Path) -> None:
    said = fedward("study", "check", write_study(tmp_path))

    assert said.code == 0
    assert str(3 * 4 + 5 * 2) in said.out  # two inputs and a bias to four, and on to two classes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("secure", "says"),
    [(True, "the aggregator reads only sums"), (False, "can read each hospital's update")],
)
def test_study_check_says_who_can_read_what_leaves_a_hospital(
    secure: bool, says: str, fedward: Fedward, tmp_path: Path
) -> None:
    study = write_study(tmp_path, aggregation={"secure": secure})
    said = fedward("study", "check", study)

    assert (said.code, said.err) == (0, "")
    assert says in " ".join(said.out.split())


@pytest.mark.slow
def test_split_writes_hospitals_and_says_what_they_have(fedward: Fedward, tmp_path: Path) -> None:
    table, study = write_table(tmp_path / "records.csv"), write_study(tmp_path)
    said = fedward("split", study, "--data", table, "--out", "hospitals", "--hospitals", "4")

    assert (said.code, said.err) == (0, "")
    assert len(list((tmp_path / "hospitals").glob("*/hospital.toml"))) == 4
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["A", "B", "C", "D"]
    assert all(" training patients, " in line for line in said.out.splitlines())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Path]:
    """A tiny run, started as a user would, in a folder and with hospitals of awkward names."""
    folder = tmp_path_factory.mktemp("simulate")
    write_table(folder / "records.csv")
    write_study(folder, simulation={"split": "site", "site": "ward"})
    out = "out [red]"
    done = subprocess.run(
        [COMMAND, "simulate", "tiny.toml", "--data", "records.csv", "--out", out, "--seed", "3"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr), folder / out


@pytest.mark.slow
def test_simulate_writes_all_its_files(run: tuple[Said, Path]) -> None:
    said, out = run

    assert said.code == 0, said.err
    names = {path.name for path in out.iterdir()}
    assert {"result.json", "rounds.csv", "model.safetensors", "study.toml", "curves.png"} <= names
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    result = Result.model_validate_json((out / "result.json").read_text("utf-8"))
    assert result.seed == 3
    assert result.sums.secure
    assert set(result.metrics.local) == set(WARDS)


@pytest.mark.slow
def test_report_writes_page_and_card_and_says_where(
    run: tuple[Said, Path], fedward: Fedward, tmp_path: Path
) -> None:
    said = fedward("report", run[1], "--out", "made [red]")

    assert (said.code, said.err) == (0, "")
    assert said.out == "Report: made [red]/report.html   card: made [red]/MODEL_CARD.md\n"
    page = (tmp_path / "made [red]" / "report.html").read_text("utf-8")
    assert all(ward in page for ward in WARDS)
    assert (
        "has no study.toml; give the folder of a finished run"
        in fedward("report", tmp_path).only_error()
    )


@pytest.mark.slow
def test_simulate_tells_its_progress_in_plain_lines(run: tuple[Said, Path]) -> None:
    said, _ = run

    rounds = [line for line in said.err.splitlines() if line.startswith("round ")]
    assert [line.split("  ")[0].split("/")[0] for line in rounds] == ["round 1", "round 2"]
    for line in rounds:
        assert "3 hospitals" in line
    assert "\x1b" not in said.err + said.out
    assert "\r" not in said.err + said.out
    for word in ("Traceback", "Warning", "INFO"):
        assert word not in said.err


@pytest.mark.slow
def test_simulate_shows_the_comparison_and_where_the_results_are(run: tuple[Said, Path]) -> None:
    said, out = run

    document = json.loads((out / "result.json").read_text("utf-8"))
    for name in ("federated", "pooled", *(f"only {ward}" for ward in WARDS)):
        assert name in said.out
    assert f"{document['metrics']['federated']['auc']:.3f}" in said.out
    assert "out [red]/result.json" in said.out
    assert "out [red]/curves.png" in said.out


@pytest.mark.slow
def test_simulate_says_what_a_private_run_spent_and_whom_it_protects(
    fedward: Fedward, tmp_path: Path
) -> None:
    privacy = {"mode": "local", "epsilon": 5.0, "delta": 1e-3, "accountant": "rdp"}
    study = write_study(tmp_path, privacy=privacy | {"patients_per_step": 5})
    table = write_table(tmp_path / "records.csv")
    said = fedward("simulate", study, "--data", table, "--out", "out", "--no-baselines")

    assert said.code == 0, said.err
    words = " ".join(said.out.split())
    assert re.search(r"at most epsilon (4\.\d\d|5\.00) at delta 0\.001 for each patient", words)
    assert "protects nobody" in words


@pytest.mark.slow
def test_completion_offers_the_commands_to_bash(fedward: Fedward) -> None:
    script = fedward("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.code == 0
    assert "complete " in script.out
    assert "fedward" in script.out

    offered = fedward(_FEDWARD_COMPLETE="complete_bash", COMP_WORDS="fedward si", COMP_CWORD="1")
    assert offered.out.split() == ["simulate"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_show_completion_knows_bash(fedward: Fedward, tmp_path: Path) -> None:
    command = f"'{COMMAND}' --show-completion; exit $?"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "_FEDWARD_COMPLETE=complete_bash" in done.stdout


@pytest.mark.slow
def test_help_starts_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['fedward', '--help']\n"
        "from fedward.cli.main import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["fedward.server.supervisor", "fedward.server.page.application"])
def test_the_aggregator_s_service_does_without_torch(module: str) -> None:
    """It would hold 300 MB for it, for as long as it runs."""
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_models_are_listed_as_a_study_writes_them(fedward: Fedward) -> None:
    said = fedward("models")

    assert "[model]" in said.out
    assert "\\" not in said.out
