"""Search: jobs that a filter takes, looked for in steps of the store for as long as a page may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from neoq.filter import Filter, filter_of
from neoq.line import JobLine, line_of

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.dashboard.changes import Change
    from neoq.dashboard.finder import Finder

SECONDS = 0.7  # for which a page looks for jobs before it shows what it has found
_FIRST = 0  # below every id


@dataclass(frozen=True)
class Found:
    """Jobs in the order of the page, and where to go on if not every job was looked at."""

    jobs: list[JobLine]
    rest: int | None = None


def wanted_by(backend: Backend, finder: Finder, change: Change | None = None) -> Filter:
    """The filter of a form; with a change, of the jobs that it can change."""
    wanted = filter_of(finder.filters(), backend.clock.time())
    if change is None:
        return wanted
    possible = frozenset(change.statuses(finder.texts.get("status")))
    return replace(wanted, statuses=possible if wanted.statuses is None else possible & wanted.statuses)


def search(
    backend: Backend,
    wanted: Filter,
    *,
    limit: int,
    after: int | None = None,
    before: int | None = None,
    oldest: bool = False,
    seconds: float | None = None,
) -> Found:
    """The first jobs behind an id of the list, or the last in front of one, as far as there is time."""
    give_up = time.monotonic() + (SECONDS if seconds is None else seconds)
    backend.engine.ensure_readable()
    if oldest:  # the store knows one order
        after, before = before, _FIRST if after is None and before is None else after
    jobs: list[JobLine] = []
    while True:
        page = backend.store.find_brief(wanted, limit=limit - len(jobs), after=after, before=before)
        found = [line_of(job) for job in page.jobs]
        jobs = [*jobs, *found] if before is None else [*found, *jobs]
        rest = page.rest if len(jobs) < limit else None
        if rest is None or time.monotonic() > give_up:
            return Found(jobs[::-1] if oldest else jobs, rest)
        after, before = (rest, None) if before is None else (None, rest)


def steps(backend: Backend, wanted: Filter, size: int, newest: int | None = None) -> Iterator[list[JobLine]]:
    """All jobs in steps of the store, newest first up to ``newest``; a step may have found none."""
    backend.engine.ensure_readable()
    rest = None if newest is None else newest + 1
    while wanted.statuses != frozenset():
        page = backend.store.find_brief(wanted, limit=size, after=rest)
        yield [line_of(job) for job in page.jobs]
        if (rest := page.rest) is None:
            return
