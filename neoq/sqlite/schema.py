"""The tables that SqliteBackend keeps in its file: numbered migrations, applied in order.

Their names begin with ``neoq_``, so that they can live beside an application's own. The ``state`` of a job
is 0 ready, 1 scheduled, 2 running, 3 finished, 4 dead, 5 new, 6 held, 7 in its line, and 8 and 9 finished
and dead, and kept for what holds it. Every index is partial: a job is only in the one of its state, and a new
job is in none. So an add changes nothing but the end of the table, and new jobs
are put into the indexes by the dozen, see session.py.

``hash`` is one of queue and fingerprint, and while ``holds`` is 1 the job keeps others from having that
fingerprint. Two jobs may have it by chance, so the fingerprints themselves are compared before a job counts
as a duplicate. It is short because every job puts an entry at a random place of its index and removes it
again: that is most of what a long backlog costs.

``neoq_counts`` has the number of jobs of each queue by kind. The row of the queue '' has the id up to which
jobs are in the indexes and counted; a job with a higher id is new. No job gets that id or a lower one again.

A held job has in ``held`` what it waits for: "batch", "children", or the name of a signal's step. Its
``run_after`` is then infinite, or when it is due all the same. ``round`` is that of the latest group that it
holds, ``batch`` says to which group it belongs; ``steps`` is 1 where steps were recorded, and ``turn`` is 1
for a job of a key that has its turn. They are all null in a plain job.
"""

from __future__ import annotations

import re
from collections.abc import Collection

READY, SCHEDULED, RUNNING, FINISHED, DEAD, NEW, HELD, LINE, KEPT, KEPT_DEAD = range(10)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        create table neoq_jobs (
            id integer primary key,
            hash integer,
            holds integer not null default 0,
            state integer not null,
            status integer not null default 0,
            queue text not null,
            priority integer not null default 0,
            run_after real not null,
            created_at real not null,
            uniqueness integer not null default 1,
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
            uid text,
            meta blob,
            codec integer not null default 1,
            payload blob not null,
            ran_at real,
            finished_at real,
            error text,
            traceback text,
            attempts blob,
            result blob,
            progress real,
            progress_text text
        )
        """,
        "create index neoq_ready on neoq_jobs (queue, priority desc, run_after) where state = 0",
        "create index neoq_due on neoq_jobs (queue, run_after) where state = 1",
        "create index neoq_running on neoq_jobs (worker) where state = 2",
        "create index neoq_finished on neoq_jobs (finished_at) where state = 3",
        "create index neoq_dead on neoq_jobs (finished_at) where state = 4",
        "create index neoq_cancelling on neoq_jobs (worker) where cancel = 1",
        "create index neoq_held on neoq_jobs (hash) where holds = 1",
        "create unique index neoq_uids on neoq_jobs (uid) where uid is not null",
        """
        create table neoq_counts (
            queue text, kind integer, n integer not null, primary key (queue, kind)
        ) without rowid
        """,
        "insert into neoq_counts values ('', 0, 0)",
        "create table neoq_queues (queue text primary key, paused integer not null) without rowid",
        "create table neoq_ticks (cron text primary key, tick real not null) without rowid",
        """
        create table neoq_schedules (
            name text primary key, described blob not null, listed_at real not null
        ) without rowid
        """,
        """
        create table neoq_tokens (
            token blob primary key, ids text not null, at real not null
        ) without rowid
        """,
        """
        create table neoq_workers (
            id text primary key, host text not null, pid integer not null, started_at real not null,
            beat_at real not null, queues text not null, running integer not null, kinds text, version text
        ) without rowid
        """,
    ),
    (  # Tables of their own: an older neoq that is still running writes whole rows of the others.
        "create table neoq_reports (worker text primary key, report blob not null) without rowid",
        """
        create table neoq_tick_jobs (
            cron text primary key, job integer, skipped integer not null default 0
        ) without rowid
        """,
        """
        create table neoq_audit (
            id integer primary key,
            at real not null,
            user text not null,
            via text not null,
            action text not null,
            count integer not null,
            queue text,
            what text not null
        )
        """,
    ),
    (  # what finds few jobs among millions; a plain job is in none of them before it ends
        "create index neoq_found on neoq_jobs (queue, coalesce(kind, ''), status, id) where state in (3, 4)",
        "create index neoq_keys on neoq_jobs (key, id) where key is not null",
        "create index neoq_retrying on neoq_jobs (queue, state, run_after) where status = 1",
    ),
    (
        """
        create table neoq_series (
            seconds integer, start integer, queue text, numbers text not null,
            primary key (seconds, start, queue)
        ) without rowid
        """,
    ),
    # Held jobs and their groups, steps, lines. A plain job is in none of these indexes. Each index whose
    # condition names ``state`` is opened whenever that changes, so one has all jobs that are set apart.
    (
        # A worker of an older neoq that runs on would count no ends: it claims and reclaims by these tables.
        "alter table neoq_queues rename to neoq_paused",
        "alter table neoq_workers rename to neoq_processes",
        "alter table neoq_jobs add column held text",
        "alter table neoq_jobs add column round integer",
        "alter table neoq_jobs add column steps integer",
        "alter table neoq_jobs add column turn integer",
        "create index neoq_timers on neoq_jobs (queue, run_after) where held is not null",
        "create index neoq_apart on neoq_jobs (state, queue, key, priority desc, run_after) where state > 6",
        "create index neoq_grouped on neoq_jobs (batch, id) where batch is not null",
        "create index neoq_turns on neoq_jobs (queue, key) where turn = 1",
        """
        create table neoq_groups (
            job integer,
            round integer,
            due real,
            producer integer not null default 0,
            successes integer not null default 0,
            stop_on_dead integer not null default 0,
            named integer not null default 0,
            members integer not null default 0,
            succeeded integer not null default 0,
            dead integer not null default 0,
            cancelled integer not null default 0,
            open integer not null default 0,
            stopped integer not null default 0,
            complete integer not null default 0,
            keeps integer not null default 1,
            todo integer not null default 0,
            tended text not null default '',
            tended_id integer not null default 0,
            primary key (job, round)
        ) without rowid
        """,
        "create index neoq_tending on neoq_groups (todo) where todo > 0",
        """
        create table neoq_named (
            holder integer, queue text, fingerprint text, job integer not null,
            primary key (holder, queue, fingerprint)
        ) without rowid
        """,
        """
        create table neoq_steps (
            id integer primary key, job integer not null, name text not null, at real not null,
            data blob not null, retries integer not null, crashes integer not null, lasting integer not null
        )
        """,
        "create unique index neoq_steps_of on neoq_steps (job, name)",
        """
        create table neoq_spent (
            queue text, fingerprint text, job integer not null, until real not null,
            primary key (queue, fingerprint)
        ) without rowid
        """,
        "create index neoq_spent_until on neoq_spent (until)",
        """
        create table neoq_rules (
            queue text primary key, timers integer not null default 0, listener text, operator text
        ) without rowid
        """,
        """
        create table neoq_rates (
            queue text, key text, next real not null, primary key (queue, key)
        ) without rowid
        """,
    ),
)
NAMES = (  # of what there is in a file, to be compared with what the migrations make
    "select name from sqlite_master where name like 'neoq%'"
    " union all select 'neoq_jobs.' || name from pragma_table_info('neoq_jobs')"
)
VERSION = len(MIGRATIONS)
IN_STATE = {  # conditions that an index answers: SQLite proves no other from one on the state alone
    **{state: f"state = {state}" for state in range(10)},
    HELD: f"held is not null and state = {HELD}",
    **{state: f"state > {HELD} and state = {state}" for state in (LINE, KEPT, KEPT_DEAD)},
}
_RENAMED = {"neoq_queues": "neoq_paused", "neoq_workers": "neoq_processes"}
_RENAMES = re.compile(r"alter table \w+ rename to (\w+)").match
_CREATES = re.compile(r"\s*create (?:unique )?(?:table|index|view) (\w+)").match
_ADDS = re.compile(r"alter table (\w+) add column (\w+)").match


def _made_by(statement: str) -> str | None:
    """The table, the index, or the column of a table ("table.column") that a statement makes."""
    if (made := _CREATES(statement)) is not None:
        return _RENAMED.get(made[1], made[1])
    if (made := _RENAMES(statement)) is not None:
        return made[1]
    return None if (added := _ADDS(statement)) is None else f"{added[1]}.{added[2]}"


def statements_for(version: int, there: Collection[str]) -> list[str]:
    """The statements that are missing after a version, where these tables, indexes and columns exist."""
    wanted = []
    for statement in (statement for statements in MIGRATIONS[version:] for statement in statements):
        made = _made_by(statement)
        if made is None:
            wanted.append(statement.replace("insert into", "insert or ignore into", 1))
        elif made not in there:
            wanted.append(statement)
    return wanted


def is_whole(there: Collection[str]) -> bool:
    """Whether every table, index and column exists."""
    return all(_made_by(statement) is None for statement in statements_for(0, there))
