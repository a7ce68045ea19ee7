"""The chain of hashes: a ledger that was changed by hand is noticed, and nothing is spent from it.

The hashes have no key. Who may write the file and knows how rows are hashed can write another
ledger altogether; the chain is for what is changed, lost or mixed up, and for copies kept apart.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.framing import framed
from fedward.privacy.ledger import Cap, Ledger
from fedward.study.errors import BudgetError
from tests.privacy.charges import ONE, charge, rows, spent
from tests.privacy.conftest import fast_folder

COUNT = 5
COLUMNS = (
    *("data", "study", "run", "round", "told", "patients", "mechanism", "noise_multiplier"),
    *("sampling_rate", "steps", "delta", "accountant", "charged_at", "hash"),
)


def ledger_of(path: Path, count: int = COUNT) -> Ledger:
    """A ledger of rounds that differ."""
    ledger = Ledger(path)
    for number in range(1, count + 1):
        charge(ledger, number, told=f"{number:064x}")
    return ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of five rows."""
    ledger_of(tmp_path / "ledger.sqlite")
    return tmp_path / "ledger.sqlite"


def tamper(path: Path, *orders: tuple[str, Sequence[object]]) -> None:
    """Write to the file as anybody could, the table's own checks switched off."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA ignore_check_constraints = 1")
        for order, values in orders:
            db.execute(order, values)
        db.commit()


def assert_broken(path: Path, row: int) -> None:
    """Row so-and-so is named, nothing can be spent or said, and the file stays as it is."""
    before = path.read_bytes()
    ledger = Ledger(path)
    uses: list[Callable[[], object]] = [
        lambda: ledger.charge(ONE, cap=None),
        lambda: ledger.charge(ONE, cap=Cap(1e9, 1e-5)),
        lambda: spent(ledger),
        lambda: spent(ledger, data="other", study="other"),
        lambda: ledger.noise_multiplier(study="other", run="other"),
        ledger.entries,
    ]
    for use in uses:
        with pytest.raises(BudgetError, match=f"was changed: row {row} does not follow"):
            use()
    assert path.read_bytes() == before


# --- What a hash is of ----------------------------------------------------------------------------


def test_each_hash_is_of_the_row_and_of_the_hash_before_it(path: Path) -> None:
    """Written again, from what the module promises."""
    before = hashlib.sha256(b"fedward/1/ledger").hexdigest()
    for _, *fields, found in rows(path):
        wanted = hashlib.sha256(framed(before, *map(repr, fields))).hexdigest()
        assert found == wanted
        before = wanted


def test_a_ledger_that_nobody_touched_verifies_at_every_charge(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(6, 10):
        charge(ledger, number)

    assert [entry.charge.round for entry in Ledger(path).entries()] == list(range(1, 10))


# --- Fields ---------------------------------------------------------------------------------------


def changed(value: object) -> object:
    """As little another value as can be."""
    if isinstance(value, float):
        return math.nextafter(value, 1e9)
    if isinstance(value, int):
        return value + 1
    text = str(value)
    return text[:-1] + ("0" if text[-1] != "0" else "1")


@pytest.mark.parametrize("row", [1, 3, COUNT])
@pytest.mark.parametrize("column", COLUMNS)
def test_any_field_of_any_row_that_is_changed_is_noticed(column: str, row: int, path: Path) -> None:
    (value,) = rows(path, column)[row - 1]
    tamper(path, (f"UPDATE charge SET {column} = ? WHERE id = ?", (changed(value), row)))  # noqa: S608

    assert_broken(path, row)
    tamper(path, (f"UPDATE charge SET {column} = ? WHERE id = ?", (value, row)))  # noqa: S608
    charge(Ledger(path), 9)  # what was put back as it was verifies again


@pytest.mark.parametrize("row", [1, 3, COUNT])
@pytest.mark.parametrize("number", [0, -7, 99])
def test_a_number_of_a_row_that_is_changed_is_noticed(row: int, number: int, path: Path) -> None:
    tamper(path, ("UPDATE charge SET id = ? WHERE id = ?", (number, row)))

    assert_broken(path, 1 if number < 1 else row)


@pytest.mark.parametrize("value", [b"\x01\x02", "", "many", 1e300])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_value_of_another_kind_is_noticed(column: str, value: object, path: Path) -> None:
    tamper(path, (f"UPDATE charge SET {column} = ? WHERE id = 2", (value,)))  # noqa: S608

    assert_broken(path, 2)


@given(st.data())
def test_two_fields_cannot_be_changed_so_that_they_make_up_for_each_other(
    data: st.DataObject,
) -> None:
    """What is moved from one field to its neighbour is noticed too."""
    texts = ["data", "study", "run", "told", "patients"]
    one, other = data.draw(st.permutations(texts))[:2]
    row = data.draw(st.integers(1, 3))
    with fast_folder() as folder:
        ledger_of(folder / "ledger", 3)
        ((a, b),) = rows(folder / "ledger", f"{one}, {other}")[row - 1 : row]
        cut = data.draw(st.integers(0, len(str(a)) - 1))
        pair = (str(a)[:cut], str(a)[cut:] + str(b), row)
        tamper(
            folder / "ledger",
            (f"UPDATE charge SET {one} = ?, {other} = ? WHERE id = ?", pair),  # noqa: S608
        )

        assert_broken(folder / "ledger", row)


# --- Kinds that are not known here ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value"),
    [("mechanism", "laplace"), ("mechanism", ""), ("accountant", "pure"), ("accountant", "RDP")],
)
def test_a_row_of_another_kind_whose_hash_is_right_is_never_composed(
    column: str, value: str, path: Path
) -> None:
    """Another version may have charged it: what it costs cannot be said, and nothing is spent."""
    fields = list(rows(path, ", ".join(COLUMNS[:-1]))[-1])
    ((before,),) = rows(path, "hash")[-2:-1]
    fields[COLUMNS.index(column)] = value
    found = hashlib.sha256(framed(str(before), *map(repr, fields))).hexdigest()
    tamper(
        path,
        (f"UPDATE charge SET {column} = ?, hash = ? WHERE id = ?", (value, found, COUNT)),  # noqa: S608
    )

    ledger = Ledger(path)
    uses: list[Callable[[], object]] = [
        lambda: spent(ledger),
        lambda: charge(ledger, 9),
        ledger.entries,
    ]
    for use in uses:
        with pytest.raises(BudgetError, match=f"row {COUNT} .* of the kind '{value}'"):
            use()


# --- Rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("renumbered", [False, True])
@pytest.mark.parametrize("row", [1, 3, COUNT - 1])
def test_a_row_that_is_taken_out_is_noticed(row: int, renumbered: bool, path: Path) -> None:
    orders: list[tuple[str, Sequence[object]]] = [("DELETE FROM charge WHERE id = ?", (row,))]
    if renumbered:
        orders += [
            ("UPDATE charge SET id = ? WHERE id = ?", (number - 1, number))
            for number in range(row + 1, COUNT + 1)
        ]
    tamper(path, *orders)

    assert_broken(path, row)


def test_the_last_row_that_is_taken_away_cannot_be_noticed_by_the_chain_alone(path: Path) -> None:
    """What is left is a ledger as it was; only a copy that was kept apart can tell."""
    kept = Ledger(path).entries()
    tamper(path, ("DELETE FROM charge WHERE id = ?", (COUNT,)))

    assert Ledger(path).entries() == kept[:-1]
    charge(Ledger(path), 9)
    assert Ledger(path).entries()[-1].hash != kept[-1].hash  # from here on the copy differs


@pytest.mark.parametrize(("one", "other"), [(1, 2), (1, COUNT), (2, 4), (COUNT - 1, COUNT)])
def test_two_rows_that_are_swapped_are_noticed(one: int, other: int, path: Path) -> None:
    tamper(
        path,
        ("UPDATE charge SET id = -1 WHERE id = ?", (one,)),
        ("UPDATE charge SET id = ? WHERE id = ?", (one, other)),
        ("UPDATE charge SET id = ? WHERE id = -1", (other,)),
    )

    assert_broken(path, one)


@pytest.mark.parametrize("copied", [1, 3, COUNT])
@pytest.mark.parametrize("place", [1, 3, COUNT, COUNT + 1])
def test_a_row_that_is_put_in_is_noticed(copied: int, place: int, path: Path) -> None:
    """A copy of one that is there, the others moved up to make room."""
    fields = rows(path, ", ".join(COLUMNS))[copied - 1]
    moved: list[tuple[str, Sequence[object]]] = [
        ("UPDATE charge SET id = ? WHERE id = ?", (number + 1, number))
        for number in range(COUNT, place - 1, -1)
    ]
    marks = ", ".join("?" * (len(fields) + 1))
    names = ", ".join(COLUMNS)
    put = f"INSERT INTO charge (id, {names}) VALUES ({marks})"  # noqa: S608
    tamper(path, *moved, (put, (place, *fields)))

    # In its own place the copy is the row itself; the one after it does not follow.
    assert_broken(path, place + 1 if copied == place else place)


def test_a_row_of_another_ledger_is_noticed(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    charge(ledger_of(other), 6)
    fields = rows(other, ", ".join(COLUMNS))[-1]
    names, marks = ", ".join(COLUMNS), ", ".join("?" * len(fields))
    tamper(path, (f"INSERT INTO charge ({names}) VALUES ({marks})", fields))  # noqa: S608

    assert_broken(path, COUNT + 1)
