"""What a process tells those that share its store: its queues, its memory, and what its threads run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from neoq.store import ThreadInfo, WorkerInfo
from neoq.system import host_name, memory_used
from neoq.times import to_datetime
from neoq.version import __version__

if TYPE_CHECKING:
    from neoq.engine.listener import Listener
    from neoq.engine.pool import RunnerPool

SHOWN = 100  # of a process
_HANGS, _RUNS, _WAITS = range(3)


def info_of(
    worker_id: str,
    began: float,
    now: float,
    listeners: Mapping[str, Listener],
    pools: Mapping[str, RunnerPool],
) -> WorkerInfo:
    """This process, as other workers see it."""
    at: Any = to_datetime(now)
    kinds = {queue: listeners[queue].kinds for queue in sorted(pools)}
    known = list(pools.values())
    runners = [runner for pool in known for runner in list(pool.runners)]
    return WorkerInfo(
        worker_id,
        host_name(),
        os.getpid(),
        to_datetime(began) or at,
        at,
        tuple(kinds),
        sum(runner.slot.job is not None for runner in runners),
        {queue: None if some is None else tuple(sorted(some)) for queue, some in kinds.items()},
        __version__,
        threads_of(known),
        memory_used(),
        sum(len(pool.abandoned) for pool in known),
    )


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
