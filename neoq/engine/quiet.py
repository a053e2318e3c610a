"""Quiet: nothing is ready or runs here, which a drain waits for; and rest, which a test waits for."""

from __future__ import annotations

from collections.abc import Callable

from neoq.clock import machine
from neoq.engine.pool import RunnerPool
from neoq.engine.runtime import Runtime
from neoq.engine.search import pages
from neoq.errors import NeoqError
from neoq.filter import Filter
from neoq.record import Status

_ALL_LINES = 10**6
_WAITING = frozenset({Status.PENDING, Status.RETRYING})


def await_quiet(runtime: Runtime, give_up: float, broken_off: Callable[[], bool] = bool) -> bool:
    """Wait until `is_quiet`, at most until ``give_up`` (monotonic) or until it is broken off."""
    with runtime.waiting():
        while True:
            seen = runtime.changes
            if is_quiet(runtime):
                return True
            left = give_up - machine.monotonic()
            if left <= 0 or broken_off():
                return False
            runtime.wait_for_change(left, seen)


def is_quiet(runtime: Runtime) -> bool:
    """Whether nothing is ready or runs here."""
    claims = runtime.fetcher.claims if runtime.fetcher is not None else 0
    if _is_busy(runtime):
        return False
    for counts in runtime.store.counts():
        pool = runtime.pools.get(counts.queue)
        if pool is None or pool.without_threads:
            continue
        if counts.running and runtime.local:
            return False
        may_claim = counts.ready and not counts.paused and _may_claim(runtime, pool)
        if may_claim and counts.ready > _standing_still(runtime, counts.queue, counts.ready):
            return False
    return runtime.fetcher is None or (claims == runtime.fetcher.claims and not _is_busy(runtime))


def _standing_still(runtime: Runtime, queue: str, ready: int) -> int:
    """How many jobs that are due wait behind one that is dead, or that waits for its next attempt.

    The lines are many, perhaps, so they are not looked at while the number of ready jobs changes.
    """
    if queue not in runtime.holding.limited or "limits" not in runtime.store.features:
        return 0
    before, runtime.holding.ready[queue] = runtime.holding.ready.get(queue), ready
    if before != ready:
        return 0
    lines = runtime.store.lines(queue, limit=_ALL_LINES)
    return sum(line.waiting for line in lines if line.state in {"dead", "retrying"})


def _may_claim(runtime: Runtime, pool: RunnerPool) -> bool:
    """Whether some job that is ready, or was a moment ago, is of a kind that is claimed here."""
    kinds = pool.listener.kinds
    if kinds is None:
        return True
    now = runtime.clock.time()
    # A runner may have claimed the job since the jobs were counted. Elsewhere the fetcher tells of that.
    statuses = _WAITING | {Status.RUNNING} if runtime.local else _WAITING
    waiting = Filter(queue=pool.queue, statuses=statuses)
    return any(
        job.kind in kinds and job.due <= now and job.held in {None, "line"}  # type: ignore[operator]
        for page in pages(runtime.store, waiting)
        for job in page
    )


def _is_busy(runtime: Runtime) -> bool:
    """Whether a job is on its way from or to a store that is a round trip away."""
    if runtime.fetcher is None or runtime.settler is None:
        return False
    return (
        runtime.fetcher.busy
        or bool(runtime.fetcher.held())
        or any(len(pool.idle) < len(pool.runners) for pool in list(runtime.pools.values()))
        or any(runner.together for runner in runtime.runners())
        or bool(runtime.settler.unsettled())
    )


def await_rest(runtime: Runtime, give_up: float) -> None:
    """Wait until the suspended threads have ended the jobs that they had."""
    with runtime.waiting():
        while not _rests(runtime):
            if machine.monotonic() > give_up:
                raise NeoqError("jobs of this backend still run in threads; drain it before")
            runtime.wait_for_change(0.01, runtime.changes)


def _rests(runtime: Runtime) -> bool:
    if not all(runner.parked for runner in runtime.runners()):
        return False
    if runtime.fetcher is not None:
        if runtime.fetcher.busy:
            return False
        runtime.fetcher.give_back()
    return runtime.settler is None or not runtime.settler.unsettled()
