"""Failures: the newest dead jobs in groups, by what was raised and where."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from neoq.record import Status

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.line import JobLine

NEWEST = 10_000  # dead jobs that are looked at
PAGE = 1000  # of them in one question to the store
PLACES_KEPT = 2000
PLACES_READ = 200  # tracebacks, at most, for one look
UNKNOWN = "(no error)"
_NAMED = re.compile(r"([\w.]+)(?:: |$)")
_VARIES = re.compile(r"0x[0-9a-fA-F]+|'[^']*'|\"[^\"]*\"|\b[0-9a-fA-F-]{8,}\b|\d+")
_FRAME = re.compile(r'^\s+File "([^"\n]+)", line (\d+), in (.+)$', re.MULTILINE)
_NOT_THEIRS = re.compile(r"site-packages|dist-packages|[\\/]lib[\\/]python3|[\\/]neoq[\\/]|^<")

Kind = tuple[str, str | None, str]  # queue, kind and the error without what varies


class Fault(NamedTuple):
    """One dead job, as far as groups need it."""

    id: int
    queue: str
    exception: str
    place: str
    error: str
    died_at: datetime | None


@dataclass
class Group:
    """Dead jobs that raised the same at the same place; ``error`` and ``newest`` are those of the newest."""

    key: str
    exception: str
    place: str
    error: str
    newest: int
    ids: list[int] = field(default_factory=list)
    queues: dict[str, int] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None

    @property
    def count(self) -> int:
        """How many jobs."""
        return len(self.ids)


class Faults:
    """Reads the newest dead jobs of a store, and remembers where each kind of error was raised."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._places: dict[Kind, str] = {}

    def read(self) -> list[Fault]:
        """The newest dead jobs by their enqueue, `NEWEST` at most."""
        lines = self._lines()
        self._learn(lines)
        return [
            Fault(
                line.id,
                line.queue,
                exception_of(line.error),
                self._places.get(_kind_of(line), ""),
                line.error or UNKNOWN,
                line.finished_at,
            )
            for line in lines
        ]

    def _lines(self) -> list[JobLine]:
        lines: list[JobLine] = []
        while len(lines) < NEWEST:
            after = lines[-1].id if lines else None
            page = self._backend.jobs(status=Status.DEAD, limit=PAGE, after=after, brief=True)
            lines += page
            if len(page) < PAGE:
                break
        return lines

    def _learn(self, lines: Iterable[JobLine]) -> None:
        """Read the traceback of the newest job of each kind of error that is not known."""
        unknown: dict[Kind, int] = {}
        for line in lines:
            kind = _kind_of(line)
            if kind not in self._places:
                unknown.setdefault(kind, line.id)
        if len(self._places) > PLACES_KEPT:
            self._places.clear()
        for kind, job_id in list(unknown.items())[:PLACES_READ]:
            job = self._backend.get(job_id)
            if job is not None:
                self._places[kind] = place_of(job.traceback)


def groups_of(faults: Iterable[Fault], may_read: Callable[[str], bool]) -> list[Group]:
    """Dead jobs of the queues that may be looked at, in groups; the largest first."""
    found: dict[tuple[str, str], Group] = {}
    allowed: dict[str, bool] = {}
    for fault in faults:
        if fault.queue not in allowed:
            allowed[fault.queue] = may_read(fault.queue)
        if not allowed[fault.queue]:
            continue
        name = (fault.exception, fault.place)
        group = found.get(name)
        if group is None:
            group = found[name] = Group(_key(*name), *name, error=fault.error, newest=fault.id)
        group.ids.append(fault.id)
        group.queues[fault.queue] = group.queues.get(fault.queue, 0) + 1
        if fault.died_at is not None:
            group.first = fault.died_at if group.first is None else min(group.first, fault.died_at)
            group.last = fault.died_at if group.last is None else max(group.last, fault.died_at)
    return sorted(found.values(), key=lambda group: (-group.count, group.exception, group.place))


def exception_of(error: str | None) -> str:
    """The name of what was raised: ``ConnectionError`` of "ConnectionError: refused"."""
    named = _NAMED.match(error or "")
    return named[1] if named else UNKNOWN if not error else "(other)"


def place_of(traceback: str | None) -> str:
    """Where it was raised: the last frame that is neither a library's nor Python's own, or else the last."""
    frames = _FRAME.findall((traceback or "").rpartition("Traceback (most recent call last)")[2])
    if not frames:
        return ""
    theirs = [frame for frame in frames if not _NOT_THEIRS.search(frame[0])]
    path, line, function = (theirs or frames)[-1]
    short = "/".join(re.split(r"[\\/]", path)[-2:])
    return f"{short}:{line} in {function}"


def _kind_of(line: JobLine) -> Kind:
    return line.queue, line.kind, _VARIES.sub("…", (line.error or "").partition("\n")[0])[:200]


def _key(exception: str, place: str) -> str:
    return hashlib.sha256(f"{exception}\n{place}".encode("utf-8", "replace")).hexdigest()[:12]
