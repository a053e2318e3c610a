"""Which threads of this process take jobs, and what each of them runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from neoq.store import ThreadInfo
from neoq.times import to_datetime

if TYPE_CHECKING:
    from neoq.engine.pool import RunnerPool

SHOWN = 100  # of a process
_HANGS, _RUNS, _WAITS = range(3)


def threads_of(pools: Iterable[RunnerPool]) -> tuple[ThreadInfo, ...]:
    """The threads that take jobs: those that hang, those whose job has run longest, and those that wait."""
    found: list[tuple[int, float, ThreadInfo]] = []
    for pool in pools:
        for runner in [*pool.abandoned, *pool.runners]:
            job, abandoned = runner.slot.job, runner.slot.abandoned
            if job is None:
                found.append(
                    (_HANGS if abandoned else _WAITS, math.inf, ThreadInfo(pool.queue, abandoned=abandoned))
                )
                continue
            # In memory the next attempt has the same job, and another thread.
            since = job.started if job.slot is runner.slot else None
            info = ThreadInfo(pool.queue, job.id, job.kind, to_datetime(since), abandoned)
            found.append((_HANGS if abandoned else _RUNS, math.inf if since is None else since, info))
    found.sort(key=lambda one: one[:2])
    return tuple(info for *_, info in found[:SHOWN])
