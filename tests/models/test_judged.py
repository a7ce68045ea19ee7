"""The sums of a run come back as they were, or the file is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedward.models.judged import packed, read_judged
from fedward.study.errors import DataError

SUMS = {"local.Ward [a]. No 3.test": np.arange(4.0), "federated.test": np.full(4, 2.0**53 - 1)}


def test_sums_come_back_and_the_file_repeats(tmp_path: Path) -> None:
    path = tmp_path / "sums"
    path.write_bytes(packed(SUMS, "d"))
    found = read_judged(path, "d", 4)

    assert set(found) == set(SUMS)
    assert all(np.array_equal(found[name], sums) for name, sums in SUMS.items())
    assert packed(dict(reversed(SUMS.items())), "d") == path.read_bytes()


@pytest.mark.parametrize(
    ("digest", "size", "said"), [("e", 4, "another study's"), ("d", 5, "sums of 5 numbers")]
)
def test_another_study_s_sums_are_refused(
    digest: str, size: int, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "sums"
    path.write_bytes(packed(SUMS, "d"))
    with pytest.raises(DataError, match=said) as refused:
        read_judged(path, digest, size)
    assert str(path) in refused.value.line()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sums"
    whole = packed(SUMS, "d")
    for content in (b"", whole[:-1], b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_judged(path, "d", 4)
    path.write_bytes(packed({"federated.test": np.array([1.0, np.nan])}, "d"))
    with pytest.raises(DataError, match="does not hold"):
        read_judged(path, "d", 2)
    save_file({"federated.test": np.zeros(4)}, path)
    with pytest.raises(DataError, match="cannot be read"):
        read_judged(path, "d", 4)
