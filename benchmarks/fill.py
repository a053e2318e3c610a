"""Fill a store with very many jobs, as after days of work: straight into its tables, without running any.

``python benchmarks/fill.py URL [--finished 1000000] [--waiting 100000] [--dead 1000] [--queues 50]``

The jobs are spread over the queues ``queue-00`` and so on. The queue ``rare`` has nothing but three jobs that
have succeeded, three dead ones and three that wait, among all others; three more jobs are of the kind
``rare.kind``.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import redis

import neoq
from neoq.job import Job
from neoq.redis.keys import QueueKeys, ids_of
from neoq.redis.rows import record_of, score_of

SPAN = 3 * 86400.0  # seconds over which the jobs have ended
PIPELINE = 5000


class Filling(NamedTuple):
    """How many jobs of which fate."""

    finished: int = 1_000_000
    waiting: int = 100_000
    dead: int = 1_000
    queues: int = 50


MUCH = Filling()
_HISTORY = """
    insert into {s}.history (
        id, run_after, created_at, ran_at, finished_at, retries, priority, status, uniqueness, crashes, codec,
        queue, payload, kind, error, traceback
    )
    select nextval('{s}.job_ids'), at, at, at, at + 0.1, case status when 4 then 3 else 0 end, 0, status,
        0, 0, 1, queue, convert_to(format('{{"n":%s,"text":"%s"}}', n, repeat('x', 60)), 'UTF8'), kind,
        case status when 4 then 'ValueError: the server said ' || n % 7 end,
        case status when 4 then repeat('  File "app.py", line 7', 20) end
    from (
        select n, extract(epoch from now())::float8 - {span} * (1 - n::float8 / {number}) as at,
            case when n % {every_dead} = 0 then 4 else 3 end as status,
            case when n % {every_rare} in ({every_rare} - 1, 0) then 'rare'
                else 'queue-' || lpad((n % ({queues} - 1))::text, 2, '0') end as queue,
            case when n % {every_rare} = 7 then 'rare.kind' else 'app.task_' || n % 5 end as kind
        from generate_series(1, {number}) n
    ) ended
"""
_JOBS = """
    insert into {s}.jobs (
        id, run_after, created_at, priority, status, uniqueness, codec, queue, payload, kind
    )
    select nextval('{s}.job_ids'), at, at, n % 2, 0, 0, 1, queue,
        convert_to(format('{{"n":%s,"text":"%s"}}', n, repeat('x', 60)), 'UTF8'), 'app.task_' || n % 5
    from (
        select n, extract(epoch from now())::float8 - {number} * 0.001 + n * 0.001
            + case when n % 20 = 0 then 86400 else 0 end as at,
            case when n % {every_rare} = 0 then 'rare'
                else 'queue-' || lpad((n % ({queues} - 1))::text, 2, '0') end as queue
        from generate_series(1, {number}) n
    ) waiting
"""


def _every(number: int, wanted: int) -> int:
    return max(number // wanted, 10)


def fill_postgres(url: str, schema: str, filling: Filling) -> None:
    """Fill the tables of a schema."""
    ended = filling.finished + filling.dead
    with psycopg.connect(url, autocommit=True) as connection:
        # A multiple of the distance between dead jobs is one of that between rare ones, too.
        dead = _every(ended, filling.dead)
        rare = dead * max(filling.dead // 3, 1)
        names = {"s": schema, "queues": filling.queues, "span": SPAN}
        execute = connection.execute
        if ended:
            execute(_HISTORY.format(**names, number=ended, every_dead=dead, every_rare=rare))  # type: ignore[arg-type]
        if filling.waiting:
            rare = _every(filling.waiting, 3)
            execute(_JOBS.format(**names, number=filling.waiting, every_rare=rare))  # type: ignore[arg-type]
        execute(
            f"insert into {schema}.counters (queue, status, n)"  # type: ignore[arg-type]
            f" select queue, status, count(*) from {schema}.history group by 1, 2"
        )
        for table in ("history", "jobs", "counters"):
            execute(f"vacuum analyze {schema}.{table}")  # type: ignore[arg-type]


def _ended(filling: Filling, now: float) -> Iterator[tuple[int, bool, str, str, float]]:
    """Number, whether it is dead, queue, kind and time of each job that has ended."""
    number = filling.finished + filling.dead
    dead = _every(number, filling.dead) if filling.dead else number + 1
    rare = dead * max(filling.dead // 3, 1)
    for n in range(1, number + 1):
        queue = "rare" if n % rare in {rare - 1, 0} else f"queue-{n % (filling.queues - 1):02}"
        kind = "rare.kind" if n % rare == 7 else f"app.task_{n % 5}"
        yield n, n % dead == 0, queue, kind, now - SPAN * (1 - n / number)


def _waiting(filling: Filling, now: float) -> Iterator[tuple[int, str, str, float]]:
    """Number, queue, kind and due time of each job that waits."""
    rare = _every(filling.waiting, 3)
    for n in range(1, filling.waiting + 1):
        queue = "rare" if n % rare == 0 else f"queue-{n % (filling.queues - 1):02}"
        yield n, queue, f"app.task_{n % 5}", now - (filling.waiting - n) * 0.001 + (n % 20 == 0) * 86400


def _payload(n: int) -> bytes:
    return b'{"n":%d,"text":"%b"}' % (n, b"x" * 60)


def fill_sqlite(path: str, filling: Filling) -> None:
    """Fill a file; nobody else may use it meanwhile."""
    now = time.time()
    connection = sqlite3.connect(path)
    columns = (
        "state, status, queue, priority, run_after, created_at, uniqueness, kind, payload, ran_at,"
        " finished_at, retries, error, traceback"
    )
    insert = f"insert into neoq_jobs ({columns}) values ({','.join('?' * 14)})"
    connection.executemany(
        insert,
        (
            (4 if dead else 3, 4 if dead else 3, queue, 0, at, at, 0, kind, _payload(n), at, at + 0.1)
            + (
                (3, f"ValueError: the server said {n % 7}", "  File app.py, line 7" * 20)
                if dead
                else (0, None, None)
            )
            for n, dead, queue, kind, at in _ended(filling, now)
        ),
    )
    connection.executemany(
        insert,
        (
            (int(at > now), 0, queue, n % 2, at, now, 0, kind, _payload(n), None, None, 0, None, None)
            for n, queue, kind, at in _waiting(filling, now)
        ),
    )
    connection.execute("delete from neoq_counts")
    connection.execute("insert into neoq_counts select '', 0, max(id) from neoq_jobs")
    connection.execute(
        "insert into neoq_counts select queue, case state when 3 then 4 when 4 then 5 else state end,"
        " count(*) from neoq_jobs group by 1, 2"
    )
    connection.commit()
    connection.close()


def fill_redis(url: str, prefix: str, filling: Filling) -> None:
    """Fill the queues under a prefix; the server shall not have any."""
    client, now = redis.Redis.from_url(url), time.time()
    pipeline = client.pipeline(transaction=False)
    keys: dict[str, Callable[[str], bytes]] = {}
    newest: dict[str, int] = {}

    def put(queue: str, job: Job, at: float) -> tuple[int, Callable[[str], bytes]]:
        if queue not in keys:
            keys[queue] = QueueKeys(prefix, queue, "", cluster=False).key
            client.hset(f"{{{prefix}}}:queues", queue, str(len(newest)))
            newest[queue] = 0
        ids = ids_of(list(newest).index(queue))
        job_id = newest[queue] = max(ids.at(at), newest[queue] + ids.step)
        pipeline.hset(keys[queue]("jobs"), str(job_id), record_of(job)[0])
        pipeline.zadd(keys[queue]("ids"), {str(job_id): job_id})
        return job_id, keys[queue]

    for n, dead, queue, kind, at in _ended(filling, now):
        job_id, key = put(queue, _job(queue, n, kind, at, 0), at)
        life: Any = f'{{"s":{4 if dead else 3},"ran":"{at!r}","fin":"{at + 0.1!r}"'
        life += f',"n":3,"err":"ValueError: the server said {n % 7}"}}' if dead else "}"
        pipeline.hset(key("life"), str(job_id), life)
        pipeline.zadd(key("dead_jobs" if dead else "done_jobs"), {str(job_id): at + 0.1})
        if n % PIPELINE == 0:
            pipeline.execute()
    for n, queue, kind, at in _waiting(filling, now):
        job_id, key = put(queue, _job(queue, n, kind, at, n % 2), now)
        if at > now:
            pipeline.zadd(key("wait"), {f"{100 - n % 2:03}{job_id}": at})
        else:
            pipeline.zadd(key("ready"), {str(job_id): score_of(n % 2, at)})
        if n % PIPELINE == 0:
            pipeline.execute()
    for queue, job_id in newest.items():
        pipeline.set(keys[queue]("seq"), str(job_id))
    pipeline.set(f"{{{prefix}}}:numbers", str(len(newest)))
    pipeline.execute()
    client.close()


def _job(queue: str, n: int, kind: str, at: float, priority: int) -> Job:
    job = Job(queue, {"n": n, "text": "x" * 60}, priority=priority, unique=False)
    job.kind, job.created, job.due, job.special, job.body = kind, at, at, True, _payload(n)
    return job


def fill(url: str, filling: Filling = MUCH, *, schema: str = "neoq", prefix: str = "neoq") -> None:
    """Make the tables in a store, and fill them."""
    scheme = urlsplit(url).scheme
    options = (
        {"schema": schema}
        if scheme.startswith("postgres")
        else {"prefix": prefix}
        if scheme == "redis"
        else {}
    )
    with neoq.connect(url, autostart=False, **options) as backend:
        backend.queues()
    if scheme.startswith("postgres"):
        fill_postgres(url, schema, filling)
    elif scheme == "redis":
        fill_redis(url, prefix, filling)
    else:
        fill_sqlite(urlsplit(url).path, filling)


def main() -> None:
    """Fill the store that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    for name, number in Filling()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=number)
    given = vars(parser.parse_args())
    fill(given.pop("url"), Filling(**given))


if __name__ == "__main__":
    main()
