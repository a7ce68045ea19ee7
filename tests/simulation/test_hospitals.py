"""Making hospitals: folders that point to the data set, each with its own rows and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedward.client.data.reading import context_of, forget_shared, read_with
from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.models.registry import settled
from fedward.simulation.hospitals import CACHE, make_hospitals
from fedward.study.errors import DataError, FedwardError, InputError, OptionError, StudyError
from fedward.study.study import Study, parse_study, read_study
from tests.client.data.dicom_made import made, ramp, save
from tests.simulation.conftest import COUNT, WARDS, study_of, write_images, write_table

IMAGES: dict[str, dict[str, Any]] = {
    "model": {"name": "small_cnn", "channels": [4]},
    "data": {
        "kind": "images",
        "shape": [1, 8, 8],
        "parts": {"by": "random", "train": 0.6, "validation": 0.2, "test": 0.2},
    },
}


def image_study(**tables: dict[str, Any]) -> Study:
    whole = study_of().model_dump(mode="json", exclude_none=True)
    return parse_study({**whole, **IMAGES, **tables})


def site(file: Path) -> Site:
    """A hospital opened anew, with nothing kept from before."""
    return Site(read_hospital(file), file.parent)


def numbers(file: Path, study: Study) -> list[int]:
    """The numbers of the records that a hospital reads, from their first feature."""
    parts = site(file).load(study.digest()).parts.values()
    inputs = torch.cat([records.whole for records in parts])
    return sorted((inputs[:, 0] * 60).round().int().tolist())


PLAIN: dict[str, Any] = {"strategy": "fedavg", "secure": False}
"""Two hospitals have no secure sum to hide in."""

RULES: list[dict[str, Any]] = [
    {"split": "iid"},
    {"split": "patients", "source": {"format": "csv", "patient": "patient"}},
    {"split": "dirichlet", "alpha": 5.0},
    {"split": "quantity", "shares": [3.0, 2.0, 1.0]},
    {"split": "site", "site": "ward"},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["split"]))
def test_the_hospitals_rows_partition_the_data(
    rule: dict[str, Any], table: Path, tmp_path: Path
) -> None:
    study = study_of(simulation=rule)
    files = make_hospitals(study, table, tmp_path / "hospitals", seed=5)

    assert len(files) == 3
    owned = [numbers(file, study) for file in files]
    assert all(owned)
    assert sorted(number for some in owned for number in some) == list(range(COUNT))


@pytest.mark.parametrize("secure", [True, False])
def test_no_record_is_copied(secure: bool, table: Path, tmp_path: Path) -> None:
    study = study_of(aggregation={"secure": secure})
    make_hospitals(study, table, tmp_path / "hospitals", seed=5)

    written = [path for path in (tmp_path / "hospitals").rglob("*") if path.is_file()]
    keys = {"identity.pem", "roster.json"} if secure else set()
    assert {path.name for path in written} == {"hospital.toml", "rows.npy", "tiny.toml", *keys}
    a_patients_age = table.read_text(encoding="utf-8").splitlines()[1].split(",")[3].encode()
    assert a_patients_age in table.read_bytes()
    for path in written:
        assert a_patients_age not in path.read_bytes()
        if path.name == "rows.npy":
            assert np.load(path).dtype == np.int64


def test_a_hospitals_file_is_readable_and_says_what_it_declares(
    table: Path, tmp_path: Path
) -> None:
    study = study_of()
    files = make_hospitals(study, table, tmp_path / "hospitals", seed=5)

    assert [read_hospital(file).name for file in files] == ["A", "B", "C"]
    assert files == sorted(files)
    for file in files:
        hospital = read_hospital(file)
        train = site(file).load(study.digest()).parts["train"]
        assert hospital.limits.declared_patients == len(train)
        assert hospital.simulation is not None
        assert hospital.simulation.seed == 5
        (approved,) = (file.parent / "studies").iterdir()
        assert read_study(approved).digest() == study.digest()


def test_a_hospital_declares_its_training_patients_and_not_their_records(
    table: Path, tmp_path: Path
) -> None:
    """Two records a patient, one hospital's parts divided by patient."""
    study = study_of(simulation=RULES[1])
    for file in make_hospitals(study, table, tmp_path / "hospitals", seed=5):
        train = site(file).load(study.digest()).parts["train"]
        declared = read_hospital(file).limits.declared_patients

        assert declared == len(train.patients.unique())
        assert 2 * declared == len(train)


@pytest.mark.parametrize(("rule", "said"), [(RULES[0], "record"), (RULES[1], "patient")])
def test_a_pretended_hospital_says_whose_its_records_are(
    rule: dict[str, Any], said: str, table: Path, tmp_path: Path
) -> None:
    """A real one must, for a private study."""
    for file in make_hospitals(study_of(simulation=rule), table, tmp_path / "hospitals", seed=5):
        assert read_hospital(file).data.patient == said
        assert f'patient = "{said}"' in file.read_text(encoding="utf-8")


def test_patients_stay_in_one_hospital(table: Path, tmp_path: Path) -> None:
    study = study_of(simulation=RULES[1])
    files = make_hospitals(study, table, tmp_path / "hospitals", seed=5)

    patients = [{number // 2 for number in numbers(file, study)} for file in files]
    assert sum(map(len, patients)) == len(set().union(*patients)) == COUNT // 2


def test_a_split_by_site_names_the_hospitals_after_the_sites(table: Path, tmp_path: Path) -> None:
    study = study_of(simulation={"split": "site", "site": "ward"})
    files = make_hospitals(study, table, tmp_path / "hospitals", seed=0)

    assert [read_hospital(file).name for file in files] == sorted(WARDS)
    for file in files:
        ward = read_hospital(file).name
        assert {WARDS[(n // 2) % 3] for n in numbers(file, study)} == {ward}


def test_a_seed_repeats_the_hospitals(table: Path, tmp_path: Path) -> None:
    study = study_of()
    first, again, other = (
        [numbers(f, study) for f in make_hospitals(study, table, tmp_path / name, seed=seed)]
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )

    assert first == again
    assert first != other


def test_more_than_26_hospitals_have_different_names(table: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "many.csv", range(300))
    study = study_of(participation={"hospitals": 60})
    files = make_hospitals(study, data, tmp_path / "hospitals", seed=0)

    assert len({read_hospital(file).name for file in files}) == 60
    assert files == sorted(files)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with one table a hospital, of different sizes."""
    for number, name in enumerate(("berlin", "oslo", "rome")):
        write_table(tmp_path / "tables" / f"{name}.csv", range(20 * number, 20 * number + 20))
    return tmp_path / "tables"


def test_listed_files_are_hospitals(tables: Path, tmp_path: Path) -> None:
    listed = {"Oslo": "oslo.csv", "Berlin": "berlin.csv", "Rome": "rome.csv"}
    study = study_of(simulation={"split": "folders", "files": listed})
    files = make_hospitals(study, tables, tmp_path / "hospitals", seed=0)

    assert [read_hospital(file).name for file in files] == ["Oslo", "Berlin", "Rome"]
    assert [numbers(file, study) for file in files] == [
        list(range(20, 40)),
        list(range(20)),
        list(range(40, 60)),
    ]


def test_hospitals_of_one_table_have_their_own_rows_of_it(table: Path, tmp_path: Path) -> None:
    """Where a joined table beside it says whose a row is, from a folder of any name."""
    lines = ["number,town", *(f"{n},{WARDS[n // 2 % 3]}ville" for n in range(COUNT) if n != 7)]
    (table.parent / "towns.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    join = [{"path": "towns.csv", "on": "number", "unmatched": "drop"}]
    rule = {
        "split": "folders",
        "files": dict.fromkeys(WARDS, table.name),
        "source": {"format": "csv", "patient": "patient", "join": join},
        "sources": {ward: {"only": {"town": [f"{ward}ville"]}} for ward in WARDS},
    }
    study = study_of(simulation=rule)
    files = make_hospitals(study, table.parent, tmp_path / "hospitals", seed=0)

    assert [read_hospital(file).name for file in files] == list(WARDS)
    for place, file in enumerate(files):
        own = [n for n in range(COUNT) if n // 2 % 3 == place and n != 7]
        assert numbers(file, study) == own


def test_rows_of_a_hospital_that_is_not_listed_are_refused() -> None:
    rule = {"split": "folders", "files": {"oslo": "oslo.csv"}, "sources": {"olso": {}}}
    with pytest.raises(StudyError, match="not 'olso'"):
        study_of(simulation=rule)


def test_a_folder_with_one_table_a_hospital_needs_no_list(tables: Path, tmp_path: Path) -> None:
    (tables / ".DS_Store").write_bytes(b"\x00")
    study = study_of(simulation={"split": "folders"})
    files = make_hospitals(study, tables, tmp_path / "hospitals", seed=0)

    assert [read_hospital(file).name for file in files] == ["berlin", "oslo", "rome"]
    assert numbers(files[2], study) == list(range(40, 60))


def test_a_folder_with_one_folder_of_images_a_hospital(tmp_path: Path) -> None:
    for number, name in enumerate(("berlin", "oslo")):
        write_images(tmp_path / "data" / name, 10 + 6 * number)
    study = settled(
        image_study(
            participation={"hospitals": 2}, simulation={"split": "folders"}, aggregation=PLAIN
        )
    )
    files = make_hospitals(study, tmp_path / "data", tmp_path / "hospitals", seed=0)

    assert [read_hospital(file).name for file in files] == ["berlin", "oslo"]
    loaded = [site(file).load(study.digest()).parts.values() for file in files]
    assert [sum(map(len, parts)) for parts in loaded] == [10, 16]


def test_one_folder_of_images_is_divided(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 40)
    study = settled(
        image_study(participation={"hospitals": 2}, simulation={"split": "iid"}, aggregation=PLAIN)
    )
    files = make_hospitals(study, tmp_path / "data", tmp_path / "hospitals", seed=0)

    loaded = [site(file).load(study.digest()).parts.values() for file in files]
    assert [sum(map(len, parts)) for parts in loaded] == [20, 20]
    pictures = torch.cat([records.whole for parts in loaded for records in parts]).flatten(1)
    assert len(torch.unique(pictures, dim=0)) == 40


def refused(study: Study, data: Path | None, folder: Path) -> FedwardError:
    with pytest.raises(InputError) as caught:
        make_hospitals(study, data, folder / "hospitals", seed=0)
    assert caught.value.todo
    return caught.value


def test_a_wrong_number_of_folders_is_refused(tmp_path: Path) -> None:
    for name in ("berlin", "oslo"):
        write_images(tmp_path / "data" / name, 6)
    error = refused(image_study(simulation={"split": "folders"}), tmp_path / "data", tmp_path)

    assert "2 hospitals are there" in error.line()
    assert "wants 3" in error.line()
    assert str(tmp_path / "data") in error.line()


def test_a_wrong_number_of_sites_is_refused(table: Path, tmp_path: Path) -> None:
    study = study_of(
        simulation={"split": "site", "site": "ward"},
        participation={"hospitals": 2},
        aggregation=PLAIN,
    )
    error = refused(study, table, tmp_path)

    assert isinstance(error, OptionError)
    assert "'ward' names 3 sites" in error.line()
    assert "hospitals = 3" in error.line()


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    for name in ("berlin", "oslo"):
        write_images(tmp_path / "data" / name, 6)
    (tmp_path / "data" / "rome").mkdir()
    error = refused(image_study(simulation={"split": "folders"}), tmp_path / "data", tmp_path)

    assert isinstance(error, DataError)
    assert "rome" in error.line()


def test_a_table_without_rows_is_named(tables: Path, tmp_path: Path) -> None:
    write_table(tables / "oslo.csv", range(0))
    listed = {name: f"{name}.csv" for name in ("berlin", "oslo", "rome")}
    study = study_of(simulation={"split": "folders", "files": listed})

    error = refused(study, tables, tmp_path)

    assert "hospital oslo" in error.line()
    assert "empty" in error.line()


def test_a_hospital_with_too_few_patients_is_named(tmp_path: Path) -> None:
    """Sixty records but the ward `south` has two of them."""
    data = write_table(tmp_path / "records.csv", range(COUNT))
    lines = data.read_text(encoding="utf-8").splitlines()
    kept = [line.replace("south", "north") for line in lines[:-2]]
    few = [line.replace("north", "south").replace("west", "south") for line in lines[-2:]]
    data.write_text("\n".join([*kept, *few]) + "\n", encoding="utf-8")
    study = study_of(simulation={"split": "site", "site": "ward"})

    assert "hospital south" in refused(study, data, tmp_path).line()


def test_a_record_without_a_site_is_named(table: Path, tmp_path: Path) -> None:
    text = table.read_text(encoding="utf-8").replace("west", "", 1).replace("west", "south")
    table.write_text(text, encoding="utf-8")
    study = study_of(simulation={"split": "site", "site": "ward"})
    error = refused(study, table, tmp_path)

    assert "'ward'" in error.line()
    assert str(table) in error.line()


@pytest.mark.parametrize("name", ["absent", "absent.csv", "absent.npz"])
def test_data_that_is_not_there_is_said_to_be_missing(name: str, tmp_path: Path) -> None:
    study = image_study() if name.endswith("npz") else study_of()
    error = refused(study, tmp_path / name, tmp_path)

    assert str(tmp_path / name) in error.line()
    assert "no such" in error.line()


def test_a_listed_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "berlin", 6)
    listed = {"berlin": "berlin", "oslo": "oslo"}
    study = image_study(
        participation={"hospitals": 2},
        simulation={"split": "folders", "files": listed},
        aggregation=PLAIN,
    )
    error = refused(study, tmp_path / "data", tmp_path)

    assert "oslo" in error.line()
    assert "no such" in error.line()


def test_a_study_without_data_asks_for_it(tmp_path: Path) -> None:
    assert "--data" in refused(study_of(), None, tmp_path).line()


def test_a_file_of_an_unknown_type_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "records.xlsx").write_bytes(b"x")
    line = refused(study_of(), tmp_path / "records.xlsx", tmp_path).line()

    assert ".xlsx" in line
    assert ".csv" in line


def test_an_unknown_key_of_the_source_is_named(table: Path, tmp_path: Path) -> None:
    study = study_of(simulation={"split": "iid", "source": {"format": "csv", "pateint": "x"}})
    line = refused(study, table, tmp_path).line()

    assert "simulation.source" in line
    assert "pateint" in line
    assert "did you mean patient" in line


def test_a_split_by_an_unknown_column_lists_the_columns(table: Path, tmp_path: Path) -> None:
    study = study_of(simulation={"split": "site", "site": "clinic"})
    line = refused(study, table, tmp_path).line()

    assert "'clinic'" in line
    assert "ward" in line


def test_images_of_one_data_set_are_decoded_once_for_all_hospitals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        file = tmp_path / "data" / ("no", "yes")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 4 * number, dtype=np.uint8)).save(file)
    study = settled(image_study(task={"kind": "binary", "classes": ["no", "yes"]}))
    told: list[tuple[int, int]] = []

    files = make_hospitals(
        study,
        tmp_path / "data",
        tmp_path / "hospitals",
        seed=0,
        progress=lambda done, total: told.append((done, total)),
    )

    assert told == [(0, 60), (60, 60)]
    assert len(list((tmp_path / "hospitals" / CACHE).glob("*.rows"))) == 1
    forget_shared()  # as in another process
    monkeypatch.setattr(Image, "open", lambda _: pytest.fail("decoded again"))
    found = [site(file).load(study.digest()).parts for file in files]
    assert sum(len(records) for parts in found for records in parts.values()) == 60


def test_a_pretended_hospital_takes_patients_from_dicom_files(tmp_path: Path) -> None:
    for number in range(24):
        scan = made(ramp(8, 8, seed=number), PatientID=f"p{number // 2}")
        save(scan, tmp_path / "scans" / ("benign", "malignant")[number // 2 % 2] / f"{number}.dcm")
    study = image_study(data={**IMAGES["data"], "window": [2.0**15, 2.0**16]})

    files = make_hospitals(study, tmp_path / "scans", tmp_path / "hospitals", seed=5)

    raws = [
        read_with(own.data, study, context_of(own, file.parent))
        for file, own in ((file, read_hospital(file)) for file in files)
    ]
    owners = [set(raw.names.tolist()) for raw in raws]
    assert sorted(name for some in owners for name in some) == sorted(f"p{n}" for n in range(12))
    assert sum(map(len, raws)) == 24
    assert [read_hospital(file).data.named_by for file in files] == ["PatientID"] * len(files)
