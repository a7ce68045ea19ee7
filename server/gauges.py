"""What Prometheus may ask on loopback: counts and states, of no single patient or message."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from fedward.server.gate import Passage
from fedward.server.run_registry import State
from fedward.study.errors import ServiceError


class Gauges:
    """The aggregator's metrics."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._answers = Counter(
            "fedward_gate_answers", "Answers of the public port.", ["status"], registry=registry
        )
        self._bytes = Counter(
            "fedward_gate_bytes", "Bytes of bodies that passed.", ["direction"], registry=registry
        )
        self._seconds = Histogram(
            "fedward_gate_seconds",
            "From a request's head to the end of its answer.",
            registry=registry,
        )
        self.superlink = Gauge(
            "fedward_superlink_up", "Whether the SuperLink answers.", registry=registry
        )
        self.restarts = Counter(
            "fedward_superlink_restarts", "Starts after the first.", registry=registry
        )
        self.roster = Gauge("fedward_roster_version", "Version of the roster.", registry=registry)
        self.members = Gauge("fedward_hospitals", "Hospitals that may come in.", registry=registry)
        self.online = Gauge(
            "fedward_hospitals_online", "Hospitals heard of lately.", registry=registry
        )
        self.callers = Gauge(
            "fedward_gate_connections", "Connections to the public port.", registry=registry
        )
        self.certificate = Gauge(
            "fedward_certificate_days",
            "Days until the public port's certificate ends; negative once it has.",
            registry=registry,
        )
        self._runs = Gauge("fedward_runs", "Runs in a state.", ["state"], registry=registry)

    def passed(self, passage: Passage) -> None:
        """Count one answer of the gate."""
        self._answers.labels(str(passage.status)).inc()
        self._bytes.labels("in").inc(passage.received)
        self._bytes.labels("out").inc(passage.sent)
        self._seconds.observe(passage.seconds)

    def count_runs(self, states: Iterable[str]) -> None:
        """Say how many runs are in each state."""
        tally = Tally(states)
        for state in get_args(State):
            self._runs.labels(state).set(tally[state])

    def serve(self, port: int) -> None:
        """Answer on loopback, for as long as the process lives.

        Raises:
            ServiceError: The port is taken.
        """
        try:
            start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise ServiceError(
                f"cannot listen on 127.0.0.1 port {port} for metrics ({error.strerror})",
                todo="choose another metrics port in aggregator.toml",
            ) from None
