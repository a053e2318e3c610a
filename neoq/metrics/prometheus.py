"""Figures as prometheus-client takes them: one collector for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeAlias

from neoq.metrics.figures import Figures, Key, Numbers
from neoq.metrics.names import METRICS, Metric
from neoq.metrics.text import BOUNDS, by_metric

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector as PrometheusCollector
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "neoq.metrics.collector needs prometheus-client, which is not installed: pip install 'neoq[metrics]'",
        name="prometheus_client",
    ) from None

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Collector(PrometheusCollector):
    """Gives a registry the figures that a function returns at each scrape."""

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures

    def describe(self) -> list[Family]:
        """The names, without asking the store: a registry compares them with those it has."""
        return [_family(metric, {}) for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """The figures as they are now."""
        for metric, found in by_metric(self._figures()):
            yield _family(metric, found)


def _family(metric: Metric, found: dict[Key, Numbers]) -> Family:
    if metric.type == "histogram":
        times = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, (*counts, total) in found.items():
            times.add_metric(labels, list(zip(BOUNDS, accumulate(counts), strict=True)), total)
        return times
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, (number,) in found.items():
        family.add_metric(labels, number)
    return family
