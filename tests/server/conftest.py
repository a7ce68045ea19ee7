"""Small hospitals with real files, a small study, and a grid whose answers a test writes itself."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedward.client.app import app as hospital_app
from fedward.server.aggregator import Aggregator
from fedward.server.events import Event, Outcome, RoundFinished
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid
from fedward.study.messages import Contribution, Vector
from fedward.study.study import Study, parse_study
from fedward.study.wire import pack_answer
from tests.server.supervised import Post, enrolled

CLASSES = ("benign", "malignant")
PARTS = ("train", "validation", "test")
SEED = 3


def study_values(**tables: dict[str, Any]) -> dict[str, Any]:
    """A study of two numbers and two classes, whose sums are plain so that a test can look into
    them; tables named here replace or extend these."""
    values: dict[str, dict[str, Any]] = {
        "study": {"name": "tiny"},
        "task": {"kind": "binary", "classes": list(CLASSES)},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {
            "kind": "table",
            "features": {"age": {}, "size": {}},
            "label": "diagnosis",
            "parts": {"by": "file"},
        },
        "training": {"rounds": 2, "local_epochs": 3, "batch_size": "all", "learning_rate": 0.3},
        "aggregation": {"strategy": "fedavg", "secure": False},
        "participation": {"hospitals": 2},
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table}
    return values


def study_of(**tables: dict[str, Any]) -> Study:
    """The same, read and checked."""
    return parse_study(study_values(**tables))


@dataclass(frozen=True)
class Ward:
    """One hospital's records, as a test knows them without asking the code."""

    inputs: NDArray[np.float64]
    labels: NDArray[np.int64]
    parts: NDArray[np.str_]

    def part(self, name: str) -> tuple[Tensor, Tensor]:
        here = self.parts == name
        return torch.from_numpy(self.inputs[here]).float(), torch.from_numpy(self.labels[here])


def ward(
    seed: int, *, train: int, validation: int = 12, test: int = 12, moved: float = 0.0
) -> Ward:
    """Records of two overlapping classes; all but the training part may be moved aside."""
    rng = np.random.default_rng(seed)
    count = train + validation + test
    labels = rng.integers(0, 2, count)
    inputs = rng.normal(size=(count, 2)) + 1.5 * labels[:, None]
    inputs[train:] += moved
    return Ward(inputs, labels, np.repeat(PARTS, [train, validation, test]))


def hospital(folder: Path, name: str, records: Ward, studies: Sequence[dict[str, Any]]) -> Path:
    """A hospital's folder with its table, its `hospital.toml` and the studies it approved."""
    home = folder / name
    (home / "studies").mkdir(parents=True)
    with (home / "records.csv").open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(["age", "size", "diagnosis", "part"])
        for numbers, label, part in zip(records.inputs, records.labels, records.parts, strict=True):
            table.writerow([*map(repr, map(float, numbers)), CLASSES[label], part])
    for number, study in enumerate(studies):
        (home / "studies" / f"{number}.toml").write_bytes(tomli_w.dumps(study).encode())
    file = home / "hospital.toml"
    file.write_text(
        f'name = "{name}"\ndevice = "cpu"\n\n'
        '[data]\nformat = "csv"\npath = "records.csv"\n\n[simulation]\nseed = 7\n',
        encoding="utf-8",
    )
    return file


def opened(folder: Path, wards: Sequence[Ward], values: dict[str, Any]) -> list[Path]:
    """Hospitals A, B, ... with these records, which all approved the study."""
    return [hospital(folder, "ABCDEFGH"[n], each, [values]) for n, each in enumerate(wards)]


def disapprove(file: Path) -> None:
    """This hospital approves nothing any more."""
    for study in (file.parent / "studies").iterdir():
        study.unlink()


def federate(
    study: Study,
    hospitals: Sequence[Path],
    *,
    seed: int = SEED,
    events: list[Event] | None = None,
    client_app: ClientApp = hospital_app,
) -> Outcome:
    """A whole run over these hospitals."""
    listener = (lambda _: None) if events is None else events.append
    with InProcessGrid(hospitals, client_app=client_app) as grid:
        return Federation(study, grid, run="run", seed=seed, listener=listener).train_and_judge()


def finished_rounds(outcome: Outcome) -> list[RoundFinished]:
    """The rounds of a run in which none was lost."""
    finished = [record for record in outcome.rounds if isinstance(record, RoundFinished)]
    assert len(finished) == len(outcome.rounds)
    return finished


def network(seed: int) -> nn.Sequential:
    """The study's network, built without Fedward: the usual PyTorch layers after one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))


def weights(model: nn.Module) -> NDArray[np.float64]:
    """All weights of a network in the order of its layers."""
    return np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])


def put(model: nn.Module, values: NDArray[Any]) -> None:
    """All weights of a network from one row of numbers."""
    nn.utils.vector_to_parameters(torch.from_numpy(values).float(), model.parameters())


def descend(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, rate: float, steps: int, mu: float = 0.0
) -> None:
    """Gradient descent on all records, by hand; with `mu`, FedProx' pull to where it began."""
    start = [p.detach().clone() for p in model.parameters()]
    for _ in range(steps):
        whole = functional.cross_entropy(model(inputs), labels)
        for parameter, before in zip(model.parameters(), start, strict=True):
            whole = whole + mu / 2 * (parameter - before).square().sum()
        slopes = torch.autograd.grad(whole, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter.sub_(slope, alpha=rate)


def averaged(
    wards: Sequence[Ward],
    shares: Sequence[float],
    *,
    rounds: int,
    mu: float = 0.0,
    seed: int = SEED,
) -> NDArray[np.float64]:
    """Federated averaging by hand: each ward descends from the same model, then the mean."""
    model = network(seed)
    for _ in range(rounds):
        start, mean = weights(model), np.zeros(len(weights(model)))
        for each, share in zip(wards, shares, strict=True):
            put(model, start)
            descend(model, *each.part("train"), rate=0.3, steps=3, mu=mu)
            mean += share / sum(shares) * weights(model)
        put(model, mean)
    return weights(model)


def context(**config: str | int) -> Context:
    """What Flower hands to a ServerApp."""
    return Context(1, 0, UserConfig(), RecordDict(), UserConfig(config))


def contribution(message: Message, vector: Vector, hospital: str = "A") -> Message:
    """A hospital's answer to a message."""
    return Message(pack_answer(Contribution(hospital, vector)), reply_to=message)


@pytest.fixture(autouse=True)
def flower_identity() -> None:
    """Flower makes messages only in a process that has taken a run's identity, as a grid does."""
    PostBox(lambda _: [], nodes=0)


class PostBox(Grid):
    """A real grid whose hospitals are a function from a request to any number of replies.

    Replies lie in the box in the order that `shuffle` gives them, and are handed out `batch` at a
    time, each once.
    """

    def __init__(
        self,
        answers: Callable[[Message], list[Message]],
        *,
        nodes: int,
        shuffle: Callable[[list[Message]], list[Message]] = list,
        batch: int = 1,
    ) -> None:
        self._answers = answers
        self._nodes = nodes
        self._shuffle = shuffle
        self._batch = batch
        self.box: list[Message] = []
        self._sent = 0
        self.set_run(Run.create_empty(run_id=1))

    def set_run(self, run: Run) -> None:
        self._run = run
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run.run_id, 0, 1

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self._nodes + 1)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number) for number in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        replies: list[Message] = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._sent}"
            identifiers.append(message.metadata.message_id)
            replies += self._answers(message)
        self.box += self._shuffle(replies)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        now, self.box = self.box[: self._batch], self.box[self._batch :]
        return now

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        self.push_messages(messages)
        return self.pull_messages([])


@pytest.fixture
def hub(tmp_path: Path) -> Aggregator:
    return enrolled(tmp_path)


@pytest.fixture
def post(hub: Aggregator) -> Iterator[Post]:
    made = Post(hub)
    yield made
    made.supervisor._diary.close()
