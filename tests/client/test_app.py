"""Which hospital a node is, and which one no real node may be."""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict, UserConfig

from fedward.client.app import open_site, site_of
from fedward.client.daemon import make_daemon
from fedward.client.hospital import write_hospital
from fedward.client.worker import serve
from fedward.study.errors import OptionError
from tests.client.conftest import DECLARED, SEED, House


def context(node: dict[str, Any], run: dict[str, Any] | None = None) -> Context:
    return Context(1, 1, UserConfig(node), RecordDict(), UserConfig(run or {}))


def file_of(house: House, **tables: Any) -> Path:  # noqa: ANN401
    path = house.folder / "hospital.toml"
    write_hospital(house.site(**tables).hospital, path)
    open_site.cache_clear()
    return path


def test_a_real_node_whose_noise_would_have_a_seed_is_refused(house: House) -> None:
    path = file_of(house, **SEED, **DECLARED)

    with pytest.raises(OptionError, match="noise from a seed protects nobody") as caught:
        site_of(context({"hospital": str(path)}))

    assert "[simulation]" in caught.value.todo
    assert caught.value.where == str(path)


def test_no_daemon_is_made_for_a_hospital_whose_noise_would_have_a_seed(house: House) -> None:
    path = file_of(house, **SEED, **DECLARED)

    with pytest.raises(OptionError, match="noise from a seed protects nobody"):
        make_daemon(path)


def test_no_worker_serves_a_hospital_whose_noise_would_have_a_seed(house: House) -> None:
    path = file_of(house, **SEED, **DECLARED)
    ours, theirs = Pipe()
    ours.close()  # who served all the same would meet the end of the pipe, and return

    with theirs, pytest.raises(OptionError, match="noise from a seed protects nobody"):
        serve(path, theirs)


def test_a_real_node_without_a_seed_is_taken(house: House) -> None:
    path = file_of(house, **DECLARED)

    assert site_of(context({"hospital": str(path)})).hospital.name == house.name


@pytest.mark.parametrize("flower", [True, False])
def test_a_simulated_node_may_have_a_seed(flower: bool, house: House) -> None:
    """In Flower's simulation, and in Fedward's own."""
    path = file_of(house, **SEED)
    node: dict[str, Any] = {"hospital": str(path), "simulated": True}
    if flower:
        node = {"partition-id": 0}

    site = site_of(context(node, {"hospitals": str(house.folder.parent)}))

    assert site.hospital.simulation is not None
