"""How attempts end and leases last: outcomes are recorded, and leases renewed, in batches of one queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any

from neoq.errors import BackendError, BackendUnavailable
from neoq.outcome import Lease, Outcome
from neoq.record import Status
from neoq.redis.config import RedisConfig
from neoq.redis.connection import Call
from neoq.redis.errors import has_broken, is_full
from neoq.redis.groups import Groups
from neoq.redis.leases import NOT_OURS, Leased
from neoq.redis.outbox import Outbox, Pack, packs_of
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import (
    change_of,
    group_names_of,
    has_held,
    held_by,
    lease_name,
    progress_of,
    step_args,
    success_of,
)
from neoq.redis.scripts import AT_ONCE
from neoq.store import Extended

BYTES_AT_ONCE = 256 * 1024  # of results in one script, or a single one
Batch = tuple[str, "Way", list[Outcome]]  # of one queue
Packs = dict[int, list[Pack]]  # of jobs that follow, by the id of the job


class Way(StrEnum):
    """By which script an outcome is recorded."""

    FINISH = "finish"  # successes that concern nothing but their jobs
    COUNTED = "finish_counted"  # and their groups and lines
    SETTLE = "settle"


class Outcomes:
    """Records outcomes under this worker's leases."""

    def __init__(
        self,
        queues: RedisQueues,
        config: RedisConfig,
        worker: str,
        *,
        leased: Leased,
        outbox: Outbox,
        groups: Groups,
        tell_ready: Callable[[Iterable[str]], None],
    ) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._scripts = queues.scripts
        self._config = config
        self._worker = worker
        self._leased = leased
        self._outbox = outbox
        self._groups = groups
        self._tell_ready = tell_ready
        self._unsure: set[tuple[int, int]] = set()  # leases that may be settled already: the reply was lost

    def record(self, outcomes: Sequence[Outcome]) -> set[int]:
        """Record outcomes in one round trip, and add the jobs that follow; return the stale ones."""
        stale: set[int] = set()
        batches: dict[tuple[str, Way], list[Outcome]] = {}
        packs: Packs = {}
        for outcome in outcomes:
            lease = outcome.lease
            if lease.token <= 0:
                stale.add(lease.job_id)
                continue
            plain = outcome.status is Status.SUCCEEDED and not (lease.counted or outcome.follow)
            way = Way.FINISH if plain else self._way_of(outcome)
            if outcome.follow:
                packs[lease.job_id] = packs_of(outcome.follow, self._queues.time())
            batches.setdefault((lease.queue, way), []).append(outcome)
        parts = [(*kind, part) for kind, batch in batches.items() for part in _batches_of(batch)]
        changed: set[str] = set()
        told: dict[str, dict[bytes, bytes]] = {}
        for (queue, way, batch), reply in zip(parts, self._send_all(parts, packs), strict=True):
            stale |= set(map(int, reply if way is Way.FINISH else reply[0]))
            self._leased.forget(queue, batch)
            if way is Way.COUNTED:
                told.setdefault(queue, {}).update(zip(reply[1][::2], reply[1][1::2], strict=True))
                changed.update([queue] if reply[2] else ())
            if way is Way.SETTLE:
                changed.add(queue)
                self._follow(queue, batch, packs, stale.union(map(int, reply[1])))
                if reply[2] or reply[3]:
                    self._groups.after(queue, reply[2], reply[3])
        for queue, totals in told.items():
            self._tell(queue, totals)
        if self._unsure:
            self._unsure.difference_update(_leases_in(parts))
        self._tell_ready(changed)
        return stale

    def _tell(self, queue: str, totals: dict[bytes, bytes]) -> None:
        """Tell home of ends, where they may be the last: no other job of the group is running here.

        The end of that one is told with all others of the queue. Heartbeats tell what takes longer.
        """
        last = [pair for pair in totals.items() if not self._leased.has_member(queue, pair[0])]
        self._groups.after(queue, [text for pair in last for text in pair], ())

    def _way_of(self, outcome: Outcome) -> Way:
        """How to record an outcome that concerns more than its job, or is no success."""
        if outcome.status is Status.SUCCEEDED and not outcome.follow:
            lease = outcome.lease
            token, _, life = self._leased.of_queue(lease.queue).get(lease.job_id, NOT_OURS)
            if token == lease.token and not has_held(life):
                return Way.COUNTED
        return Way.SETTLE

    def _follow(self, queue: str, batch: list[Outcome], packs: Packs, without: set[int]) -> None:
        """Deliver what was written into the outbox, which it is for all but these jobs.

        Capacity does not hold the jobs back: settling is what makes room, so it must not wait for room.
        """
        entries = [
            (f"{lease.job_id}:{lease.token}:{number}", pack)
            for lease in (one.lease for one in batch)
            if lease.job_id in packs and lease.job_id not in without
            for number, pack in enumerate(packs[lease.job_id], 1)
        ]
        if entries:
            self._outbox.send(queue, entries)

    def _send_all(self, parts: list[Batch], packs: Packs) -> list[Any]:
        try:
            return self._send(parts, packs, keep=True)
        except BackendUnavailable as error:
            if not is_full(error) or all(way is Way.SETTLE for _, way, _ in parts):
                raise
            self._config.log.warning("the server is full; succeeded jobs are deleted at once: %s", error)
        return self._send(parts, packs, keep=False)

    def _send(self, parts: list[Batch], packs: Packs, *, keep: bool) -> list[Any]:
        """Settle again if the connection broke, and tell the server that this is a repetition."""
        try:
            return self._send_once(parts, packs, keep=keep)
        except BackendError as error:
            if not has_broken(error):
                raise
        return self._send_once(parts, packs, keep=keep)

    def _call(self, parts: list[Batch], packs: Packs, *, keep: bool) -> list[Any]:
        calls = [self._settle_call(*part, packs, keep=keep) for part in parts]
        return self._redis.call_many(calls, again=False)

    def _send_once(self, parts: list[Batch], packs: Packs, *, keep: bool) -> list[Any]:
        """Settle, and settle as counted what turns out to count for limits that are new."""
        try:
            replies = self._call(parts, packs, keep=keep)
            limited = [at for at, reply in enumerate(replies) if reply == [b"limited"]]
            for at in limited:
                queue, _, batch = parts[at]
                parts[at] = (queue, Way.COUNTED, batch)
            counted = self._call([parts[at] for at in limited], packs, keep=keep) if limited else []
            for at, reply in zip(limited, counted, strict=True):
                replies[at] = reply
            return replies
        except BaseException:
            self._doubt(parts)
            raise

    def _doubt(self, parts: list[Batch]) -> None:
        """Remember that outcomes may have been recorded: settled again, they do not count as stale."""
        self._unsure.update(_leases_in(parts))

    def _settle_call(self, queue: str, way: Way, batch: list[Outcome], packs: Packs, *, keep: bool) -> Call:
        keep = keep and self._config.retention != 0
        if way is not Way.SETTLE:
            return self._finish_call(queue, batch, keep=keep, counted=way is Way.COUNTED)
        worker, now = self._worker, self._queues.time()
        script = self._scripts.settle
        arguments = script.arguments(
            again=self._is_repeated(batch), keep=int(keep), **self._queues.waking(queue)
        )
        for one in batch:
            name = one.lease.job_id
            lease = lease_name(name, one.lease.token, worker)
            follow = [pack.written() for pack in packs.get(name, ())]
            result = b"" if one.result is None else one.result
            arguments += (name, lease, change_of(one, now, len(follow)), result, *follow)
            if one.steps:
                arguments += step_args(one.steps)
        return self._queues.call_of(script, queue, arguments)

    def _finish_call(self, queue: str, batch: list[Outcome], *, keep: bool, counted: bool) -> Call:
        known, worker = self._leased.known(queue, batch), self._worker
        leases: list[str] = []
        fingerprints: list[bytes] = []
        states: list[Any] = []
        results: list[Any] = []
        for one in batch:
            job_id, _, token, *_ = one.lease
            ours = known.get(job_id, NOT_OURS)
            if ours[0] != token:
                ours = NOT_OURS
            lease = lease_name(job_id, token, worker)
            leases.append(lease)
            fingerprints.append(held_by(ours[1]))
            states += (job_id, success_of(one, lease, ours[2]))
            if one.result is not None:
                results += (job_id, one.result)
        common = {"keep": int(keep), "again": self._is_repeated(batch), "count": len(batch)}
        if counted:
            names = _names_of([known[one.lease.job_id][1] for one in batch])
            script = self._scripts.finish_counted
            header = script.arguments(named=len(names), **common, **self._queues.waking(queue))
            return self._queues.call_of(
                script, queue, [*header, *leases, *fingerprints, *names, *states, *results]
            )
        script = self._scripts.finish
        arguments = [*script.arguments(**common), *leases, *fingerprints, *states, *results]
        return self._queues.call_of(script, queue, arguments)

    def _is_repeated(self, batch: list[Outcome]) -> int:
        unsure = self._unsure
        return int(bool(unsure) and any((one.lease.job_id, one.lease.token) in unsure for one in batch))

    def renew(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases; return which are lost, and which jobs were cancelled."""
        lost, cancelled = set[int](), set[int]()
        by_queue: dict[str, list[Lease]] = {}
        for lease in leases:
            by_queue.setdefault(lease.queue, []).append(lease)
        parts = [
            (queue, of_queue[start : start + AT_ONCE])
            for queue, of_queue in by_queue.items()
            for start in range(0, len(of_queue), AT_ONCE)
        ]
        replies = self._redis.call_many([self._extend_call(*part) for part in parts])
        for reply in replies:
            lost |= set(map(int, reply[0]))
            cancelled |= set(map(int, reply[1]))
        return Extended(lost, cancelled)

    def _extend_call(self, queue: str, leases: list[Lease]) -> Call:
        script = self._scripts.extend
        arguments = script.arguments(lease=int(self._config.lease * 1e6))
        for lease in leases:
            job_id = lease.job_id
            progress = "" if lease.progress is None else progress_of(lease.progress)
            arguments += (job_id, lease_name(job_id, lease.token, self._worker), progress)
        return self._queues.call_of(script, queue, arguments)


def _names_of(records: list[bytes]) -> list[bytes]:
    """The names of the groups of jobs: one where all have the same one, none where none has one."""
    names = group_names_of(records)
    if names.count(names[0]) == len(names):
        return names[:1] if names[0] else []
    return names


def _leases_in(parts: list[Batch]) -> Iterator[tuple[int, int]]:
    return ((one.lease.job_id, one.lease.token) for _, _, batch in parts for one in batch)


def _batches_of(outcomes: list[Outcome]) -> Iterator[list[Outcome]]:
    """Outcomes of one queue, cut into batches of one script each."""
    start = size = 0
    for at, outcome in enumerate(outcomes):
        result = len(outcome.result or b"")
        if outcome.steps:
            result += sum(len(step.data) for step in outcome.steps)
        size += result
        if at > start and (at - start == AT_ONCE or size > BYTES_AT_ONCE):
            yield outcomes[start:at]
            start, size = at, result
    yield outcomes[start:]
