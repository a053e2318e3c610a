"""What the operating commands print: aligned columns for people, one JSON object a line for programs."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from neoq.cli.parser import Parser
from neoq.cli.streams import show

_COLOURS = {"dead": 31, "retrying": 33, "running": 32, "paused": 33, "nobody": 31, "cancelled": 2}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
JOB = (
    *("id", "uid", "queue", "kind", "status", "payload", "priority", "attempt", "retries", "max_retries"),
    *("crashes", "timeout", "run_after", "deadline", "created_at", "ran_at", "finished_at", "scheduled_at"),
    *("fingerprint", "unique", "key", "meta", "worker", "error", "traceback", "result"),
)


def add_json(parser: Parser) -> None:
    """Let a command print for programs."""
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads this; None: it is closed."""
    return stream is not None and stream.isatty()


def in_colour() -> bool:
    """Whether to colour what is printed."""
    return is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# -- for programs --------------------------------------------------------------------------------------------


def print_json(record: Mapping[str, Any]) -> None:
    """Print an object on a line of its own."""
    import orjson

    show(orjson.dumps(record, default=_as_json, option=orjson.OPT_NON_STR_KEYS).decode(), flush=True)


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def job_record(job: Any) -> dict[str, Any]:
    """The fields of a job, under their own names."""
    return {name: getattr(job, name) for name in JOB} | {"progress": job.progress()}


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, under their own names."""
    from dataclasses import fields

    return {spec.name: getattr(record, spec.name) for spec in fields(record)}


# -- for people ----------------------------------------------------------------------------------------------


def plain(value: object, width: int | None = None) -> str:
    """A value on one line: what could steer a terminal is escaped, and what is too long is cut."""
    text = "-" if value is None else str(value)
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def lines_of(text: str) -> list[str]:
    """The lines of a text, such as a traceback, each safe to print."""
    return [plain(line) for line in text.splitlines()]


def compact(value: object, width: int | None = None) -> str:
    """JSON on one line, for people."""
    import orjson

    return plain(orjson.dumps(value, default=_as_json, option=orjson.OPT_NON_STR_KEYS).decode(), width)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; a column of numbers is flush right."""
    rows = list(rows)
    cells = [[_cell(value) for value in row] for row in rows]
    titles = [title.upper() for title in head]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    numbers = [bool(rows) and all(_is_number(row[place]) for row in rows) for place in range(len(head))]
    colour = in_colour()

    def line(words: Sequence[str], *, paint: bool) -> str:
        padded = []
        for word, width, number in zip(words, widths, numbers, strict=True):
            pad = " " * (width - _width(word))
            shown = f"\x1b[{_COLOURS[word]}m{word}\x1b[0m" if paint and word in _COLOURS else word
            padded.append(pad + shown if number else shown + pad)
        return "  ".join(padded).rstrip()

    return [line(titles, paint=False), *(line(row, paint=colour) for row in cells)]


def _cell(value: object) -> str:
    return f"{value:,}" if _is_number(value) else plain(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF")
               for sign in text)  # fmt: skip


def fit(line: str, columns: int) -> str:
    """A line of a table, cut to a terminal's width; colours take no room."""
    if len(line) <= columns:
        return line
    shown, room = [], columns
    for part in re.split(r"(\x1b\[\d*m)", line):
        if part.startswith("\x1b["):
            shown.append(part)
        else:
            shown.append(part[:room])
            room -= len(shown[-1])
    return "".join(shown)


def span(seconds: float) -> str:
    """A span as people say it: 850ms, 12s, 3m, 2h, 5d."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms" if seconds > 0 else "0s"
    unit, size = next(one for one in _UNITS if seconds >= one[1])
    return f"{seconds / size:.0f}{unit}"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago a moment was, or in how long it will be."""
    if moment is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def when(moment: datetime | None) -> str:
    """A moment and how long ago it was."""
    return "-" if moment is None else f"{moment.isoformat(timespec='milliseconds')} ({ago(moment)})"


def many(number: int, word: str = "job", words: str = "") -> str:
    """``1 job``, ``1,200 jobs``."""
    return f"{number:,} {word if number == 1 else words or f'{word}s'}"
