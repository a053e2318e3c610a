"""The tables that SqliteBackend keeps in its file: numbered migrations, applied in order.

Their names begin with ``neoq_``, so that they can live beside an application's own. A job is where its
``place`` says: 0 ready, 1 waiting for its time, 2 running, 3 finished, 4 dead. Every index that a queue works
with is partial, so that a job is only in the one of its place. ``holds`` is a hash of the fingerprint
that a job keeps others from having, whatever its place and status; two jobs may have it by chance, so the
fingerprints themselves are compared before a job counts as a duplicate. It is that short because every job
puts an entry into its index at random and takes it out again: that is most of what a long backlog costs.
``neoq_counts`` has the number of jobs of each queue by kind, and under the queue '' the last id given.
"""

from __future__ import annotations

READY, WAITS, RUNS, ENDED, DIED = range(5)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        create table neoq_jobs (
            id integer primary key,
            queue text not null,
            place integer not null,
            status integer not null,
            priority integer not null,
            run_after real not null,
            created_at real not null,
            uniqueness integer not null,
            holds integer,
            token integer not null default 0,
            worker text,
            lease_until real,
            cancel integer not null default 0,
            crashes integer not null default 0,
            retries integer not null default 0,
            max_retries integer,
            deadline real,
            fingerprint text,
            kind text,
            key text,
            batch text,
            meta blob,
            codec integer not null,
            payload blob not null,
            ran_at real,
            finished_at real,
            error text,
            traceback text,
            result blob,
            progress real,
            progress_text text
        )
        """,
        "create index neoq_ready on neoq_jobs (queue, priority desc, run_after) where place = 0",
        "create index neoq_due on neoq_jobs (queue, run_after) where place = 1",
        "create index neoq_running on neoq_jobs (worker) where place = 2",
        "create index neoq_ended on neoq_jobs (finished_at) where place = 3",
        "create index neoq_died on neoq_jobs (finished_at) where place = 4",
        "create index neoq_cancelling on neoq_jobs (worker) where cancel = 1",
        "create index neoq_held on neoq_jobs (holds) where holds is not null",
        """
        create table neoq_counts (
            queue text, kind integer, n integer not null, primary key (queue, kind)
        ) without rowid
        """,
        "create table neoq_queues (queue text primary key, paused integer not null) without rowid",
        "create table neoq_ticks (cron text primary key, tick real not null) without rowid",
        """
        create table neoq_tokens (
            token blob primary key, ids text not null, at real not null
        ) without rowid
        """,
        """
        create table neoq_workers (
            id text primary key, host text not null, pid integer not null, started_at real not null,
            beat_at real not null, queues text not null, running integer not null
        ) without rowid
        """,
    ),
)
VERSION = len(MIGRATIONS)
