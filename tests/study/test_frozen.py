"""Reading TOML: every way in which a file can be broken is one typed error."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fedward.study.errors import DataError
from fedward.study.frozen import Fault, Frozen, read_toml, validate


class Cat(Frozen):
    """One half of a union."""

    animal: Literal["cat"]
    lives: int = 9


class Dog(Frozen):
    """The other half."""

    animal: Literal["dog"]
    walks: float


class Flat(Frozen):
    """Something nested."""

    rooms: Annotated[int, Field(ge=1)]
    lift: bool = False


class House(Frozen):
    """Every kind of nesting that a file has."""

    name: str
    pet: Annotated[Cat | Dog, Field(discriminator="animal")] = Cat(animal="cat")
    flats: dict[str, Flat] = Field(default_factory=dict)
    garage: Flat | None = None
    numbers: tuple[int, ...] = ()
    size: Annotated[float, Field(gt=0)] | Literal["unknown"] = "unknown"


def fault_in(**values: object) -> Fault:
    fault = validate(House, {"name": "home", **values})
    assert isinstance(fault, Fault), "taken without complaint"
    return fault


def test_a_good_file_becomes_the_typed_value() -> None:
    house = validate(
        House,
        {
            "name": "home",
            "pet": {"animal": "dog", "walks": 2},
            "flats": {"left": {"rooms": 3}},
            "numbers": [1, 2],
        },
    )

    assert house == House(
        name="home",
        pet=Dog(animal="dog", walks=2.0),
        flats={"left": Flat(rooms=3)},
        numbers=(1, 2),
    )


def test_a_value_cannot_be_changed_once_read() -> None:
    flat = Flat(rooms=2)

    with pytest.raises(ValidationError):
        flat.rooms = 3
    assert flat.rooms == 2


@pytest.mark.parametrize(
    ("values", "key", "near"),
    [
        ({"nmae": 1}, "nmae", "name"),
        ({"flats": {"left": {"rooms": 1, "lifft": True}}}, "flats.left.lifft", "lift"),
        ({"pet": {"animal": "cat", "live": 3}}, "pet.live", "lives"),
        ({"pet": {"animal": "dog", "walks": 1, "walk": 1}}, "pet.walk", "walks"),
        ({"garage": {"rooms": 1, "room": 1}}, "garage.room", "rooms"),
        ({"garage": {"room": 1}}, "garage.room", "rooms"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    values: dict[str, object], key: str, near: str
) -> None:
    fault = fault_in(**values)

    assert fault.key == key
    assert "unknown key" in fault.given
    assert f"did you mean {near}?" in fault.allowed


def test_the_other_member_of_a_union_lends_no_keys() -> None:
    fault = fault_in(pet={"animal": "cat", "walks": 1})

    assert fault.key == "pet.walks"
    assert fault.allowed == "animal, lives"


@pytest.mark.parametrize(
    ("values", "key", "given"),
    [
        ({"flats": {"left": {"rooms": "3"}}}, "flats.left.rooms", '"3"'),
        ({"flats": {"left": {"rooms": 1.5}}}, "flats.left.rooms", "1.5"),
        ({"flats": {"left": {"rooms": True}}}, "flats.left.rooms", "true"),
        ({"flats": {"left": {"rooms": 0}}}, "flats.left.rooms", "0"),
        ({"flats": {"left": {"rooms": 1, "lift": 1}}}, "flats.left.lift", "1"),
        ({"flats": {"left": 3}}, "flats.left", "3"),
        ({"garage": {"rooms": None}}, "garage.rooms", "null"),
        ({"pet": {"animal": "dog", "walks": "2"}}, "pet.walks", '"2"'),
        ({"pet": {"animal": "dog", "walks": float("nan")}}, "pet.walks", "NaN"),
        ({"pet": {"animal": "dog", "walks": float("inf")}}, "pet.walks", "Infinity"),
        ({"pet": {"animal": "cow"}}, "pet.animal", "'cow'"),
        ({"pet": "cat"}, "pet", '"cat"'),
        ({"numbers": [1, "2"]}, "numbers.1", '"2"'),
        ({"numbers": 1}, "numbers", "1"),
        ({"size": "big"}, "size", '"big"'),
        ({"size": -1}, "size", "-1"),
    ],
)
def test_a_wrong_value_is_named_by_its_key_in_the_file(
    values: dict[str, object], key: str, given: str
) -> None:
    fault = fault_in(**values)

    assert (fault.key, fault.given) == (key, given)
    assert fault.allowed


def test_a_table_where_a_number_belongs_is_named_by_its_key_in_the_file() -> None:
    assert fault_in(size={"m": 3}).key == "size"


def test_a_needed_key_that_is_missing_is_named() -> None:
    fault = fault_in(flats={"left": {"lift": True}})

    assert fault.key == "flats.left.rooms"
    assert fault.given == "nothing"


def test_a_union_without_its_tag_says_which_key_is_needed() -> None:
    fault = fault_in(pet={"lives": 3})

    assert fault.key == "pet"
    assert "animal" in fault.allowed


def test_a_date_is_no_text() -> None:
    fault = validate(House, {"name": datetime.date(2026, 1, 1)})

    assert isinstance(fault, Fault)
    assert fault.key == "name"


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(fault_in(numbers="x" * 10_000).given) <= 80


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_text('name = "Haus am Fluß"\n[garage]\nrooms = 1\n', encoding="utf-8")

    assert read_toml(path, what="house") == {"name": "Haus am Fluß", "garage": {"rooms": 1}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name = ", "TOML"),
        (b"name = 'a'\nname = 'b'\n", "TOML"),
        (b"[house\n", "TOML"),
        ("name = 'Fluß'".encode("latin-1"), "UTF-8"),
        (b"\x00\x01\x02", "TOML"),
        (b"PK\x03\x04\xff\xfe", "UTF-8"),
        pytest.param(b"n = " + b"9" * 5000, "TOML", id="a number of 5000 digits"),
        pytest.param(b"n = " + b"[" * 20_000, "TOML", id="20000 open brackets"),
    ],
)
def test_a_broken_file_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_bytes(content)

    with pytest.raises(DataError, match=says) as caught:
        read_toml(path, what="house")
    assert caught.value.where == str(path)
    assert caught.value.todo


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such house file") as caught:
        read_toml(tmp_path / "none.toml", what="house")
    assert caught.value.where == str(tmp_path / "none.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_toml(tmp_path, what="house")
