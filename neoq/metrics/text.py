"""Figures as the text that Prometheus reads, by its format 0.0.4. It needs no library, and is quick.

The supervisor of `neoq worker` makes it beside its probes, which must not wait: prometheus-client would take
five times as long for it, and half as much memory as the supervisor has.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from neoq.metrics.figures import Figures, Key, Numbers
from neoq.metrics.names import METRICS, Metric
from neoq.series import BUCKETS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (*(str(float(bound)) for bound in BUCKETS), "+Inf")
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def text_of(figures: Figures) -> bytes:
    """The text of a scrape."""
    return "".join(
        line
        for metric, found in by_metric(figures)
        for line in (
            f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.type}\n",
            *(_samples(metric, labels, numbers) for labels, numbers in found.items()),
        )
    ).encode(errors="replace")  # a lone surrogate in a name


def by_metric(figures: Figures) -> Iterator[tuple[Metric, dict[Key, Numbers]]]:
    """The metrics that have figures, each with its numbers by the values of its labels."""
    by_name: dict[str, dict[Key, Numbers]] = {}
    for (name, *labels), numbers in figures.items():
        by_name.setdefault(name, {})[tuple(labels)] = numbers
    for metric in METRICS:
        if metric.name in by_name:
            yield metric, by_name[metric.name]


def _samples(metric: Metric, values: Key, numbers: Numbers) -> str:
    name = metric.name
    labels = ",".join(
        f'{label}="{value.translate(_ESCAPES)}"' for label, value in zip(metric.labels, values, strict=True)
    )
    braces = f"{{{labels}}}" if labels else ""
    if metric.type != "histogram":
        return f"{name}{braces} {numbers[0]}\n"
    *counts, total = numbers
    start = f"{name}_bucket{{{labels},le=" if labels else f"{name}_bucket{{le="
    buckets = [
        f'{start}"{bound}"}} {number}\n' for bound, number in zip(BOUNDS, accumulate(counts), strict=True)
    ]
    return f"{''.join(buckets)}{name}_count{braces} {sum(counts)}\n{name}_sum{braces} {total}\n"
