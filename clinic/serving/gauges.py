"""What the service counts, for Prometheus: never a value of a record."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Gauges:
    """The service's figures, in a registry of its own.

    Args:
        collectors: More to show, such as those of who watches the models.
    """

    def __init__(self, *collectors: Collector) -> None:
        self.registry = CollectorRegistry()
        for collector in collectors:
            self.registry.register(collector)
        self.requests = Counter(
            "fedward_serving_requests",
            "Requests answered, by endpoint and status.",
            ("endpoint", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "fedward_serving_seconds",
            "Seconds from a request to its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "fedward_serving_in_flight", "Requests not yet answered.", registry=self.registry
        )
        self._rows = Histogram(
            "fedward_serving_batch_rows",
            "Records computed together.",
            ("model",),
            buckets=_ROWS,
            registry=self.registry,
        )

    def batched(self, model: str) -> Callable[[int], None]:
        """Who is told the rows of each of a model's computations."""
        return self._rows.labels(model).observe
