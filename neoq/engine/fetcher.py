"""The fetcher: one thread that claims jobs for all queues of a store which is a round trip away.

It claims what the runners can take now, and ahead of them as much as they finish in a few milliseconds:
nothing where jobs are long. It sleeps until it is called, the next job is due, or the poll interval ends.
Where it sleeps, and a thread of the store hears that there is work, that one claims in its place.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.engine.settler import Settler
from neoq.errors import BackendError, NeoqError
from neoq.job import Job
from neoq.outcome import Outcome, given_back
from neoq.store import Claimed, Demand, Store
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config
    from neoq.engine.pool import RunnerPool

SAME_CLOCK = 1.0  # seconds that this machine's clock may differ from the store's and count as equal
MAX_PREFETCH = 500  # jobs of a queue claimed ahead, at most
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0  # seconds between attempts to reach the store
SHORT = 0.005  # seconds between looks whether a claim has ended, while a shutdown waits for it


class Fetcher:
    """A `JobSource` whose jobs were fetched by a thread of its own."""

    def __init__(
        self,
        store: Store,
        settler: Settler,
        config: Config,
        clock: Clock,
        *,
        pools: Callable[[], Iterable[RunnerPool]],
        parked: Callable[[], None],
        claimed: Callable[[list[Job]], None],
        nothing_ahead: Container[str],
    ) -> None:
        self._store = store
        self._settler = settler
        self._clock = clock
        self._lanes = pools
        self._parked = parked
        self._claimed = claimed
        self._nothing_ahead = nothing_ahead
        self._interval = config.job_check_interval
        self._max_running = config.max_running
        self._turn = 0  # of the pools, where max_running makes them take turns
        self._lease = config.lease
        self._logger = config.log
        self._buffers: dict[str, deque[Job]] = {}
        self._prefetch: dict[str, int] = {}
        self._loop = Loop(
            "neoq-fetcher", self._look, config.log, away=self._say_away, pauses=(FIRST_PAUSE, LAST_PAUSE)
        )
        self._claiming = threading.Lock()  # held by the thread that claims
        self._looks_at = math.inf  # monotonic: when the fetcher looks again by itself
        self._over = False  # nobody takes what is fetched now
        self._fenced = False
        self.busy = False  # a claim is under way
        self.skew = 0.0  # seconds that the store's clock is ahead of ours; 0 for a small difference
        self.claims = 0
        self._lock = threading.Lock()

    def take(self, queue: str, limit: int) -> tuple[Sequence[Job], bool]:
        """Jobs that were fetched for a queue."""
        buffer = self._buffers.get(queue)
        jobs: list[Job] = []
        if buffer:
            try:
                while len(jobs) < limit:
                    jobs.append(buffer.popleft())
            except IndexError:
                pass
        ahead = self._prefetch.get(queue, 0)  # 0: there was no more, so who parks is soon enough to ask again
        if ahead and len(buffer or ()) * 2 < ahead:
            self._loop.wake()
        return jobs, bool(buffer)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Leave outcomes to the settler."""
        self._settler.put(outcomes)

    def note_idle(self, queue: str) -> None:  # noqa: ARG002
        """A runner of this queue is free."""
        self._loop.wake()
        self._parked()

    def call(self) -> None:
        """Look for jobs now; called for each enqueue, so it is cheap where others have called."""
        self._loop.wake()

    def takes(self, pool: RunnerPool) -> bool:
        """Whether jobs of a queue are claimed here at the next look."""
        if self._max_running is not None and self._left(self._max_running) <= 0:
            return False
        return not (self._loop.closing or self._fenced) and self._demand(pool) is not None

    def fetch(self) -> None:
        """Look for jobs now, in this thread: it is the store's, which hears of work before any other does."""
        if self._loop.closing or not self._claiming.acquire(blocking=False):
            self.call()
            return
        try:
            wait = 0.0 if self._loop.closing else self._fetch()
        except Exception:
            wait = 0.0  # the fetcher is to say so, and to try again in a while
        finally:
            self._claiming.release()
        if machine.monotonic() + wait < self._looks_at:
            self.call()

    def fence(self, fenced: bool) -> None:
        """Claim nothing while this process cannot renew what it has."""
        self._fenced = fenced
        self._loop.wake()

    def held(self) -> list[Job]:
        """Jobs that were fetched and not taken."""
        return [job for buffer in list(self._buffers.values()) for job in list(buffer)]

    def start(self) -> None:
        """Start the thread, once."""
        self._loop.start()

    def stop(self, timeout: float, grace: float) -> list[Job]:
        """Claim no more; return the jobs that were fetched and not taken.

        A claim that is under way has ``timeout`` seconds, and is broken off then, in up to ``grace`` more.
        """
        self._loop.close()
        if not self._ends(timeout):
            self._store.stop_claiming(grace / 2)
            self._ends(grace / 2)
        with self._lock:
            self._over = True
            return self._empty_buffers()

    def give_back(self) -> None:
        """Give back what was fetched and not taken."""
        with self._lock:
            left = self._empty_buffers()
        if left:
            self._settler.put([given_back(job) for job in left])

    def _empty_buffers(self) -> list[Job]:
        left: list[Job] = []
        for buffer in self._buffers.values():
            try:
                while True:
                    left.append(buffer.popleft())
            except IndexError:
                continue
        return left

    def _ends(self, seconds: float) -> bool:
        """Wait until nobody claims; False where that takes longer."""
        give_up = machine.monotonic() + seconds
        self._loop.join(seconds)
        while self._claiming.locked():  # not acquired here, where a signal handler may raise at any time
            if machine.monotonic() >= give_up:
                return False
            time.sleep(SHORT)
        return not self._loop.is_alive()

    def _look(self) -> float:
        self._looks_at = math.inf
        with self._claiming:
            wait = self._fetch()
            self._looks_at = machine.monotonic() + wait
        return wait

    def _say_away(self, error: BackendError, pause: float) -> None:
        self._logger.warning("no jobs can be fetched, again in %.1f s: %s", pause, error)

    def _fetch(self) -> float:
        """Claim once for all queues; return the seconds until it is worth trying again."""
        self.busy = True  # before the look at the pools: who holds them meanwhile waits for this claim
        try:
            if self._max_running is not None:
                return self._fetch_in_turn(self._max_running)
            demands = (
                [] if self._fenced else [demand for pool in self._lanes() if (demand := self._demand(pool))]
            )
            return self._claim(demands) if demands else self._interval
        finally:
            self.busy = False
            self._parked()

    def _fetch_in_turn(self, most: int) -> float:
        """Claim for one queue after another while fewer than ``most`` jobs run."""
        pools, wait = list(self._lanes()), self._interval
        self._turn += 1
        for place in range(len(pools)):
            pool = pools[(self._turn + place) % len(pools)]
            left, demand = self._left(most), None if self._fenced else self._demand(pool)
            if demand is not None and left > 0:
                share = max(1, left // (len(pools) - place))
                wait = min(wait, self._claim([demand._replace(limit=min(demand.limit, share))]))
        return wait

    def _left(self, most: int) -> int:
        """How many more jobs may run: runners that are not parked count, and jobs that wait for one."""
        pools = list(self._lanes())
        at_work = sum(len(pool.runners) - len(pool.idle) + pool.handed_over() for pool in pools)
        return most - at_work - len(self.held())

    def _claim(self, demands: list[Demand]) -> float:
        self.claims += 1
        began, by_wall = machine.monotonic(), self._clock.time()
        claimed = self._store.claim(demands)
        self._compare_clocks(claimed, by_wall)
        if claimed.jobs:
            self._claimed(claimed.jobs)
        if self._fenced or machine.monotonic() - began >= self._lease:
            # The reply came late: who knows whose these jobs are by now.
            self._settler.put([given_back(job) for job in claimed.jobs])
            return 0.0
        return self._distribute(demands, claimed)

    def _compare_clocks(self, claimed: Claimed, began: float) -> None:
        """Let the store's clock judge deadlines, where it differs from ours by more than the claim took."""
        if not claimed.jobs:
            return
        now = claimed.now.timestamp()
        same = began - SAME_CLOCK <= now <= self._clock.time() + SAME_CLOCK
        self.skew = 0.0 if same else now - began
        if not same:
            for job in claimed.jobs:
                if job.expires is not None:
                    job.clock_skew = self.skew

    def _distribute(self, demands: list[Demand], claimed: Claimed) -> float:
        got: dict[str, int] = {}
        with self._lock:
            over = self._over
            for job in () if over else claimed.jobs:
                self._buffers.setdefault(job.queue, deque()).append(job)
                got[job.queue] = got.get(job.queue, 0) + 1
        if over:
            self._give_back_late(claimed.jobs)
            return 0.0
        for pool in self._lanes():
            if pool.queue in got:
                pool.wake()
        for demand in demands:
            self._adapt(demand, got.get(demand.queue, 0))
        if any(got.get(demand.queue, 0) >= demand.limit for demand in demands):
            return 0.0
        if claimed.next_due is None:
            return self._interval
        return min(self._interval, max(0.0, (claimed.next_due - claimed.now).total_seconds()))

    def _give_back_late(self, jobs: list[Job]) -> None:
        """Give back what came when the shutdown had long stopped waiting for it."""
        try:
            self._store.settle([given_back(job) for job in jobs])
        except NeoqError as error:
            self._logger.warning("%d jobs were claimed and could not be given back: %s", len(jobs), error)

    def _demand(self, pool: RunnerPool) -> Demand | None:
        buffered = len(self._buffers.get(pool.queue, ()))
        free = len(pool.idle) + pool.spare
        ahead = min(self._prefetch.get(pool.queue, 0), pool.fits_ahead())
        if pool.queue in self._nothing_ahead:  # a job that is claimed counts as running, and as a start
            ahead = 0
        limit = free + ahead - buffered
        return (
            Demand(pool.queue, limit, pool.listener.kinds)
            if limit > 0 and not (pool.at_abandoned_limit or pool.suspended)
            else None
        )

    def _adapt(self, demand: Demand, got: int) -> None:
        """Fetch further ahead while claims come back full, and nothing ahead once one does not."""
        full = got >= demand.limit
        self._prefetch[demand.queue] = (
            min(MAX_PREFETCH, 2 * self._prefetch.get(demand.queue, 0) + 8) if full else 0
        )
