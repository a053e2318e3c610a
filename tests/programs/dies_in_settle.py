"""Settles the first job of a queue, and is killed right before a command that it sends for that.

    python dies_in_settle.py URL PREFIX QUEUE BEFORE TO...

It is killed before the command of the number BEFORE, or at the end. A job follows in each queue of TO,
in the same group.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import RedisConnection
from neoq.store import Demand
from neoq.testing.cases.suite import prepared

url, prefix, queue, before, *following = sys.argv[1:]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


backend = RedisBackend(url, prefix=prefix, autostart=False)
backend.stats()  # it opens the store
[job] = backend.store.claim([Demand(queue, 1)]).jobs
numbers = itertools.count()
plain = RedisConnection.exchange_once


def exchange(connection: RedisConnection, commands: Any, near: Any) -> list[Any]:
    """As always, but a command at a time."""
    replies = []
    for command in commands:
        if str(next(numbers)) == before:
            die()
        replies += plain(connection, [command], near)
    return replies


RedisConnection.exchange_once = exchange  # type: ignore[method-assign]
follow = tuple(prepared(name, {"after": job.id}) for name in following)
for one in follow:
    one.group = job.group
backend.store.settle([Outcome(lease_of(job), Status.SUCCEEDED, finished_at=1.0, follow=follow)])
die()
