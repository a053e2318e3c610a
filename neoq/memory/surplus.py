"""Jobs in memory that have ended and are kept: the oldest of too many are forgotten."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from neoq.job import Job
from neoq.memory.queues import Records
from neoq.memory.state import QueueState
from neoq.record import Status
from neoq.store import warn_of_dropped

if TYPE_CHECKING:
    from neoq.config import Config

_SUCCEEDED = Status.SUCCEEDED


class Surplus:
    """What is kept of jobs that have ended; callers hold the lock of the table.

    A job that is ``forgotten`` may hold a group. That lets its members go, which are kept, and may be too
    many in their turn. They are looked at once the first ones are gone: a look within the look would forget
    the jobs that the first one has counted.
    """

    def __init__(
        self,
        config: Config,
        jobs: Records,
        uids: Mapping[str, int],
        queues: Mapping[str, QueueState],
        forget: Callable[[Job], object],
    ) -> None:
        self._config = config
        self._jobs, self._uids, self._queues, self._forget = jobs, uids, queues, forget
        self.finished: deque[Job] = deque()
        self.dead: OrderedDict[int, None] = OrderedDict()
        self._dropping = False

    def drop(self) -> None:
        """Forget the oldest of too many jobs."""
        most, most_dead = self._config.max_finished, self._config.max_dead
        while not self._dropping:
            finished = 0 if most is None else len(self.finished) - most
            dead = 0 if most_dead is None else len(self.dead) - most_dead
            if finished <= 0 and dead <= 0:
                return
            self._dropping = True
            try:
                self._drop_finished(finished)
                self._drop_dead(dead)
            finally:
                self._dropping = False

    def _drop_finished(self, surplus: int) -> None:
        queue, dropped = "", 0
        oldest, forget, uids = self.finished.popleft, self._jobs.pop, self._uids
        for _ in range(surplus):
            job = oldest()
            if job.status is not _SUCCEEDED or (
                job.special and (job.counted or (uids and job.uid is not None))
            ):
                self._forget(job)
                continue
            if job.queue != queue:  # mostly it is that of all
                self._count_dropped(queue, dropped)
                queue, dropped = job.queue, 0
            dropped += forget(job.id, None) is not None
        self._count_dropped(queue, dropped)

    def _count_dropped(self, queue: str, dropped: int) -> None:
        if dropped:
            self._queues[queue].succeeded -= dropped

    def _drop_dead(self, surplus: int) -> None:
        for _ in range(surplus):
            oldest: Any = self._jobs[next(iter(self.dead))]
            warn_of_dropped(self._config, oldest.id, oldest.queue)
            self._forget(oldest)
