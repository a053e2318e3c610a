"""What `neoq stats` and `neoq jobs` take on a store of a million finished jobs, Python's start included."""

from __future__ import annotations

import compileall
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from contest import Bar, Contest, Measures
from on_servers import URL

ROOT = Path(__file__).parent.parent
PYTHON = "Python alone ms"
COMMANDS = {
    "stats ms": ["stats"],
    "jobs ms": ["jobs"],
    "dead ms": ["jobs", "--queue", "q7", "--status", "dead"],
}
QUEUES, DEAD_EACH = 50, 1000  # one of so many is dead

SQLITE = """
    insert into neoq_jobs (id, state, status, queue, run_after, created_at, finished_at, payload)
    with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {count})
    select n, 3 + (n % {dead} = 0), 3 + (n % {dead} = 0), 'q' || (n % {queues}), {now}, {now}, {now},
        cast('{{"n":' || n || ',"to":"ada@example.com"}}' as blob)
    from numbers;
    insert into neoq_counts select queue, status + 1, count(*) from neoq_jobs group by 1, 2;
    update neoq_counts set n = {count} where queue = '' and kind = 0;
"""
POSTGRES = """
    insert into neoq.history (id, run_after, created_at, finished_at, retries, priority, status, uniqueness,
        crashes, codec, queue, payload)
    select n, {now}, {now}, {now}, 0, 0, case when n % {dead} = 0 then 4 else 3 end, 1, 0, 1,
        'q' || (n % {queues}), convert_to('{{"n":' || n || ',"to":"ada@example.com"}}', 'UTF8')
    from generate_series(1, {count}) n;
    insert into neoq.counters (queue, status, n)
    select queue, status, count(*) from neoq.history group by 1, 2;
    select setval('neoq.job_ids', {count} + 1);
    analyze neoq.history;
"""


def measure(name: str, quick: bool) -> Measures:
    """The median of each command, on a store that was filled by SQL."""
    compileall.compile_dir(ROOT / "neoq", quiet=2)
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/jobs.db" if name == "SQLite" else os.environ[URL]
        run(url, ["-m", "neoq", "migrate"])
        how = {
            "count": 10_000 if quick else 1_000_000,
            "dead": DEAD_EACH,
            "queues": QUEUES,
            "now": time.time(),
        }
        if name == "SQLite":
            with sqlite3.connect(f"{directory}/jobs.db") as connection:
                connection.executescript(SQLITE.format(**how))
            connection.close()
        else:
            import psycopg

            with psycopg.connect(url, autocommit=True) as server:
                server.execute(POSTGRES.format(**how).encode())
        times = 2 if quick else 6
        found = {what: took(url, ["-m", "neoq", *words], times) for what, words in COMMANDS.items()}
        return {PYTHON: took(url, ["-c", "pass"], times), **found}


def took(url: str, words: Sequence[str], times: int) -> float:
    """Milliseconds of an interpreter, the first one left out."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run(url, words)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]) * 1e3


def run(url: str, words: Sequence[str]) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NEOQ_URL": url}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environ)


CONTESTS = {
    "command": Contest(
        "The command on a million finished jobs",
        ("SQLite", "Postgres"),
        measure,
        tuple(
            Bar(f"neoq on a million jobs, {store}: {what} < 400", what, at_most=400.0, contender=store)
            for store in ("SQLite", "Postgres")
            for what in COMMANDS
        ),
        server="postgres",
        among={"SQLite": None, "Postgres": None},
        long=True,
    ),
}
