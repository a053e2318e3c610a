"""Attention: what needs a hand in a store, the most urgent first, as the overview says it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from neoq.dashboard.failures import Group
from neoq.store import QueueCounts, ThreadInfo, WorkerInfo

LATE, VERY_LATE = timedelta(minutes=1), timedelta(minutes=10)  # for a job that is due
MOST = 5  # things of one kind; the others are said in one line

Kind = Literal["unheard", "unknown", "stuck", "wait", "paused", "dead"]


@dataclass(frozen=True)
class Hand:
    """One thing to see to. ``bad`` does harm now; what is not bad may come to that.

    ``others`` things of the same kind are said together, where there are many.
    """

    kind: Kind
    bad: bool = True
    queue: str | None = None
    number: int = 0
    name: str = ""  # a kind of jobs, or a worker
    others: int = 0
    since: datetime | None = None
    thread: ThreadInfo | None = None
    group: Group | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """What tells it from others, as an id of a page."""
        what = (
            self.group.key if self.group else f"{self.queue} {self.name} {self.thread and self.thread.job_id}"
        )
        return f"hand-{self.kind}-{hashlib.sha256(what.encode('utf-8', 'replace')).hexdigest()[:10]}"


def hands(
    counts: Sequence[QueueCounts],
    heard: Mapping[str, int],
    workers: Iterable[WorkerInfo],
    groups: Sequence[Group],
    now: datetime,
) -> list[Hand]:
    """All that needs a hand: ``heard`` says how many workers a queue has; ``groups`` died within the hour."""
    dead = [Hand("dead", number=group.count, since=group.last, group=group) for group in groups]
    found = [_unheard(counts, heard), _unknown(counts), _stuck(workers)]
    found += [_paused(counts), _waits(counts, heard, now), dead]
    return [hand for kind in found for hand in _few(kind)]


def _few(found: list[Hand]) -> list[Hand]:
    """The first things of a kind, and one that stands for all others."""
    if len(found) <= MOST + 1:
        return found
    rest = found[MOST:]
    number = sum(hand.number for hand in rest)
    return [
        *found[:MOST],
        Hand(rest[0].kind, bad=any(hand.bad for hand in rest), number=number, others=len(rest)),
    ]


def _unheard(counts: Iterable[QueueCounts], heard: Mapping[str, int]) -> list[Hand]:
    found = [
        Hand("unheard", bad=one.ready > 0, queue=one.queue, number=_waiting(one), since=one.oldest_due)
        for one in counts
        if _waiting(one) and not heard.get(one.queue) and not (one.paused and one.ready)
    ]
    return sorted(found, key=lambda hand: (not hand.bad, -hand.number))


def _unknown(counts: Iterable[QueueCounts]) -> list[Hand]:
    return [
        Hand("unknown", queue=one.queue, number=number, name=kind)
        for one in counts
        for kind, number in one.unknown.items()
    ]


def _stuck(workers: Iterable[WorkerInfo]) -> list[Hand]:
    found = [
        Hand(
            "stuck",
            queue=thread.queue,
            number=1,
            name=f"{worker.host}:{worker.pid}",
            since=thread.since,
            thread=thread,
        )
        for worker in workers
        for thread in worker.threads
        if thread.abandoned
    ]
    more = [
        Hand("stuck", number=worker.abandoned, name=f"{worker.host}:{worker.pid}")
        for worker in workers
        if worker.abandoned and not any(thread.abandoned for thread in worker.threads)
    ]
    return [*found, *more]


def _paused(counts: Iterable[QueueCounts]) -> list[Hand]:
    return [
        Hand("paused", bad=False, queue=one.queue, number=one.ready, since=one.oldest_due)
        for one in counts
        if one.paused and one.ready
    ]


def _waits(counts: Iterable[QueueCounts], heard: Mapping[str, int], now: datetime) -> list[Hand]:
    """The queue whose oldest job has waited longest; others that are late stand in the list of queues."""
    late = [
        one
        for one in counts
        if one.oldest_due is not None
        and not one.paused
        and heard.get(one.queue)
        and now - one.oldest_due > LATE
    ]
    if not late:
        return []
    worst = min(late, key=lambda one: one.oldest_due or now)
    waited = now - (worst.oldest_due or now)
    return [
        Hand(
            "wait",
            bad=waited > VERY_LATE,
            queue=worst.queue,
            number=worst.ready,
            since=worst.oldest_due,
            name=str(len(late) - 1) if len(late) > 1 else "",
        )
    ]


def _waiting(counts: QueueCounts) -> int:
    return counts.ready + counts.scheduled + counts.retrying
