"""A study is approved by its content: a file with that digest in the hospital's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedward.client.approvals import approved_study
from fedward.study.errors import RefusedError
from fedward.study.study import parse_study

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]


def put(folder: Path, name: str, values: Values) -> str:
    """Approve a study, and give its digest."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(tomli_w.dumps(values), encoding="utf-8")
    return parse_study(values).digest()


def test_the_study_with_the_digest_is_found_among_others(
    tmp_path: Path, values_with: ValuesWith
) -> None:
    digests = [
        put(tmp_path, f"{number}.toml", values_with({"training.rounds": number}))
        for number in range(1, 5)
    ]

    for number, digest in enumerate(digests, start=1):
        study, path = approved_study(tmp_path, digest)
        assert study.training.rounds == number
        assert path == tmp_path / f"{number}.toml"


def test_a_study_with_one_value_changed_is_not_approved(
    tmp_path: Path, values_with: ValuesWith
) -> None:
    put(tmp_path, "a.toml", values_with({}))
    other = parse_study(values_with({"training.rounds": 99})).digest()

    with pytest.raises(RefusedError, match="not approved") as caught:
        approved_study(tmp_path, other)
    assert other[:12] in caught.value.line()
    assert f"fedward hospital approve {other[:12]}" in caught.value.todo


@pytest.mark.parametrize("digest", ["", "a.toml", "../a", "0" * 64])
def test_what_is_no_digest_approves_nothing(
    digest: str, tmp_path: Path, values_with: ValuesWith
) -> None:
    put(tmp_path, "a.toml", values_with({}))

    with pytest.raises(RefusedError):
        approved_study(tmp_path, digest)


def test_without_a_folder_nothing_is_approved(tmp_path: Path, values_with: ValuesWith) -> None:
    with pytest.raises(RefusedError):
        approved_study(tmp_path / "none", parse_study(values_with({})).digest())


@pytest.mark.parametrize("name", ["a.toml", "z.toml"])
@pytest.mark.parametrize("content", ["[study", "[study]\nname = 3\n"])
def test_a_broken_file_beside_it_does_not_take_an_approval_away(
    name: str, content: str, tmp_path: Path, values_with: ValuesWith
) -> None:
    digest = put(tmp_path, "m.toml", values_with({}))
    (tmp_path / name).write_text(content, encoding="utf-8")

    study, _ = approved_study(tmp_path, digest)
    assert study.digest() == digest
