"""What was spent of the patients' privacy, composed by a process of its own.

An accountant takes torch, which the daemon does without: it would stay in its memory for ever.

    python -m fedward.client.spent_apart HOSPITAL_TOML
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fedward.client.hospital import read_hospital
from fedward.study.errors import BudgetError, FedwardError, InputError


def spent_apart(hospital: Path, *, seconds: float) -> list[dict[str, Any]]:
    """The rows of `budget.spent`, each by its attributes.

    Args:
        hospital: The `hospital.toml`.
        seconds: That it may take.

    Raises:
        InputError: The hospital's file cannot be used.
        BudgetError: There is no ledger, its chain is broken, or composing it failed.
    """
    read_hospital(hospital)  # a faulty file is told at once: the process takes seconds
    command = [sys.executable, "-P", "-m", "fedward.client.spent_apart", str(hospital)]
    try:
        done = subprocess.run(  # noqa: S603 - this program itself
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=seconds,
            check=False,
        )
        told = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise _failed(f"it took longer than {seconds:g} s") from None
    except ValueError:
        raise _failed(f"exit code {done.returncode}") from None
    if "what" in told:
        kind = InputError if told.pop("input") else BudgetError
        raise kind(**told)
    rows: list[dict[str, Any]] = told["rows"]
    return rows


def _failed(why: str) -> BudgetError:
    return BudgetError(
        f"what was spent could not be composed ({why})",
        todo="run: fedward hospital budget, and see the daemon's log",
    )


def main() -> None:
    """The child's whole life: rows, or an error in its parts, as JSON."""
    from fedward.client.budget import spent  # torch

    path = Path(sys.argv[1])
    try:
        told: dict[str, Any] = {
            "rows": [vars(row) for row in spent(read_hospital(path), path.parent)]
        }
    except FedwardError as error:
        told = {"what": error.what, "todo": error.todo, "where": error.where}
        told["input"] = isinstance(error, InputError)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
