"""Pretended hospitals are members of a consortium as real ones are."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from fedward.client.data.sources import BundledSource
from fedward.client.hospital import HospitalFile, read_hospital, write_hospital
from fedward.client.membership import Membership, read_membership
from fedward.privacy.identity import Identity
from fedward.simulation.consortium import found_consortium
from fedward.simulation.hospitals import make_hospitals
from fedward.study.errors import DataError, OptionError
from tests.simulation.conftest import study_of

NAMES = ("north", "Süd", "St. Mary's")


def write(folder: Path, names: tuple[str, ...]) -> list[Path]:
    files = []
    for number, name in enumerate(names):
        file = folder / str(number) / "hospital.toml"
        data = BundledSource(format="bundled", name="breast-cancer")
        write_hospital(HospitalFile(name=name, device="cpu", data=data), file)
        files.append(file)
    return files


def membership(file: Path) -> Membership:
    return read_membership(read_hospital(file), file.parent)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three hospitals that founded a consortium."""
    found = write(tmp_path / "hospitals", NAMES)
    found_consortium(found)
    return found


def test_everybody_is_a_member_under_its_own_name_and_key(files: list[Path]) -> None:
    members = [membership(file) for file in files]

    assert [member.name for member in members] == list(NAMES)
    assert len({member.identity.public for member in members}) == 3
    for member in members:
        assert member.roster == members[0].roster
        assert set(member.roster.members) == set(NAMES)


def test_all_pinned_the_same_coordinator_who_is_no_member(files: list[Path]) -> None:
    pinned = set()
    for file in files:
        consortium = read_hospital(file).consortium
        assert consortium is not None
        pinned.add(consortium.coordinator)

    assert len(pinned) == 1
    keys = {key.hex() for key in membership(files[0]).roster.members.values()}
    assert not pinned & keys


def test_the_coordinator_s_private_key_is_forgotten(files: list[Path]) -> None:
    """Nobody can admit another member afterwards: the only private keys are the hospitals' own."""
    root = files[0].parent.parent
    entries = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    assert entries == [
        *(f"{n}/{name}" for n in range(3) for name in ("hospital.toml", "identity.pem")),
        "roster.json",
    ]
    for file in files:
        consortium = read_hospital(file).consortium
        assert consortium is not None
        own = Identity.load(file.with_name("identity.pem")).public
        assert own.hex() != consortium.coordinator


def test_only_its_owner_may_use_an_identity(files: list[Path]) -> None:
    for file in files:
        assert stat.S_IMODE(file.with_name("identity.pem").stat().st_mode) == 0o600


def test_nothing_else_in_the_hospital_s_file_changes(tmp_path: Path) -> None:
    files = write(tmp_path / "hospitals", NAMES)
    before = [read_hospital(file) for file in files]

    found_consortium(files)

    for old, file in zip(before, files, strict=True):
        assert read_hospital(file).model_copy(update={"consortium": None}) == old


def test_the_folder_may_move(files: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(files[0].parent.parent, moved)

    for number, name in enumerate(NAMES):
        assert membership(moved / str(number) / "hospital.toml").name == name


def test_two_consortia_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = (write(tmp_path / name, NAMES) for name in ("one", "other"))
    found_consortium(one)
    found_consortium(other)

    keys = [membership(file).identity.public for file in (*one, *other)]
    assert len(set(keys)) == 6
    shutil.copy(one[0].parent.parent / "roster.json", other[0].parent.parent / "roster.json")
    with pytest.raises(DataError, match="signature"):
        membership(other[0])


def test_two_hospitals_of_one_name_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    files = write(tmp_path / "hospitals", ("north", "south", "north"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    with pytest.raises(OptionError, match="two hospitals are called 'north'"):
        found_consortium(files)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_identity_is_never_written_over(files: list[Path]) -> None:
    keys = [membership(file).identity.public for file in files]

    with pytest.raises(DataError, match="never written over"):
        found_consortium(files)

    assert [membership(file).identity.public for file in files] == keys


@pytest.mark.parametrize("secure", [True, False])
def test_a_simulation_founds_a_consortium_where_the_study_needs_one(
    secure: bool, table: Path, tmp_path: Path
) -> None:
    study = study_of(aggregation={"strategy": "fedavg", "secure": secure})

    files = make_hospitals(study, table, tmp_path / "hospitals", seed=1)

    assert [read_hospital(file).consortium is not None for file in files] == [secure] * 3
    if secure:
        assert [membership(file).name for file in files] == ["A", "B", "C"]
    assert (tmp_path / "hospitals" / "roster.json").exists() == secure
