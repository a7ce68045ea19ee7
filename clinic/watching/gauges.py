"""What is watched, for Prometheus: only what may be shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fedward.clinic.watching.watch import Watch


class WatchGauges(Collector):
    """Figures of watched models.

    Args:
        watches: One of each model.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches

    def collect(self) -> Iterable[Metric]:
        """All figures as they are now."""
        of_each = ("model", "kind", "feature")
        records = GaugeMetricFamily(
            "fedward_watch_records", "Records that were compared.", labels=of_each
        )
        psi = GaugeMetricFamily(
            "fedward_watch_psi", "Population stability index to training.", labels=of_each
        )
        ks = GaugeMetricFamily(
            "fedward_watch_ks", "Kolmogorov-Smirnov distance to training.", labels=of_each
        )
        alarm = GaugeMetricFamily(
            "fedward_watch_alarm", "1 where it is not what it was trained on.", labels=of_each
        )
        metric = GaugeMetricFamily(
            "fedward_watch_metric",
            "Of records whose label came later (fedward monitor --labels).",
            labels=("model", "metric"),
        )
        missed = CounterMetricFamily(
            "fedward_watch_missed_records",
            "Records that came faster than they could be counted.",
            labels=("model",),
        )
        works = GaugeMetricFamily(
            "fedward_watch_works",
            "1 while counting, comparing, writing and reading work; else the figures are old.",
            labels=("model",),
        )
        idle = GaugeMetricFamily(
            "fedward_watch_idle_seconds",
            "Since a record was counted, or since the service began.",
            labels=("model",),
        )
        for watch in self._watches:
            for drift in watch.shown:
                labels = (watch.name, drift.kind, drift.name)
                records.add_metric(labels, drift.records)
                psi.add_metric(labels, drift.psi)
                if drift.ks is not None:
                    ks.add_metric(labels, drift.ks)
                alarm.add_metric(labels, drift.alarm)
            later = watch.figures()
            for name, value in () if later is None else later.metrics.items():
                metric.add_metric((watch.name, name), value)
            missed.add_metric((watch.name,), watch.missed)
            works.add_metric((watch.name,), watch.works)
            idle.add_metric((watch.name,), watch.idle)
        return [records, psi, ks, alarm, metric, missed, works, idle]
