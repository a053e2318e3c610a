"""Jobs, queues and workers as the rows of tables, for the commands that look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from neoq.cli.output import ago, many, plain, span

if TYPE_CHECKING:
    from neoq.line import JobLine
    from neoq.store import QueueCounts, WorkerInfo

Table = tuple[Sequence[str], list[Sequence[object]]]
COUNTS = ("ready", "scheduled", "held", "retrying", "running", "succeeded", "dead", "cancelled")
RUNS_SHOWN = 3  # jobs of a worker
ABOUT = 60  # characters of a payload or an error in a row


def job_rows(jobs: Iterable[JobLine]) -> Table:
    """Jobs: each with what is most telling of its state."""
    now = datetime.now(UTC)
    jobs = list(jobs)
    kinds = any(job.kind for job in jobs)
    head = ("id", "queue", *(("kind",) if kinds else ()), "status", "attempt", "when", "about")
    return head, [
        (
            str(job.id),
            plain(job.queue, 30),
            *((plain(job.kind, 40),) if kinds else ()),
            str(job.status),
            _attempts(job),
            _when(job, now),
            plain(job.error or job.preview, ABOUT),
        )
        for job in jobs
    ]


def _attempts(job: JobLine) -> str:
    """Which attempt is the latest or the next, of how many if the job itself says it."""
    return f"{job.attempt}" if job.max_retries is None else f"{job.attempt}/{job.max_retries + 1}"


def _when(job: JobLine, now: datetime) -> str:
    if job.finished:
        return ago(job.finished_at, now)
    if job.status == "running":
        return f"since {span((now - job.ran_at).total_seconds())}" if job.ran_at else "-"
    assert job.run_after is not None
    return ago(job.run_after, now) if job.run_after > now else f"waits {ago(job.run_after, now)[:-4]}"


def queue_rows(queues: Iterable[QueueCounts], listeners: Mapping[str, int]) -> Table:
    """Queues: their counts, and how many workers listen."""
    return ("queue", *COUNTS, "workers", "state"), [
        (
            plain(queue.queue, 40),
            *(getattr(queue, name) for name in COUNTS),
            listeners.get(queue.queue, 0),
            _state(queue, listeners),
        )
        for queue in queues
    ]


def _state(queue: QueueCounts, listeners: Mapping[str, int]) -> str:
    if queue.paused:
        return "paused"
    return "nobody" if queue.unfinished and not listeners.get(queue.queue) else ""


def listeners_of(workers: Iterable[WorkerInfo]) -> dict[str, int]:
    """How many workers listen on each queue."""
    found: dict[str, int] = {}
    for worker in workers:
        for queue in worker.queues:
            found[queue] = found.get(queue, 0) + 1
    return found


def worker_rows(workers: Iterable[WorkerInfo]) -> Table:
    """Workers: where they are, and what they serve."""
    now = datetime.now(UTC)
    titles = ("worker", "host", "pid", "version", "started", "heard of", "memory", "running", "abandoned")
    return (*titles, "queues", "runs"), [
        (
            plain(worker.id, 12),
            plain(worker.host, 40),
            str(worker.pid),
            plain(worker.version),
            ago(worker.started_at, now),
            ago(worker.beat_at, now),
            "-" if worker.memory is None else f"{worker.memory / 2**20:,.0f}M",
            worker.running,
            worker.abandoned,
            plain(", ".join(map(partial(_served, worker), worker.queues)), 80),
            _runs(worker, now),
        )
        for worker in workers
    ]


def _runs(worker: WorkerInfo, now: datetime) -> str:
    """Which jobs a worker runs, or hangs in, since when: the first of them."""
    busy = [one for one in worker.threads if one.job_id is not None or one.abandoned]
    told = []
    for one in busy[:RUNS_SHOWN]:
        name = "a thread" if one.job_id is None else str(one.job_id)
        since = "" if one.since is None else f" {span(max(0.0, (now - one.since).total_seconds()))}"
        kind = "" if one.kind is None else f" {plain(one.kind, 30)}"
        told.append(f"{name}{kind}{since}{' (hangs)' if one.abandoned else ''}")
    more = len(busy) - len(told)
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _served(worker: WorkerInfo, queue: str) -> str:
    """A queue, and how many kinds of its jobs a worker runs if not any."""
    kinds = worker.kinds.get(queue)
    return queue if kinds is None else f"{queue} ({many(len(kinds), 'kind')})"


def notes_on(queues: Iterable[QueueCounts], listeners: Mapping[str, int]) -> list[str]:
    """What an operator should know about the queues."""
    notes = []
    for queue in queues:
        name = plain(queue.queue, 60)
        if queue.unfinished and not listeners.get(queue.queue):
            notes.append(f"nobody listens on {name}: {queue.unfinished:,} unfinished")
        for kind, number in queue.unknown.items():
            notes.append(f"no worker of {name} knows the kind {plain(kind, 80)}: {number:,} wait")
    return notes
