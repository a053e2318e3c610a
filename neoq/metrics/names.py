"""The metrics by name: what each counts, in which unit, and by which labels; docs/metrics.md lists them.

A label never has a host, a process, a job or an error: the number of series grows with the number of queues
only, and is at most 80 for one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from neoq import series

OUTCOMES = (*series.OUTCOMES, "stale")  # stale: the lease was lost, so that the outcome was dropped
RUNS = ("ok", "failed")
STATES = ("ready", "scheduled", "held", "retrying", "running", "succeeded", "dead", "cancelled")
THREADS = ("busy", "idle", "abandoned")
OPERATIONS = ("add", "claim", "settle", "extend", "reclaim", "beat", "counts", "find", "change")
REASONS = ("stopped", "replaced", "failed", "signal", "killed", "refused")


MOST_KINDS = 200  # that have series of their own
OTHER = "other"  # kinds beyond


class Metric(NamedTuple):
    """A metric: its name and type, its labels, and what it is."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


ENQUEUED = "neoq_jobs_enqueued_total"
FINISHED = "neoq_jobs_finished_total"
RUN = "neoq_job_run_seconds"
WAIT = "neoq_job_wait_seconds"
KIND_RUN = "neoq_kind_run_seconds"
LEASES_LOST = "neoq_leases_lost_total"
RECLAIMED = "neoq_reclaimed_total"
CHILD_EXITS = "neoq_child_exits_total"
STORE_SECONDS = "neoq_store_seconds"
JOBS = "neoq_jobs"
OLDEST = "neoq_queue_oldest_seconds"
PAUSED = "neoq_queue_paused"
RUNNING_OLDEST = "neoq_running_oldest_seconds"
WORKERS = "neoq_workers"
THREADS_NOW = "neoq_threads"
STORE_UP = "neoq_store_up"

METRICS = (
    Metric(ENQUEUED, "counter", ("queue",), "Jobs that this process has enqueued."),
    Metric(FINISHED, "counter", ("queue", "outcome"), "Attempts that have ended, by what came of them."),
    Metric(RUN, "histogram", ("queue", "outcome"), "How long attempts ran."),
    Metric(WAIT, "histogram", ("queue",), "How long jobs waited from the time they were due."),
    Metric(KIND_RUN, "histogram", ("queue", "kind", "outcome"), "How long handlers ran, by kind of job."),
    Metric(LEASES_LOST, "counter", (), "Jobs whose lease was lost while this process had them."),
    Metric(RECLAIMED, "counter", (), "Jobs that this process took from workers that had died."),
    Metric(CHILD_EXITS, "counter", ("reason",), "Processes of the worker that have ended."),
    Metric(STORE_SECONDS, "histogram", ("operation",), "How long calls of the store took."),
    Metric(JOBS, "gauge", ("queue", "state"), "Jobs in the store, by where they are in their life."),
    Metric(OLDEST, "gauge", ("queue",), "How long the oldest ready job has been due."),
    Metric(PAUSED, "gauge", ("queue",), "1 where the queue is paused."),
    Metric(RUNNING_OLDEST, "gauge", ("queue",), "How long the longest running job has run."),
    Metric(WORKERS, "gauge", (), "Processes that run jobs of this store."),
    Metric(THREADS_NOW, "gauge", ("queue", "state"), "Threads of all workers, by what they do."),
    Metric(STORE_UP, "gauge", (), "1 where the store has answered in time."),
)


class KnownKinds:
    """The kinds that have series of their own: the first that come, so that their number is bounded."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def name_of(self, kind: str) -> str:
        """The label of a kind."""
        if kind not in self._known:
            if len(self._known) >= MOST_KINDS:
                return OTHER
            self._known.add(kind)
        return kind
