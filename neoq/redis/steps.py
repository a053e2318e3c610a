"""Steps that jobs record, and signals to them, in a Redis server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from neoq.errors import UnsupportedError
from neoq.held.step import MOST_SIGNALS, Step
from neoq.outcome import Lease
from neoq.redis.find import Finder
from neoq.redis.keys import number_of
from neoq.redis.mending import mending
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import lease_name, step_args
from neoq.redis.scripts import AT_ONCE

BYTES_AT_ONCE = 256 * 1024  # of steps in one script, or those of a single job
READ_AT_ONCE = 50  # steps that one command reads

Recorded = tuple[Lease, Sequence[Step]]


class Steps:
    """Records and reads the steps of jobs."""

    def __init__(
        self, queues: RedisQueues, worker: str, finder: Finder, tell_ready: Callable[[Iterable[str]], None]
    ) -> None:
        self._queues = queues
        self._worker = worker
        self._finder = finder
        self._tell_ready = tell_ready

    def record(self, records: Sequence[Recorded]) -> set[int]:
        """Record steps under their leases; return the ids of the stale ones."""
        by_queue: dict[str, list[Recorded]] = {}
        for one in records:
            by_queue.setdefault(one[0].queue, []).append(one)
        script, calls = self._queues.scripts.record, []
        for queue, of_queue in by_queue.items():
            for part in _parts_of(of_queue):
                arguments: list[Any] = []
                for lease, steps in part:
                    name = lease_name(lease.job_id, lease.token, self._worker)
                    arguments += (lease.job_id, name, len(steps), *step_args(steps))
                calls.append(self._queues.call_of(script, queue, arguments))
        replies = self._queues.redis.call_many(calls)
        return {int(one) for reply in replies for one in reply}

    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order."""
        queue = self._queue_of(job_id)
        if queue is None:
            return []
        key, redis = self._queues.keys(queue).key("steps"), self._queues.redis
        number, base = _counts_in(redis.command("HGET", key, job_id))
        steps: list[Step] = []
        for start in range(1, number + 1, READ_AT_ONCE):
            places = range(start, min(start + READ_AT_ONCE, number + 1))
            found = redis.command("HMGET", key, *(f"{job_id}/{place}" for place in places))
            names = [(place, name) for place, name in zip(places, found, strict=True) if name is not None]
            if names:
                values = redis.command("HMGET", key, *(b"%d:%b" % (job_id, name) for _, name in names))
                for (place, name), value in zip(names, values, strict=True):
                    if value is not None and (step := _step_of(name, value, old=place <= base)) is not None:
                        steps.append(step)
        return steps

    def _queue_of(self, job_id: int) -> str | None:
        """The queue in which a job is, by the number in its id; a queue may have had another number once."""
        if job_id <= 0:
            return None
        number = number_of(job_id)
        for _ in range(2):
            for queue, known in list(self._queues.numbers.items()):
                key = self._queues.keys(queue).key("jobs")
                if known == number and self._queues.redis.command("HEXISTS", key, job_id):
                    return queue
            self._queues.all()
        found = self._finder.of_ids([job_id])
        return found[0].queue if found else None

    def signal(self, to: int | tuple[str, str], step: Step) -> bool:
        """Record a signal; return whether it was taken."""
        queue = self._queue_of(to) if isinstance(to, int) else to[0]
        if queue is None:
            return False
        mark = os.urandom(6).hex()
        script = self._queues.scripts.signal
        name, value = step_args([step], mark)
        arguments = script.arguments(
            id=to if isinstance(to, int) else "",
            fingerprint="" if isinstance(to, int) else to[1],
            name=name,
            value=value,
            most=MOST_SIGNALS,
            mark=mark,
            **self._queues.waking(queue),
        )
        keys = self._queues.keys(queue).keys(script.keys)
        taken = int(self._queues.redis.call_and_wait(script, keys, arguments))
        if taken == 2:
            self._tell_ready([queue])
        return taken > 0


class SteppingStore:
    """The part of RedisStore for steps and signals."""

    _steps: Steps

    @mending
    def record(self, records: Sequence[Recorded], *, transaction: Any = None) -> set[int]:
        """Record steps, each only under its current lease."""
        if transaction is not None:
            raise no_transactions("job.step")
        return self._steps.record(records) if records else set()

    @mending
    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded, in that order, and the signals to it."""
        return self._steps.steps(job_id)

    @mending
    def signal(self, to: int | tuple[str, str], step: Step, *, transaction: Any = None) -> bool:
        """Record a signal for an unfinished job; return whether it was."""
        if transaction is not None:
            raise no_transactions("signal")
        return self._steps.signal(to, step)


def no_transactions(what: str) -> UnsupportedError:
    """What says that Redis has no transactions of its user's."""
    return UnsupportedError(
        f"{what} cannot join a transaction: Redis shares none with your database. Enqueue after the commit "
        "(jobs are unique by fingerprint, so a repeated enqueue adds none), or keep jobs in that database "
        "(postgresql://, sqlite:///)"
    )


def _parts_of(records: list[Recorded]) -> Iterator[list[Recorded]]:
    """Those of one queue, cut into parts of one script each."""
    start = size = 0
    for at, (_, steps) in enumerate(records):
        own = sum(len(step.data) for step in steps)
        size += own
        if at > start and (at - start == AT_ONCE or size > BYTES_AT_ONCE):
            yield records[start:at]
            start, size = at, own
    yield records[start:]


def _counts_in(head: bytes | None) -> tuple[int, int]:
    """How many steps a job has recorded, and how many of them before it was retried as a dead one."""
    parts = (head or b"").split(b":")
    if len(parts) != 4 or not all(part.isdigit() and len(part) < 8 for part in parts):
        return 0, 0
    return int(parts[0]), int(parts[3])


def _step_of(name: bytes, value: bytes, *, old: bool) -> Step | None:
    """A step as `step_args` and the scripts have written it; None where another hand did.

    An ``old`` one is from before its job was dead and retried: failures are counted anew since.
    """
    try:
        at, lasting, retries, crashes, _, data = value.split(b" ", 5)
        counts = (0, 0) if old else (int(retries), int(crashes))
        return Step(name.decode(), data, *counts, lasting == b"1", float(at))
    except ValueError:
        return None
