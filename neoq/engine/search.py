"""Search: the jobs of a store that a filter takes, page by page, each call of the store a short one."""

from __future__ import annotations

from collections.abc import Iterator

from neoq.filter import Filter
from neoq.job import Job
from neoq.record import FINISHED, Status
from neoq.store import Store
from neoq.threads.boundary import entrance

UNFINISHED = Filter(statuses=frozenset(Status) - FINISHED)
_FIRST = 0  # below every id
PAGE = 500  # jobs that one call of a store returns, so that it holds nobody up for long
_COUNTED = FINISHED | {Status.RUNNING}  # of these a store knows the number


def page_of(
    store: Store,
    wanted: Filter,
    *,
    limit: int,
    after: int | None = None,
    before: int | None = None,
    oldest: bool = False,
    brief: bool = False,
) -> list[Job]:
    """The first jobs behind the one of the id ``after``, or the last in front of the one of ``before``.

    Newest first, or ``oldest`` first; ``brief``: as `Store.find_brief` returns them.
    """
    if oldest:
        after, before = before, _FIRST if after is None and before is None else after
        return page_of(store, wanted, limit=limit, after=after, before=before, brief=brief)[::-1]
    find = store.find_brief if brief else store.find
    found: list[Job] = []
    while len(found) < limit:
        page = find(wanted, limit=limit - len(found), after=after, before=before)
        found = [*found, *page.jobs] if before is None else [*page.jobs, *found]
        if page.rest is None:
            break
        after, before = (page.rest, None) if before is None else (None, page.rest)
    return found


@entrance  # a handler may go through them itself
def pages(store: Store, wanted: Filter, *, oldest: bool = False, brief: bool = False) -> Iterator[list[Job]]:
    """All jobs in pages, newest first, without those that come in between; or ``oldest`` first, with them."""
    find = store.find_brief if brief else store.find
    rest = _FIRST if oldest else None
    while True:
        page = find(wanted, limit=PAGE, **{"before" if oldest else "after": rest})
        if page.jobs:
            yield page.jobs[::-1] if oldest else page.jobs
        if (rest := page.rest) is None:
            return


def count(store: Store, wanted: Filter, at_most: int | None = None) -> int:
    """How many jobs there are; ``at_most`` where there are as many or more."""
    number = 0
    statuses = wanted.statuses or frozenset()
    if statuses and statuses <= _COUNTED and wanted == Filter(queue=wanted.queue, statuses=statuses):
        for counts in store.counts():
            if wanted.queue in {None, counts.queue}:
                number += sum(getattr(counts, status.value) for status in statuses)
        return number if at_most is None else min(number, at_most)
    for page in pages(store, wanted, brief=True):
        number += len(page)
        if at_most is not None and number >= at_most:
            return at_most
    return number
