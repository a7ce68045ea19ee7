"""Figures for Prometheus, on this machine's loopback only: nothing of a patient, no counts of them.

Kinds of messages come from the network, so only those that Fedward speaks become labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fedward.client.happenings import (
    Answered,
    Asked,
    Connected,
    Disconnected,
    Dropped,
    Happening,
    Leaving,
    Refused,
    Stopped,
    WorkerRestarted,
)
from fedward.client.spending import noted
from fedward.study.errors import DataError
from fedward.study.messages import ADVERTISE, EVALUATE, MEASURE, OFFER, TRAIN, UNMASK

_KINDS = {OFFER, ADVERTISE, MEASURE, TRAIN, EVALUATE, UNMASK}
_LOOPBACK = "127.0.0.1"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """A listener that counts."""

    def __init__(self, state: Path) -> None:
        """Count from zero.

        Args:
            state: The hospital's folder of state, where the worker notes what was spent.
        """
        self.registry = registry = CollectorRegistry()
        self._messages = Counter(
            "fedward_messages", "Messages that came", ["kind"], registry=registry
        )
        self._bytes = Counter("fedward_bytes", "Bytes", ["direction"], registry=registry)
        self._rounds = Counter("fedward_rounds", "Rounds that were trained", registry=registry)
        self._seconds = Histogram(
            "fedward_message_seconds",
            "From a message to its taken answer",
            ["kind"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._refusals = Counter("fedward_refusals", "Refusals", ["error"], registry=registry)
        self._dropped = Counter("fedward_dropped", "Messages given up", registry=registry)
        self._restarts = Counter("fedward_worker_restarts", "Workers lost", registry=registry)
        self._connected = Gauge(
            "fedward_connected", "1 while the aggregator answers", registry=registry
        )
        registry.register(_Epsilon(state))

    def __call__(self, happening: Happening) -> None:
        """Count a happening."""
        match happening:
            case Asked() as asked:
                self._messages.labels(_kind(asked)).inc()
                self._bytes.labels("in").inc(asked.size)
            case Leaving(_, size):
                self._bytes.labels("out").inc(size)
            case Answered(asked, _, _, seconds):
                self._seconds.labels(_kind(asked)).observe(seconds)
                self._rounds.inc(asked.kind == TRAIN)
            case Refused(_, error):
                self._refusals.labels(error).inc()
            case Dropped():
                self._dropped.inc()
            case WorkerRestarted():
                self._restarts.inc()
            case Connected():
                self._connected.set(1)
            case Disconnected() | Stopped():
                self._connected.set(0)
            case _:
                pass


class _Epsilon(Collector):
    """Asked of the worker's note when somebody looks."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def collect(self) -> Iterable[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            "fedward_epsilon_spent", "Epsilon over all studies", labels=["data_set"]
        )
        for data, counted in noted(self._state).items():
            gauge.add_metric([data], counted.epsilon)
        yield gauge


class MetricsPage:
    """The page that Prometheus reads."""

    def __init__(self, metrics: Metrics, port: int) -> None:
        """Open the port, on loopback.

        Args:
            metrics: What it shows.
            port: 0 for any.

        Raises:
            DataError: The port is taken.
        """
        try:
            self._server, self._thread = start_http_server(
                port, addr=_LOOPBACK, registry=metrics.registry
            )
        except OSError as error:
            raise DataError(
                f"port {port} cannot be opened for metrics ({error.strerror})",
                todo="set another metrics_port in [daemon] of hospital.toml",
            ) from None

    @property
    def port(self) -> int:
        """Where it is."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _kind(asked: Asked) -> str:
    return asked.kind if asked.kind in _KINDS else "other"
