"""Studies of sequences in `examples/`: they are good, and find in the files what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedward.client.app import open_site
from fedward.client.data.records import Parts
from fedward.models.registry import build, read_settled
from fedward.simulation.hospitals import make_hospitals

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
NAMES = ("arrhythmia", "note-sections", "splice")


def sites(name: str, file: str, folder: Path) -> list[Parts]:
    """The parts of each pretended hospital of an example."""
    data = DATA / file
    if not data.exists():
        pytest.skip(f"{data} is not here")
    study = read_settled(ROOT / "examples" / f"{name}.toml")
    files = make_hospitals(study, data, folder, seed=0)
    return [open_site(file).load(study.digest()).parts for file in files]


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}-private" for name in NAMES)])
def test_an_example_is_a_good_study(name: str) -> None:
    study = read_settled(ROOT / "examples" / f"{name}.toml")

    assert study.study.name == name
    assert (study.privacy.mode == "local") == name.endswith("-private")
    assert sum(p.numel() for p in build(study, seed=0).parameters()) > 0


def test_dialogues_are_in_the_parts_of_their_files(tmp_path: Path) -> None:
    found = sites("note-sections", "mts_dialog", tmp_path)

    counts = [sum(len(parts[part]) for parts in found) for part in found[0]]
    assert counts == [1201, 100, 200]
    assert len(found) == 4


def test_no_window_is_there_twice(tmp_path: Path) -> None:
    found = sites("splice", "uci_splice/splice.arff", tmp_path)

    windows = np.concatenate([parts[part].whole.numpy() for parts in found for part in parts])
    assert len(windows) == len(np.unique(windows, axis=0)) == 3005


def test_windows_that_are_there_twice_are_one_patient_s(tmp_path: Path) -> None:
    found = sites("splice-private", "uci_splice/splice.arff", tmp_path)

    seen: dict[bytes, tuple[int, str]] = {}
    for site, parts in enumerate(found):
        for part, records in parts.items():
            for window in records.whole.numpy():
                assert seen.setdefault(window.tobytes(), (site, part)) == (site, part)
    assert sum(len(records) for parts in found for records in parts.values()) == 3190


@pytest.mark.slow
def test_beats_are_of_whole_patients_and_none_of_a_pacemaker_s(tmp_path: Path) -> None:
    found = sites("arrhythmia", "mitbih/mitbih_beats.npz", tmp_path)

    patients = [
        {part: len(records.patients.unique()) for part, records in parts.items()} for parts in found
    ]
    assert [sum(p[part] for p in patients) for part in ("train", "validation", "test")] == [
        22,
        0,
        21,
    ]
    beats = sum(len(records) for parts in found for records in parts.values())
    assert beats == 45847 + 944 + 3788 + 414 + 8 + 44239 + 1837 + 3220 + 388 + 7
