"""neoq check: import an application, reach its store, and name what looks wrong; no job is run."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from neoq.cli import target
from neoq.cli.exits import Exit
from neoq.cli.output import many
from neoq.cli.parser import Parser, did_you_mean
from neoq.cli.streams import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neoq.backend import Backend

HELP = "import an application and reach its store, and run nothing"
EXAMPLE = "neoq check shop:backend"
GROUP = "Run jobs"
DESCRIPTION = """Import an application, reach its store, and print what a worker would run. Nothing is run.
Ends with 0, or with 1 if something looks wrong, 3 if it cannot be imported, 4 if its store is away."""


def add_arguments(parser: Parser) -> None:
    """An application."""
    target.add_app(parser)
    parser.add_argument("--json", action="store_true", help="print one object")


def run(args: argparse.Namespace) -> int:
    """Say what a worker would run, and what looks wrong."""
    with target.only_looking():
        return _check(target.app_of(args), as_json=args.json)


def _check(app: str, *, as_json: bool) -> int:
    began = time.perf_counter()
    backend = target.load(app)
    imported = time.perf_counter()
    backend.workers()
    reached = time.perf_counter()
    queues, problems = list(_queues_of(backend)), list(_problems_of(backend))
    if as_json:
        times = {"imported": round(imported - began, 3), "reached": round(reached - imported, 3)}
        show(
            json.dumps({"app": app, "store": repr(backend), **times, "queues": queues, "problems": problems})
        )
    else:
        show(f"{app}: imported in {imported - began:.2f} s")
        show(f"store: {backend!r}, reached in {reached - imported:.2f} s")
        for queue in queues:
            timeout = "no timeout" if queue["timeout"] is None else f"timeout {queue['timeout']:g} s"
            retries = many(queue["max_retries"], "retry", "retries")
            show(f"queue {queue['queue']}: {many(queue['concurrency'], 'thread')}, {timeout}, {retries}")
            if "cron" in queue:
                show(f"  cron {queue['cron']}, next {queue['next']}")
        for problem in problems:
            show(f"problem: {problem}")
    backend.shutdown()
    return Exit.FAILED if problems else Exit.OK


def _queues_of(backend: Backend) -> Iterator[dict[str, Any]]:
    crons = {cron.queue: cron.schedule for cron in backend.engine.crons}
    for queue, listener in backend.engine.listeners.items():
        told: dict[str, Any] = {
            "queue": queue,
            "concurrency": listener.concurrency,
            "timeout": listener.timeout,
            "max_retries": listener.max_retries,
        }
        if queue in crons:
            tick = crons[queue].next_after(datetime.now(UTC))
            told["cron"] = crons[queue].description
            told["next"] = None if tick is None else tick.isoformat(timespec="seconds")
        yield told


def _problems_of(backend: Backend) -> Iterator[str]:
    listeners = backend.engine.listeners
    if not listeners:
        yield "the application listens on no queue, so a worker has nothing to run"
    if "durable" not in backend.features:
        yield "jobs in memory are seen by one process only: a worker gets none that another one enqueues"
        return
    heard = {queue for worker in backend.workers() for queue in worker.queues}
    for counts in backend.queues():
        if counts.unfinished and counts.queue not in listeners and counts.queue not in heard:
            near = did_you_mean(counts.queue, listeners)
            waiting = f"{many(counts.unfinished)} wait{'s' if counts.unfinished == 1 else ''}"
            yield f"{waiting} in queue {counts.queue}, and nobody listens on it{near}"
        elif counts.paused:
            yield f"queue {counts.queue} is paused"
