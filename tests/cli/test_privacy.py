"""`fedward privacy audit`, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Fedward, write_study, write_table

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast-cancer.toml"

pytestmark = pytest.mark.slow

NO_NOISE = """
from fedward.privacy.secret_stream import SecretStream

SecretStream.noisy = lambda self, values, deviation: values
"""


def bounds(out: str) -> list[float]:
    """The figures of the table: charged, lost at least, most that can be shown."""
    rows = [line.split() for line in out.splitlines() if line.startswith("\u2502")]
    return [float(row[-2]) for row in rows]


def test_an_audit_shows_the_bound_beside_the_charge(fedward: Fedward) -> None:
    said = fedward("privacy", "audit", EXAMPLE, "--epsilon", "1")

    assert (said.code, said.err) == (0, "")
    charged, lost, most = bounds(said.out)
    assert charged == pytest.approx(1, abs=0.02)
    assert lost <= charged < most
    assert "at delta 0.001" in said.out
    assert "Hospital D: 44 training patients and" in said.out
    assert "of 200 canaries, each with 1 record." in said.out
    assert "does not contradict the charge" in said.out
    assert "--epsilon" not in said.out


def test_a_charge_that_no_audit_can_contradict_is_told(fedward: Fedward) -> None:
    said = fedward("privacy", "audit", EXAMPLE, "--canaries", "100", "--records", "2")

    assert (said.code, said.err) == (0, "")
    charged, _, most = bounds(said.out)
    assert charged == pytest.approx(8, abs=0.1)
    assert most < 3
    assert "each with 2 records" in said.out
    assert "cannot find that epsilon" in said.out
    assert "whatever the build does" in said.out
    assert "Give --epsilon 1, which audits the same build." in said.out
    assert "does not contradict" not in said.out


def test_a_model_of_few_weights_is_told(fedward: Fedward, tmp_path: Path) -> None:
    privacy = {"mode": "local", "epsilon": 1, "delta": 1e-4, "sampling_rate": 0.5}
    study = write_study(tmp_path, privacy={**privacy, "accountant": "rdp"})
    table = write_table(tmp_path / "records.csv")

    said = fedward("privacy", "audit", study, "--data", table)

    assert (said.code, said.err) == (0, "")
    assert "The model has 22 weights" in said.out
    assert "Fewer --canaries may show more" in said.out


def test_a_build_without_noise_ends_with_one_line_and_exit_code_1(
    fedward: Fedward, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(NO_NOISE, encoding="utf-8")

    said = fedward(
        "privacy", "audit", EXAMPLE, "--epsilon", "1", PYTHONPATH=str(tmp_path / "broken")
    )

    charged, lost, _ = bounds(said.out)
    assert lost > 2 > charged
    assert said.code == 1
    assert said.err.splitlines() == said.errors
    (line,) = said.errors
    assert "patients lose more than is charged: epsilon 0.99 is charged" in line
    assert "train no patients with this build" in line
    assert "does not contradict" not in said.out


def test_a_study_without_privacy_is_refused(fedward: Fedward, tmp_path: Path) -> None:
    line = fedward("privacy", "audit", write_study(tmp_path)).only_error()

    assert "not private" in line
    assert 'mode = "local"' in line


@pytest.mark.parametrize(
    ("option", "value"),
    [("--canaries", "1"), ("--canaries", "5001"), ("--records", "0"), ("--epsilon", "51")],
)
def test_impossible_options_are_refused(fedward: Fedward, option: str, value: str) -> None:
    assert option in fedward("privacy", "audit", EXAMPLE, option, value).only_error()


def test_too_many_canaries_for_delta_are_refused(fedward: Fedward) -> None:
    line = fedward("privacy", "audit", EXAMPLE, "--canaries", "2000").only_error()

    assert "too many for delta 0.001" in line
    assert "give --canaries 956 or fewer" in line
