"""`fedward hospital budget` as a hospital runs it: real processes over a real ledger."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Charge, Ledger
from tests.cli.conftest import Fedward, write_study, write_table

PRIVATE = {
    "mode": "local",
    "epsilon": 20.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}


def cells(table: str) -> list[list[str]]:
    """The rows of a table as it was printed, cell by cell."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in table.splitlines()
        if line.startswith("│")
    ]


def composed(charges: list[dict[str, Any]]) -> float:
    """Epsilon of exported charges."""
    steps = [
        SampledGaussian(c["noise_multiplier"], c["sampling_rate"], c["steps"]) for c in charges
    ]
    return epsilon_of(steps, 1e-3, "rdp")


def test_a_run_is_shown_verified_exported_and_its_ledger_guarded(
    fedward: Fedward, tmp_path: Path
) -> None:
    study = write_study(tmp_path, privacy=PRIVATE)
    table = write_table(tmp_path / "records.csv")
    out = tmp_path / "run"
    words = ("--data", table, "--out", out, "--no-baselines", "--workers", "1")
    ran = fedward("simulate", study, *words)
    assert ran.code == 0, ran.err
    hospital = sorted(out.glob("hospitals/*/hospital.toml"))[0]
    which = ("--hospital", hospital)

    shown = fedward("hospital", "budget", *which)
    verified = fedward("hospital", "budget", "verify", *which)
    exported = fedward("hospital", "budget", "export", *which, "--out", "export.json")

    assert (shown.code, verified.code, exported.code) == (0, 0, 0)
    document = json.loads((tmp_path / "export.json").read_text("utf-8"))
    charges = document["charges"]
    of_study, whole = document["totals"]
    assert whole["epsilon"] == of_study["epsilon"] == composed(charges)
    assert cells(shown.out) == [
        ["data", "tiny", "2", f"{whole['epsilon']:.3f}", "", "0.001"],
        ["data", "all", "2", f"{whole['epsilon']:.3f}", "no limit", "0.001"],
    ]
    assert f"good: {len(charges)} charges" in verified.out
    assert [charge["round"] for charge in charges] == list(range(1, len(charges) + 1))
    assert 0 < document["totals"][-1]["epsilon"] <= 20.0

    ledger = hospital.parent / "state" / "ledger.sqlite"
    with sqlite3.connect(ledger) as db:
        db.execute("DELETE FROM charge WHERE id = (SELECT MAX(id) FROM charge)")
    db.close()
    cut = fedward("hospital", "budget", "verify", *which)
    against = fedward("hospital", "budget", "verify", *which, "--against", "export.json")
    assert cut.code == 0  # the chain alone cannot show that its end is gone
    assert "an old ledger was put back" in against.only_error(code=1)

    with sqlite3.connect(ledger) as db:
        db.execute("UPDATE charge SET noise_multiplier = 99 WHERE id = 1")
    db.close()
    changed = fedward("hospital", "budget", "verify", *which)
    assert "row 1" in changed.only_error(code=1)


def test_two_studies_two_data_sets_the_cap_and_what_is_left(
    fedward: Fedward, tmp_path: Path
) -> None:
    (tmp_path / "hospital.toml").write_text(
        'name = "north"\n[data]\nformat = "csv"\npath = "x.csv"\n'
        "[limits]\nepsilon = 30.0\ndelta = 1e-6\n",
        encoding="utf-8",
    )
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
    weak, strong = SampledGaussian(1.1, 0.1, 20), SampledGaussian(2.0, 0.05, 30)
    one, two, zero = "a1" * 32, "b2" * 32, "0d" * 32
    for data, study, steps in (("eyes", one, weak), ("eyes", two, strong), ("hearts", two, weak)):
        ledger.charge(Charge(data, study, data, 1, zero, zero, steps, 1e-4, "rdp"), cap=None)
    weak_e, strong_e, both = (
        epsilon_of(steps, 1e-6, "rdp") for steps in ([weak], [strong], [weak, strong])
    )

    shown = fedward("hospital", "budget", COLUMNS="120")

    assert shown.code == 0, shown.err
    assert cells(shown.out) == [
        ["eyes", "a1" * 6, "1", f"{weak_e:.3f}", "", "1e-06"],
        ["eyes", "b2" * 6, "1", f"{strong_e:.3f}", "", "1e-06"],
        ["eyes", "all", "2", f"{both:.3f}", f"{30 - both:.3f}", "1e-06"],
        ["hearts", "b2" * 6, "1", f"{weak_e:.3f}", "", "1e-06"],
        ["hearts", "all", "1", f"{weak_e:.3f}", f"{30 - weak_e:.3f}", "1e-06"],
    ]


def test_a_hospital_without_a_ledger_says_so(fedward: Fedward, tmp_path: Path) -> None:
    (tmp_path / "hospital.toml").write_text(
        'name = "north"\n[data]\nformat = "csv"\npath = "x.csv"\n', encoding="utf-8"
    )

    line = fedward("hospital", "budget", "verify").only_error(code=1)

    assert "nothing was ever charged here" in line
