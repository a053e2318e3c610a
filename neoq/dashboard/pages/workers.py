"""The page of workers: the processes that run jobs, and what each of their threads does since when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from neoq.dashboard.board import Board
from neoq.dashboard.request import Request
from neoq.dashboard.response import Page
from neoq.store import ThreadInfo, WorkerInfo

MOST_THREADS = 200  # that are listed
QUEUES_NAMED = 8  # of a worker


def page(request: Request, board: Board) -> Page:
    """The workers that serve a queue that the request may look at."""
    workers = board.workers()
    rows = [row for worker in workers.value if (row := _row(request, worker)) is not None]
    rows.sort(key=lambda row: (not row["worker"].abandoned, row["worker"].host, row["worker"].pid))
    busy = [
        {"thread": thread, "worker": row["worker"]}
        for row in rows
        for thread in row["threads"]
        if thread.job_id is not None or thread.abandoned
    ]
    busy.sort(key=lambda one: _urgency(one["thread"]))
    data = {
        "rows": rows,
        "busy": busy[:MOST_THREADS],
        "more": max(0, len(busy) - MOST_THREADS),
        "running": sum(row["worker"].running for row in rows),
        "versions": len({row["worker"].version for row in rows}),
        "durable": "durable" in board.backend.features,
    }
    return Page("workers.html", data, seen=[workers])


def _row(request: Request, worker: WorkerInfo) -> dict[str, Any] | None:
    """What is shown of a worker; None for one that serves other queues only."""
    may_read = request.granted.may_read
    queues = [queue for queue in worker.queues if may_read(queue)]
    if worker.queues and not queues:
        return None
    threads = [thread for thread in worker.threads if may_read(thread.queue)]
    return {
        "worker": worker,
        "queues": queues[:QUEUES_NAMED],
        "more": queues[QUEUES_NAMED:],
        "threads": threads,
        "idle": sum(thread.job_id is None and not thread.abandoned for thread in threads),
    }


def _urgency(thread: ThreadInfo) -> tuple[bool, datetime]:
    """Abandoned threads first, then those that have run longest."""
    return not thread.abandoned, thread.since or datetime.max.replace(tzinfo=UTC)
