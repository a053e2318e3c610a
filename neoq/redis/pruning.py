"""Deleting finished jobs from a Redis server, by age and by number, in short steps."""

from __future__ import annotations

from typing import Any

from neoq.redis.keys import id_in
from neoq.redis.queues import RedisQueues

DROPPED_AT_ONCE = 50
TIDIED_IN_ALL = 1000  # batches of a queue in one call
RELEASED_AT_ONCE, RELEASED_IN_ALL = 50, 1000  # fingerprints of a queue in one script, in one call


class Pruner:
    """Deletes finished jobs."""

    def __init__(self, queues: RedisQueues) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._names = queues.all()

    def drop_old(self, seconds: float) -> int:
        """Delete the jobs that finished more than these seconds ago; return how many."""
        dropped = 0
        for queue in self._names:
            for what in ("done", "cancelled"):
                looked = DROPPED_AT_ONCE
                while looked == DROPPED_AT_ONCE:
                    gone, looked = self._drop(queue, what, repr(seconds), DROPPED_AT_ONCE)
                    dropped += len(gone)
        return dropped

    def drop_excess(self, places: tuple[str, ...], limit: int, *, kept: int) -> list[tuple[int, str]]:
        """Delete the oldest jobs of all queues until the limit is kept; return ids and queues.

        Groups keep so many jobs beside those, in any case.
        """
        heads = [(queue, place) for queue in self._names for place in places]
        keys = [self._queues.keys(queue).key(place) for queue, place in heads]
        if not keys:
            return []
        excess = sum(self._redis.commands([("ZCARD", key) for key in keys])) - limit - kept
        dropped: list[tuple[int, str]] = []
        while excess > 0:
            firsts = self._redis.commands([("ZRANGE", key, 0, 0, "WITHSCORES") for key in keys])
            oldest = sorted((_score_of(first), at) for at, first in enumerate(firsts) if first)
            if not oldest:
                break
            queue, place = heads[oldest[0][1]]
            number = min(excess, DROPPED_AT_ONCE) if len(oldest) == 1 else 1
            gone, _ = self._drop(queue, place, "", number)
            dropped += [(id_in(one) or 0, queue) for one in gone]
            excess -= number
        return dropped

    def _drop(self, queue: str, what: str, seconds: str, number: int) -> tuple[list[bytes], int]:
        """Ids of deleted jobs, and how many were looked at: those of groups that keep them are put off."""
        again = bool(seconds)  # a repeated call without seconds would delete twice as many
        script = self._queues.scripts.drop
        arguments = script.arguments(ends=what, seconds=seconds, most=number)
        gone, looked = self._queues.call(script, queue, arguments, again=again)
        return gone, int(looked)

    def tidy(self, cursors: dict[str, Any]) -> None:
        """Forget batches of which no job is left; a cursor for each queue keeps the place."""
        script = self._queues.scripts.tidy
        for queue in self._names:
            key, cursor = self._queues.keys(queue).key("ids"), cursors.get(f"tidy {queue}", b"-inf")
            page = self._redis.command("ZRANGEBYSCORE", key, cursor, "+inf", "LIMIT", 0, TIDIED_IN_ALL)
            batches = [member for member in page if b":" in member]
            for start in range(0, len(batches), 100):
                chunk = batches[start : start + 100]
                self._redis.call_many([self._queues.call_of(script, queue, [member]) for member in chunk])
            full = len(page) == TIDIED_IN_ALL
            last = id_in(page[-1].partition(b":")[0]) if full else None
            cursors[f"tidy {queue}"] = b"-inf" if last is None else b"(%d" % last

    def release(self, cursors: dict[str, Any]) -> None:
        """Forget fingerprints that no unfinished job holds, and uids that no job has.

        It goes on where the last call stopped.
        """
        for script in (self._queues.scripts.release, self._queues.scripts.forget_uids):
            for queue in self._names:
                cursor: Any = cursors.get(f"{script.name} {queue}", 0)
                for _ in range(0, RELEASED_IN_ALL, RELEASED_AT_ONCE):
                    arguments = script.arguments(cursor=cursor, most=RELEASED_AT_ONCE)
                    cursor = int(self._queues.call(script, queue, arguments)[0])
                    if not cursor:
                        break
                cursors[f"{script.name} {queue}"] = cursor


def _score_of(first: Any) -> float:
    """The score in a reply of one member: a pair in a list, or two items of it."""
    return float(first[0][1] if isinstance(first[0], (tuple, list)) else first[1])
