"""The tiny study as a stock Flower app on Flower's Ray engine, as its quickstart writes it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from simulation_tiny import BATCH, FEATURES, HIDDEN, HOSPITALS, RATE, TRAINED_ON
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Loader = DataLoader[tuple[torch.Tensor, ...]]
_LOADERS: dict[int, Loader] = {}


def rounds_of_flower(data: str, rounds: int) -> dict[str, Any]:
    """A whole run on Ray; seconds of each round from one aggregation to the next."""
    ends = [time.perf_counter()]
    run_simulation(
        server_app=_server_app(rounds, ends),
        client_app=_client_app(data),
        num_supernodes=HOSPITALS,
        backend_config={
            # One core a client: as many clients at once as there are cores.
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"log_to_driver": False, "logging_level": "error"},
        },
    )
    if len(ends) != rounds + 1:
        raise RuntimeError(f"{len(ends) - 1} of {rounds} rounds were run")
    return {"rounds": np.diff(ends).tolist()}


class _Clocked(FedAvg):
    """FedAvg that notes when each aggregation ended."""

    ends: list[float]

    def aggregate_train(self, server_round: int, replies: Any) -> Any:  # noqa: ANN401 - as Flower's
        found = super().aggregate_train(server_round, replies)
        self.ends.append(time.perf_counter())
        return found


def _server_app(rounds: int, ends: list[float]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = _Clocked(
            fraction_evaluate=0.0, min_train_nodes=HOSPITALS, min_available_nodes=HOSPITALS
        )
        strategy.ends = ends
        arrays = ArrayRecord(network().state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=rounds)

    return app


def _client_app(data: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = network()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        loader = loader_of(data, int(str(context.node_config["partition-id"])))
        loss = train_one_epoch(model, loader)
        metrics = MetricRecord({"train_loss": loss, "num-examples": TRAINED_ON})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def network() -> nn.Module:
    """The network that the tiny study names."""
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))


def loader_of(data: str, partition: int) -> Loader:
    """A client's batches; read once in each actor, which the quickstart does in every round."""
    if partition not in _LOADERS:
        table = np.loadtxt(data, delimiter=",", skiprows=1, dtype=np.float32)
        own = torch.from_numpy(table[partition::HOSPITALS][:TRAINED_ON])
        records = TensorDataset(own[:, :FEATURES].contiguous(), own[:, FEATURES].long())
        _LOADERS[partition] = DataLoader(records, batch_size=BATCH, shuffle=True)
    return _LOADERS[partition]


def train_one_epoch(model: nn.Module, loader: Loader) -> float:
    """Plain SGD over the client's records once; the mean loss."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    model.train()
    total = 0.0
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)
