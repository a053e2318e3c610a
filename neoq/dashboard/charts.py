"""Charts as SVG, drawn here: the same for every browser, with the numbers beside them in a table.

The shapes have classes and no style of their own, as the Content-Security-Policy demands; neoq.css gives
them their colours. The words stand outside of the SVG, which is stretched to the room that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from markupsafe import Markup

from neoq.dashboard.filters import clock, duration, number
from neoq.series import OUTCOMES, Histogram, SeriesPoint

_EMPTY = Markup("")
WELL = ("succeeded", "cancelled", "snoozed")
FAILED = ("retried", "dead", "lost")
QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
WIDTH, HEIGHT = 10, 100  # of a slot, and of a plot, in the units of its SVG
_GAP = 2  # between two bars
_LEAST = 2.5  # the height of a bar that would be too low to be seen
_BARS = Markup('<path class="fill-{}" d="{}"></path>')
_SLOT = Markup(
    '<g class="slot"><rect class="hit" x="{}" y="0" width="{}" height="{}"></rect><title>{}</title></g>'
)
_ROW = Markup('<tr><th scope="row">{}</th>{}</tr>')
_CELL = Markup('<td class="num">{}</td>')
_NOTHING = Markup('<p class="empty">No attempt has ended in this time.</p>')

Measure = Literal["waits", "runs"]


@dataclass
class Slot:
    """What ended in one span of time, of all queues together."""

    start: datetime
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    waits: Histogram = field(default_factory=Histogram)
    runs: Histogram = field(default_factory=Histogram)

    def count(self, outcomes: Iterable[str]) -> int:
        """How many attempts ended in any of these ways."""
        return sum(self.outcomes[name] for name in outcomes)


def slots_of(
    points: Iterable[SeriesPoint], since: datetime, until: datetime, seconds: int = 60
) -> list[Slot]:
    """One slot for each so many seconds of a time, those in which nothing ended too."""
    first, last = _number(since, seconds), _number(until, seconds)
    found: dict[int, list[SeriesPoint]] = {}
    for point in points:
        found.setdefault(_number(point.start, seconds), []).append(point)
    return [
        _slot_of(datetime.fromtimestamp(place * seconds, UTC), found.get(place, ()))
        for place in range(first, max(first, last) + 1)
    ]


def _slot_of(start: datetime, points: Sequence[SeriesPoint]) -> Slot:
    if not points:
        return Slot(start)
    return Slot(
        start,
        {name: sum(point.outcomes.get(name, 0) for point in points) for name in OUTCOMES},
        _together([point.waits for point in points]),
        _together([point.runs for point in points]),
    )


def _together(histograms: Sequence[Histogram]) -> Histogram:
    """As the sum of them, in a fifth of the time."""
    counts = tuple(map(sum, zip(*(one.counts for one in histograms), strict=True)))
    return Histogram(counts, sum(one.sum for one in histograms))


def outcomes(slots: Sequence[Slot], name: str, key: str) -> Markup:
    """Stacked bars: what went well in one plot, what failed in another below it, each with its own scale."""
    totals = {outcome: sum(slot.outcomes[outcome] for slot in slots) for outcome in OUTCOMES}
    shown = [outcome for outcome in OUTCOMES if totals[outcome] or outcome == "succeeded"]
    if not any(totals.values()):
        return _figure(name, _EMPTY, _NOTHING, _EMPTY)
    legend = _legend((f"fill-{outcome}", outcome, number(totals[outcome])) for outcome in shown)
    said = ", ".join(f"{number(totals[outcome])} {outcome}" for outcome in shown)
    parts = [_bars(slots, WELL, f"{name}: {said}", "plot-well")]
    if any(totals[outcome] for outcome in FAILED):
        parts.append(_bars(slots, FAILED, f"{name}, failed attempts only", "plot-failed"))
    parts.append(_times(slots))
    rows = [
        (slot.start, [number(slot.outcomes[outcome]) for outcome in shown])
        for slot in slots
        if any(slot.outcomes.values())
    ]
    return _figure(name, legend, _EMPTY.join(parts), _table(name, shown, rows, key))


def times(slots: Sequence[Slot], measure: Measure, name: str, key: str) -> Markup:
    """Lines of the quantiles of how long jobs waited, or ran; the scale is logarithmic."""
    histograms = [slot.waits if measure == "waits" else slot.runs for slot in slots]
    whole = _together(histograms)
    found = [[one.quantile(q) for one in histograms] for q, _ in QUANTILES]
    known = [value for line in found for value in line if value is not None]
    if not known:
        return _figure(name, _EMPTY, _NOTHING, _EMPTY)
    legend = _legend((f"line-{label}", label, duration(whole.quantile(q))) for q, label in QUANTILES)
    low, high = _decades(known)
    place = _logarithmic(low, high)
    lines = [_band(found[0], found[1], place)]
    lines += [
        Markup('<path class="line-{}" d="{}"></path>').format(label, _path(line, place))
        for line, (_, label) in reversed(list(_with(found)))
    ]
    lines += [
        _slot(column, slot, [f"{label} {duration(line[column])}" for line, (_, label) in _with(found)])
        for column, slot in enumerate(slots)
        if found[0][column] is not None
    ]
    said = ", ".join(f"{label} {duration(whole.quantile(q))}" for q, label in QUANTILES)
    labels = [_power(size) for size in range(high, low - 1, -1)]
    plot = _plot(slots, _EMPTY.join(lines), labels, f"{name}: {said}", "plot-times")
    rows = [
        (slot.start, [number(histograms[column].count), *(duration(line[column]) for line in found)])
        for column, slot in enumerate(slots)
        if found[0][column] is not None
    ]
    heads = ["jobs", *(label for _, label in QUANTILES)]
    return _figure(name, legend, plot + _times(slots), _table(name, heads, rows, key))


def spark(slots: Sequence[Slot]) -> Markup:
    """A chart as small as a word: how many attempts ended, those that failed above the others."""
    most = max((sum(slot.outcomes.values()) for slot in slots), default=0) or 1
    well, failed = (sum(slot.count(names) for slot in slots) for names in (WELL, FAILED))
    bars: dict[str, list[str]] = {"succeeded": [], "dead": []}
    for column, slot in enumerate(slots):
        top = float(HEIGHT)
        for name, count in (("succeeded", slot.count(WELL)), ("dead", slot.count(FAILED))):
            if count:
                height = max(count * HEIGHT / most, 3 * _LEAST)
                foot = _short(top)
                bars[name].append(f"M{column * WIDTH} {foot}v-{_short(height)}h{WIDTH - 1}V{foot}Z")
                top -= height
    paths = _EMPTY.join(_BARS.format(name, "".join(parts)) for name, parts in bars.items())
    return Markup(
        '<svg class="spark" role="img" aria-label="{} well, {} failed in the last hour" viewBox="0 0 {} {}" '
        'preserveAspectRatio="none"><title>{} well, {} failed in the last hour</title>{}</svg>'
    ).format(number(well), number(failed), len(slots) * WIDTH, HEIGHT, number(well), number(failed), paths)


# -- parts of a chart ----------------------------------------------------------------------------------------


def _bars(slots: Sequence[Slot], stacked: Sequence[str], said: str, kind: str) -> Markup:
    most = _round_up(max(slot.count(stacked) for slot in slots))
    paths = _EMPTY.join(
        _BARS.format(name, path) for name, path in _stacks(slots, stacked, HEIGHT / most).items() if path
    )
    labels = [number(most), number(most // 2), "0"] if most > 1 else ["1", "0"]
    titles = [
        _slot(column, slot, [f"{number(count)} {name}" for name, count in slot.outcomes.items() if count])
        for column, slot in enumerate(slots)
        if any(slot.outcomes.values())
    ]
    return _plot(slots, paths + _EMPTY.join(titles), labels, said, kind)


def _stacks(slots: Sequence[Slot], stacked: Sequence[str], scale: float) -> dict[str, str]:
    """Rectangles on top of one another: one path for all of a kind, since a page has many of them."""
    paths: dict[str, list[str]] = {name: [] for name in stacked}
    for column, slot in enumerate(slots):
        foot = float(HEIGHT)
        for name in stacked:
            if count := slot.outcomes[name]:
                height = min(foot, max(count * scale, _LEAST))
                foot -= height
                left, wide = column * WIDTH + _GAP // 2, WIDTH - _GAP
                paths[name].append(f"M{left} {_short(foot)}h{wide}v{_short(height)}h-{wide}Z")
    return {name: "".join(parts) for name, parts in paths.items()}


def _slot(column: int, slot: Slot, values: Iterable[str]) -> Markup:
    """A column of a plot, which says what it stands for when it is pointed at."""
    return _SLOT.format(column * WIDTH, WIDTH, HEIGHT, f"{slot.start:%H:%M} UTC: {', '.join(values)}")


def _plot(slots: Sequence[Slot], shapes: Markup, labels: Sequence[str], said: str, kind: str) -> Markup:
    width = len(slots) * WIDTH
    seconds = (slots[-1].start - slots[0].start).total_seconds() / max(1, len(slots) - 1)
    marks = _EMPTY.join(Markup("<span>{}</span>").format(label) for label in labels)
    return Markup(
        '<div class="plot {}"><div class="plot-y" aria-hidden="true">{}</div>'
        '<svg role="img" aria-label="{}" data-start="{:%Y-%m-%dT%H:%MZ}" data-step="{:.0f}" '
        'viewBox="0 0 {} {}" preserveAspectRatio="none">{}{}</svg></div>'
    ).format(kind, marks, said, slots[0].start, seconds, width, HEIGHT, _grid(width, len(labels)), shapes)


def _grid(width: int, lines: int) -> Markup:
    places = (_short(HEIGHT * place / (lines - 1)) for place in range(lines - 1))
    path = "".join(f"M0 {place}H{width}" for place in places)
    return Markup(
        '<path class="grid-line" d="{}"></path><path class="zero-line" d="M0 {}H{}"></path>'
    ).format(path, HEIGHT, width)


def _times(slots: Sequence[Slot]) -> Markup:
    """The times below a plot: of the first slot, the one in the middle and the last."""
    marks = (clock(slots[place].start) for place in sorted({0, len(slots) // 2, len(slots) - 1}))
    return Markup('<div class="plot-x" aria-hidden="true">{}</div>').format(_EMPTY.join(marks))


def _legend(entries: Iterable[tuple[str, str, str]]) -> Markup:
    parts = (Markup('<span class="{}">{} <b>{}</b></span>').format(*entry) for entry in entries)
    return Markup('<span class="legend">{}</span>').format(_EMPTY.join(parts))


def _figure(name: str, legend: Markup, plot: Markup, table: Markup) -> Markup:
    return Markup(
        '<figure class="chart"><figcaption><span class="chart-name">{}</span>{}</figcaption>{}{}</figure>'
    ).format(name, legend, plot, table)


def _table(
    name: str, heads: Sequence[str], rows: Sequence[tuple[datetime, Sequence[str]]], key: str
) -> Markup:
    """The numbers of a chart, the newest first."""
    head = _EMPTY.join(Markup('<th scope="col" class="num">{}</th>').format(one) for one in heads)
    cells = _CELL * len(heads)
    body = _EMPTY.join(_ROW.format(clock(start), cells.format(*values)) for start, values in reversed(rows))
    return Markup(
        '<details class="numbers" id="{0}-numbers"><summary>The numbers</summary>'
        '<div class="scroll" tabindex="0" role="region" aria-label="{1}: the numbers"><table>'
        '<caption class="hidden">{1}; times without an attempt are left out</caption>'
        '<thead><tr><th scope="col">from</th>{2}</tr></thead><tbody>{3}</tbody></table></div></details>'
    ).format(key, name, head, body)


# -- lines and scales ----------------------------------------------------------------------------------------


def _path(values: Sequence[float | None], place: Callable[[float], float]) -> str:
    """A line through the values; where one is missing it breaks off, and one alone is as wide as its slot."""
    parts: list[str] = []
    before = False
    for column, value in enumerate(values):
        if value is not None:
            alone = not before and (column + 1 == len(values) or values[column + 1] is None)
            at = f"{column * WIDTH + (0 if alone else WIDTH // 2)} {_short(place(value))}"
            parts.append(f"{'L' if before else 'M'}{at}{f'h{WIDTH}' if alone else ''}")
        before = value is not None
    return "".join(parts)


def _band(
    lower: Sequence[float | None], upper: Sequence[float | None], place: Callable[[float], float]
) -> Markup:
    """The area between two lines, as one column for each slot."""
    parts = [
        f"M{column * WIDTH} {_short(place(high))}h{WIDTH}V{_short(place(low))}h-{WIDTH}Z"
        for column, (low, high) in enumerate(zip(lower, upper, strict=True))
        if low is not None and high is not None
    ]
    return Markup('<path class="band" d="{}"></path>').format("".join(parts))


def _logarithmic(low: int, high: int) -> Callable[[float], float]:
    """Where a value stands in a plot that goes from one power of ten to another."""
    return lambda value: HEIGHT * (1 - (math.log10(max(value, 10.0**low)) - low) / (high - low))


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten around the values, at least two apart; from 1 ms."""
    found = [max(value, 0.001) for value in values]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    return low, max(high, low + 2)


def _power(of_ten: int) -> str:
    """A power of ten, in seconds."""
    return f"{10**of_ten:,} s" if of_ten >= 0 else f"{10 ** (of_ten + 3)} ms"


def _round_up(most: int) -> int:
    """The next round number whose half is one too: 1, 2, 4, 6, 8, 10, 20, 30, 40, 50, 60, 80, 100, ..."""
    size = 1
    while True:
        for first in (1, 2, 4, 6, 8) if size == 1 else (1, 2, 3, 4, 5, 6, 8):
            if first * size >= most:
                return first * size
        size *= 10


def _with(found: list[list[float | None]]) -> Iterable[tuple[list[float | None], tuple[float, str]]]:
    return zip(found, QUANTILES, strict=True)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _number(when: datetime, seconds: int) -> int:
    return math.floor((when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=seconds))
