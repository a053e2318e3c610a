"""Jobs that no worker runs: those of dead workers, of expired leases, and those that are in no index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from neoq.clock import machine
from neoq.outcome import WORKER_DIED
from neoq.redis.alive import Workers
from neoq.redis.config import RedisConfig
from neoq.redis.find import Finder
from neoq.redis.groups import Groups
from neoq.redis.queues import RedisQueues
from neoq.redis.scripts import AT_ONCE
from neoq.store import Reclaimed

SWEEP_EVERY = 60.0  # seconds between looks for leases that ran out and that no dead worker accounts for
SWEPT_AT_ONCE = 1000  # leases of a queue
BEYOND_LEASES = 2 * 86400.0  # seconds from now by which every lease has ended: the longest is a day
RECONCILED_AT_ONCE = 50


class Reclaimer:
    """Makes jobs that no worker runs ready again."""

    def __init__(
        self,
        queues: RedisQueues,
        config: RedisConfig,
        workers: Workers,
        finder: Finder,
        groups: Groups,
        *,
        ready: Callable[[Iterable[str]], None],
    ) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._scripts = queues.scripts
        self._config = config
        self._workers = workers
        self._finder = finder
        self._groups = groups
        self._ready = ready
        self._swept = machine.monotonic()
        self.cursors: dict[str, Any] = {}

    def reclaim(self) -> Reclaimed:
        """Take the jobs of workers that have died, as `Workers.dead` judges."""
        reclaimed = Reclaimed([], [])
        for worker, queues in self._workers.dead():
            for queue in queues:
                leases = sorted(self._finder.leases(queue, f"*:{worker}"))
                self._take_back(queue, leases, reclaimed, expired=False)
            self._workers.forget(worker)
        if machine.monotonic() - self._swept > SWEEP_EVERY:
            self._swept = machine.monotonic()
            self._sweep(reclaimed)
        return reclaimed

    def _take_back(self, queue: str, leases: list[bytes], reclaimed: Reclaimed, *, expired: bool) -> None:
        script = self._scripts.reclaim
        header = script.arguments(
            max_crashes=self._config.max_crashes,
            problem="WorkerDied: %d workers died while they ran it (max_crashes)",
            expired=int(expired),
            why=WORKER_DIED,
            **self._queues.waking(queue),
        )
        for start in range(0, len(leases), AT_ONCE):
            arguments = [*header, *leases[start : start + AT_ONCE]]
            returned, dead, told, halted = self._queues.call(script, queue, arguments)
            reclaimed.returned.extend(self._finder.snapshots(queue, [int(stored) for stored in returned]))
            reclaimed.dead.extend(self._finder.snapshots(queue, [int(stored) for stored in dead]))
            self._groups.after(queue, told, halted)

    def _sweep(self, reclaimed: Reclaimed) -> None:
        """Look for leases that ran out, whichever worker has them, and for jobs that are in no index."""
        now = self._queues.ask_time()
        for queue in self._queues.all():
            key = self._queues.keys(queue).key("lease")
            self._bound_leases(key, now)
            expired = self._redis.command("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, SWEPT_AT_ONCE)
            if expired:
                self._take_back(queue, expired, reclaimed, expired=True)
            self.reconcile(queue)

    def _bound_leases(self, key: bytes, now: float) -> None:
        """Shorten leases that would last too long: another program or a wrong clock has set them.

        A live worker renews its own leases before they end.
        """
        beyond, end = now + BEYOND_LEASES, now + self._config.lease
        far = self._redis.command("ZRANGEBYSCORE", key, f"({beyond}", "+inf", "LIMIT", 0, SWEPT_AT_ONCE)
        if far:
            self._redis.command("ZADD", key, "XX", "LT", *(item for lease in far for item in (end, lease)))

    def reconcile(self, queue: str) -> bool:
        """Look for jobs in no index among some of a queue; return whether the queue has more."""
        arguments = [self.cursors.get(queue, 0), RECONCILED_AT_ONCE]
        self.cursors[queue], found = self._queues.call(self._scripts.reconcile, queue, arguments)
        for _ in range(2):  # a job claimed again while the leases were read may have been missed
            if found:
                leased = self._finder.leases_of(queue, [int(stored) for stored in found])
                found = [stored for stored in found if int(stored) not in leased]
        if found:
            found = self._queues.call(self._scripts.reconcile, queue, ["", *found])[1]
        if found:
            self._ready([queue])
        for stored in found:
            self._config.log.error(
                "job %s of %s was in no index and is made ready again; "
                "is another program writing to these keys?",
                *(int(stored), queue),
            )
        return int(self.cursors[queue]) != 0
