"""What is done to the jobs of a group in one queue: nobody may add any, those that wait are cancelled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

from neoq.redis.find import Finder
from neoq.redis.queues import RedisQueues, pairs_of

KNOWN_AT_ONCE = 500  # fingerprints
_NAME = re.compile(rb"[0-9]+/[0-9]+/").match


class Sweeper:
    """Closes and empties groups in single queues."""

    def __init__(self, queues: RedisQueues, finder: Finder) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._finder = finder
        self._places: dict[tuple[str, str], bytes] = {}  # where sweeps have stopped

    def bar(self, queue: str, name: str, *, opened: bytes = b"", stop: bool = False) -> bytes:
        """Let a queue know which producer may add members, or that no member starts; return the totals."""
        script = self._queues.scripts.bar
        totals: bytes = self._queues.call(
            script, queue, script.arguments(name=name, opened=opened, stop=int(stop))
        )
        return totals

    def sweep(self, queue: str, name: str, pages: int | None) -> tuple[bytes, list[bytes], bool]:
        """Cancel the jobs of a stopped group, those of so many pages, going on where the last call stopped.

        Return its totals, the groups that are to stop with it, and whether all its jobs were looked at.
        """
        script, halted = self._queues.scripts.sweep, list[bytes]()
        after = self._places.pop((queue, name), b"")
        for number in count(1):
            after, totals, running, more = self._queues.call(
                script, queue, script.arguments(name=name, after=after)
            )
            halted += more
            if running:
                self.publish_cancel(queue, [int(one) for one in running])
            if not after:
                break
            if number == pages:
                self._places[queue, name] = after
                break
        return totals, halted, not after

    def publish_cancel(self, queue: str, stored: list[int]) -> None:
        """Tell the workers of running jobs about the cancel; their next `extend` tells them, too."""
        leases = self._finder.leases_of(queue, stored).values()
        workers = {lease.rpartition(b":")[2] for lease in leases}
        channel = self._queues.channel.encode()
        self._redis.commands([("PUBLISH", channel + name, "") for name in sorted(workers)])

    def forget(self, queue: str, names: Sequence[bytes]) -> None:
        """Forget groups that keep their jobs no more, and the fingerprints of their members."""
        key, cursor, gone = self._queues.keys(queue).key("known"), 0, set(names)
        while self._redis.command("EXISTS", key):
            cursor, page = self._redis.command("HSCAN", key, cursor, "COUNT", KNOWN_AT_ONCE)
            fields = [field for field, _ in pairs_of(page) if (name := _NAME(field)) and name[0] in gone]
            if fields:
                self._redis.command("HDEL", key, *fields)
            cursor = int(cursor)
            if not cursor:
                break
        self._queues.call(self._queues.scripts.forget_groups, queue, names)
