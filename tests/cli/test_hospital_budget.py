"""`fedward hospital budget` as a hospital runs it: real processes over a real ledger."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.cli.conftest import Fedward, write_study, write_table

PRIVATE = {
    "mode": "local",
    "epsilon": 20.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}


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
    assert "all" in shown.out
    document = json.loads((tmp_path / "export.json").read_text("utf-8"))
    charges = document["charges"]
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


def test_a_hospital_without_a_ledger_says_so(fedward: Fedward, tmp_path: Path) -> None:
    (tmp_path / "hospital.toml").write_text(
        'name = "north"\n[data]\nformat = "csv"\npath = "x.csv"\n', encoding="utf-8"
    )

    line = fedward("hospital", "budget", "verify").only_error(code=1)

    assert "nothing was ever charged here" in line
