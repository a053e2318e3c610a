"""From where claims search: past what was taken, where that lies dead in their way.

Rows that were claimed and settled are cleared away within moments, unless a transaction somewhere in the
database is open that might still look at them: then each claim steps over all of them. A claim that searched
for long is followed by some that begin where it ended, and now and then by one that begins at the beginning:
jobs may have been put before that point since, by a retry, a late commit or a wish for an earlier time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from neoq.clock import machine
from neoq.postgres.arrays import float8s, int2s, texts

LONG = 0.008  # seconds of searching, above which it is worth remembering where it ended
WHOLE_EVERY = 1.0  # seconds between searches from the beginning
WHOLE_SHARE = 0.05  # of the time, at most, that these may take


class Told(NamedTuple):
    """What a claim said of one priority of a queue."""

    queue: str
    level: int
    start: float
    seconds: float


class _Search:
    """What is known of one queue."""

    def __init__(self) -> None:
        self.starts: dict[int, float] = {}
        self.whole_again = 0.0  # when to search from the beginning (monotonic); always, where that is quick


class Searches:
    """From where to search, queue by queue."""

    def __init__(self) -> None:
        self._queues: dict[str, _Search] = {}

    def known(self, queues: Sequence[str]) -> dict[str, _Search]:
        """The queues whose beginning is better left out now."""
        if not self._queues:
            return {}
        now = machine.monotonic()
        return {
            queue: search
            for queue in queues
            if (search := self._queues.get(queue)) is not None and now < search.whole_again
        }

    @staticmethod
    def values(known: dict[str, _Search]) -> tuple[Any, Any, Any]:
        """What a claim takes for them."""
        if not known:
            return None, None, None
        starts = [(queue, *item) for queue, search in known.items() for item in search.starts.items()]
        return (
            texts([queue for queue, _, _ in starts]),
            int2s([level for _, level, _ in starts]),
            float8s([start for _, _, start in starts]),
        )

    def learn(self, known: dict[str, _Search], told: Sequence[Told]) -> None:
        """Take over what a claim said."""
        seconds: dict[str, float] = {}
        for one in told:
            seconds[one.queue] = seconds.get(one.queue, 0.0) + one.seconds
        for queue, spent in seconds.items():
            if queue in known:
                continue
            if spent < LONG:
                self._queues.pop(queue, None)
                continue
            search = self._queues[queue] = _Search()
            search.whole_again = machine.monotonic() + max(WHOLE_EVERY, spent / WHOLE_SHARE)
        for one in told:
            search_of = self._queues.get(one.queue)
            if search_of is not None:
                search_of.starts[one.level] = one.start

    def next_whole(self, known: dict[str, _Search]) -> float | None:
        """In how many seconds the first of these is searched from the beginning again."""
        if not known:
            return None
        return max(0.0, min(search.whole_again for search in known.values()) - machine.monotonic())
