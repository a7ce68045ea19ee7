"""The grid without a network: one order of replies, errors as replies, workers change nothing."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.server.events import Outcome
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import make_hospitals
from fedward.study.messages import EvaluateRequest
from fedward.study.study import Study
from fedward.study.wire import pack_request, unpack_answer
from tests.simulation.conftest import study_of

FILES = [Path(str(number)) for number in range(1, 6)]


def echo() -> ClientApp:
    """Says which node it is; node 3 fails."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if context.node_id == 3:
            raise ValueError("no bed free")
        said = ConfigRecord({"hospital": str(context.node_config["hospital"])})
        return Message(RecordDict({"said": said}), reply_to=message)

    return app


def ask(grid: InProcessGrid, nodes: Iterable[int]) -> list[str]:
    return list(
        grid.push_messages([Message(RecordDict(), node, "query", group_id="1") for node in nodes])
    )


def drain(grid: InProcessGrid, identifiers: Iterable[str]) -> Iterator[Message]:
    waiting = set(identifiers)
    while waiting:
        for reply in grid.pull_messages(waiting):
            waiting.remove(reply.metadata.reply_to_message_id)
            yield reply


def test_nodes_are_numbered_from_one_in_the_order_of_their_files() -> None:
    with InProcessGrid(FILES, client_app=echo()) as grid:
        assert list(grid.get_node_ids()) == [1, 2, 3, 4, 5]
        assert [node.node_id for node in grid.get_nodes()] == [1, 2, 3, 4, 5]
        (reply,) = drain(grid, ask(grid, [4]))

    assert reply.content.config_records["said"]["hospital"] == "4"


def test_replies_come_in_the_order_of_the_pushes() -> None:
    order = [4, 1, 5, 2, 4, 1]
    with InProcessGrid(FILES, client_app=echo()) as grid:
        identifiers = ask(grid, order)
        replies = list(drain(grid, sorted(identifiers, reverse=True)))

    assert [reply.metadata.src_node_id for reply in replies] == order
    assert [reply.metadata.reply_to_message_id for reply in replies] == identifiers
    assert len(set(identifiers)) == len(order)


def test_only_the_replies_that_are_asked_for_are_handed_out() -> None:
    with InProcessGrid(FILES, client_app=echo()) as grid:
        first, second = ask(grid, [1, 2])
        assert [m.metadata.src_node_id for m in grid.pull_messages([second])] == [2]
        assert list(grid.pull_messages([second])) == []
        assert [m.metadata.src_node_id for m in grid.pull_messages([first])] == [1]
        assert list(grid.pull_messages(["of another run"])) == []


def test_an_app_that_raises_becomes_an_error_reply() -> None:
    with InProcessGrid(FILES, client_app=echo()) as grid:
        replies = list(drain(grid, ask(grid, [2, 3, 4])))

    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].metadata.src_node_id == 3
    assert "no bed free" in str(replies[1].error.reason)


def test_send_and_receive_answers_everything() -> None:
    with InProcessGrid(FILES, client_app=echo()) as grid:
        messages = [
            grid.create_message(RecordDict(), "query", node, group_id="1") for node in (5, 3, 1)
        ]
        replies = list(grid.send_and_receive(messages))

    assert [reply.metadata.src_node_id for reply in replies] == [5, 3, 1]


def test_workers_run_no_other_app_than_the_hospitals_own() -> None:
    with pytest.raises(ValueError, match="own app only"):
        InProcessGrid(FILES, client_app=echo(), workers=2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hospitals(study: Study, table: Path, folder: Path) -> list[Path]:
    return make_hospitals(study, table, folder, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_workers_give_the_same_model_bit_for_bit(table: Path, tmp_path: Path) -> None:
    study = study_of()

    def run(workers: int) -> Outcome:
        # Other hospitals with the same records and seed: these have answered the run's rounds.
        files = hospitals(study, table, tmp_path / str(workers) / "hospitals")
        with InProcessGrid(files, workers=workers, patience=0.0) as grid:
            outcome = Federation(study, grid, run="run", seed=1).train_and_judge()
            assert bool(multiprocessing.active_children()) == (workers > 1)
            return outcome

    here, there = run(1), run(2)

    np.testing.assert_array_equal(here.model, there.model)
    assert (here.test, here.curve, here.validation) == (there.test, there.curve, there.validation)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_reply_and_the_next_round_goes_on(
    table: Path, tmp_path: Path
) -> None:
    study = study_of()
    files = hospitals(study, table, tmp_path / "hospitals")
    model = np.zeros(22 + 4, dtype=np.float32)
    request = pack_request(EvaluateRequest(study.digest(), "run", 1, model, "test"))

    def question(node: int) -> Message:
        return Message(request, node, "evaluate", group_id="1")

    with InProcessGrid(files, workers=2, patience=0.0) as grid:
        identifiers = list(grid.push_messages([question(node) for node in (1, 2, 3)]))
        for worker in multiprocessing.active_children():  # still starting
            worker.kill()
        replies = list(drain(grid, identifiers))
        assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]
        for reply in replies:
            assert reply.has_error()
            assert "worker process died" in str(reply.error.reason)

        again = list(drain(grid, grid.push_messages([question(node) for node in (1, 2, 3)])))
        assert [reply.metadata.src_node_id for reply in again] == [1, 2, 3]
        names = [unpack_answer(m.content, size=1 + 6 + 2048).hospital for m in again]
        assert names == ["A", "B", "C"]
