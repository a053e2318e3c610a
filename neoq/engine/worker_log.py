"""What a worker logs: what it runs, that it was asked to stop, and what became of its jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from neoq.threads.lifecycle import green_threads
from neoq.version import __version__

if TYPE_CHECKING:
    from neoq.config import Config
    from neoq.engine.pool import RunnerPool
    from neoq.engine.report import ShutdownReport
    from neoq.engine.scheduler import Cron


def say_started(
    config: Config, pools: Mapping[str, RunnerPool], crons: Iterable[Cron], now: float, *, durable: bool
) -> None:
    """Say what this process runs from now on, and where."""
    changed = config.changed()
    place = (
        changed.get("path") or changed.get("url") or f"the store that {type(config).__name__} has by default"
    )
    config.log.info(
        "neoq %s runs jobs %s: queues %s; crons %s",
        __version__,
        f"of {place}" if durable else "in memory",
        ", ".join(f"{queue} ({pool.listener.concurrency} at once)" for queue, pool in pools.items()),
        ", ".join(f"{cron.name} ({_next(cron, now)})" for cron in crons) or "none",
    )


def warn_of_green_threads(config: Config) -> None:
    """Warn of a process in which no handler can be interrupted."""
    if (patched_by := green_threads()) is not None:
        config.log.warning(
            "handlers run in green threads, for %s has patched threading: no timeout, cancel or shutdown "
            "can interrupt them there; run the jobs in a process without it",
            patched_by,
        )


def _next(cron: Cron, now: float) -> str:
    try:
        tick = cron.schedule.next_after(datetime.fromtimestamp(now, UTC))
    except Exception as error:  # a schedule of the user's own; the scheduler reports it
        return f"its next time is unknown: {error}"
    return "never" if tick is None else f"next {tick.isoformat()}"


def say_stopping(config: Config, running: int, seconds: float) -> None:
    """Say how many jobs run, and for how long a shutdown waits at most."""
    jobs = "1 job that runs here has" if running == 1 else f"{running} jobs that run here have"
    config.log.info("asked to stop: %s up to %g s to end", jobs, seconds)


def say_stopped(config: Config, report: ShutdownReport) -> None:
    """Say what became of the jobs that ran."""
    config.log.info(
        "stopped; jobs that finished meanwhile: %d, interrupted: %d, given back: %d, lost: %d",
        len(report.finished),
        len(report.interrupted),
        len(report.given_back),
        len(report.lost),
    )
