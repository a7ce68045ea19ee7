"""What staff write into hospital.toml holds from the next message on, without a restart."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from fedward.client.app import site_of
from fedward.client.current import CurrentSite
from fedward.client.hospital import write_hospital
from fedward.client.letter import Letter, unpack
from fedward.client.worker import serve
from fedward.study.errors import DataError, HospitalError, OptionError
from fedward.study.messages import Refusal
from fedward.study.study import Study
from fedward.study.wire import unpack_answer
from tests.client.conftest import DECLARED, SEED, House, refusal_from, spent, training, vector_from
from tests.client.test_app import context
from tests.client.test_daemon import letter


def written(house: House, **tables: Any) -> Path:  # noqa: ANN401
    path = house.folder / "hospital.toml"
    write_hospital(house.site(**tables).hospital, path)
    return path


def limits(epsilon: float) -> dict[str, Any]:
    return {"limits": {"declared_patients": 50, "delta": 1e-5, "epsilon": epsilon}}


def test_a_limit_that_is_lowered_holds_at_the_next_message(private: Study, house: House) -> None:
    current = CurrentSite(written(house, **limits(100.0)))
    vector_from(current.now(), training(private, 1))
    before = spent(current.now(), data="data")

    written(house, **limits(before))

    assert refusal_from(current.now(), training(private, 2)).error == "BudgetError"
    assert spent(current.now(), data="data") == before
    written(house, **limits(100.0))
    vector_from(current.now(), training(private, 2))


def test_a_stock_node_follows_its_file_too(private: Study, house: House) -> None:
    path = written(house, **limits(100.0))
    node = context({"hospital": str(path)})
    vector_from(site_of(node), training(private, 1))

    written(house, **limits(0.01))

    assert refusal_from(site_of(node), training(private, 2)).error == "BudgetError"


def test_while_the_file_says_the_same_everything_stays_warm(study: Study, house: House) -> None:
    path = written(house, **DECLARED)
    current = CurrentSite(path)
    site = current.now()
    loaded = site.load(study.digest())

    path.write_text(path.read_text("utf-8") + "\n# a note\n", "utf-8")

    assert current.now() is site
    assert current.now().load(study.digest()) is loaded


@pytest.mark.parametrize("content", [None, b"", b"name = 3\n", b"\xff"])
def test_what_cannot_be_read_answers_nothing_until_it_can(
    house: House, content: bytes | None
) -> None:
    path = written(house, **DECLARED)
    whole = path.read_bytes()
    current = CurrentSite(path)
    current.now()

    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)

    for _ in range(2):
        with pytest.raises((DataError, HospitalError)):
            current.now()
    path.write_bytes(whole)
    assert current.now().hospital.name == house.name


def test_a_seed_that_is_written_later_is_refused_as_well(house: House) -> None:
    path = written(house, **DECLARED)
    current = CurrentSite(path)
    current.now()
    written(house, **DECLARED, **SEED)

    for _ in range(2):
        with pytest.raises(OptionError, match="noise from a seed protects nobody"):
            current.now()


@pytest.mark.parametrize(("key", "value"), [("name", "south"), ("state", "elsewhere")])
def test_what_the_daemon_goes_by_is_changed_by_a_restart_only(
    house: House, key: str, value: str
) -> None:
    path = written(house, **DECLARED)
    current = CurrentSite(path)
    current.now()
    written(house, **DECLARED, **{key: value})

    with pytest.raises(HospitalError, match="stopped and started again"):
        current.now()
    assert getattr(CurrentSite(path).now().hospital, key) == value


def test_the_worker_refuses_while_the_file_cannot_be_read(house: House) -> None:
    """Typed, by the same process, which answers again once the file is mended."""
    path = written(house, **DECLARED)
    whole = path.read_bytes()
    ours, theirs = Pipe()
    working = threading.Thread(target=serve, args=[path, theirs], daemon=True)
    working.start()
    assert ours.recv_bytes() == b"ready"

    def asked() -> Refusal:
        for frame in letter().frames():
            ours.send_bytes(frame)
        found = unpack_answer(unpack(Letter.read(ours.recv_bytes)).content)
        assert isinstance(found, Refusal), found
        return found

    first = asked()
    path.write_bytes(b"limits = 3\n")
    torn = asked()
    path.write_bytes(whole)
    mended = asked()

    assert (torn.hospital, torn.error, torn.what) == ("north", "TrainingError", "could not finish")
    assert mended == first
    assert mended != torn
    ours.close()
    working.join(10)
