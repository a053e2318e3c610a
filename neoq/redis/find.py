"""Looking at the jobs of a Redis server: by id, by queue and status, newest first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from neoq.filter import ALL, Filter
from neoq.job import Job
from neoq.payload import is_coded
from neoq.record import Status
from neoq.redis.keys import id_in, ids_in, number_of
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import job_of, mark_held, may_have, read_lease, steps_in
from neoq.store import KINDS_LOOKED_AT, Page, QueueCounts
from neoq.stored import COUNTED, NUMBER, mark_unreadable, shown
from neoq.times import to_datetime

LOOKED_AT_ONCE = 50  # jobs that one script looks at
SENT_TOGETHER = 10  # such scripts, in one round trip
LOOKS = 3  # at most, for jobs that end while they are looked at
LOOKED_IN_ALL = 2000  # jobs of a queue, by one call, for a filter that may leave most of them out
PAGE = 500  # leases, or entries of the list of ids, that one command looks at
FEW = 5000  # jobs of a status that are read as a whole to find the newest of them
SKEW = 60.0  # seconds by which a worker's clock may be ahead of the server's
_ENDED = frozenset({"done", "dead", "cancelled"})
KINDS_AT_ONCE = 500  # jobs whose kinds one script counts
_PLACES = {
    Status.PENDING: ("ready", "wait", "retry", "lines"),
    Status.RETRYING: ("ready", "wait", "retry", "lines"),
    Status.RUNNING: ("lease",),
    Status.SUCCEEDED: ("done",),
    Status.DEAD: ("dead",),
    Status.CANCELLED: ("cancelled",),
}


class Finder:
    """Finds jobs in short steps, so that other clients of the server do not wait."""

    def __init__(self, queues: RedisQueues) -> None:
        self._queues = queues
        self._redis = queues.redis

    def of_ids(self, ids: Iterable[int]) -> list[Job]:
        """The jobs of these ids that exist."""
        by_number: dict[int, list[int]] = {}
        for one in set(ids):
            if one > 0:
                by_number.setdefault(number_of(one), []).append(one)
        if not by_number:
            return []
        numbers = self._queues.numbers
        if not by_number.keys() <= set(numbers.values()):
            self._queues.all()
        found: list[Job] = []
        missing = {one for of_number in by_number.values() for one in of_number}
        for queue, number in list(numbers.items()):
            if number in by_number:
                found += self.snapshots(queue, by_number[number])
        missing -= {job.id for job in found if job.id is not None}
        return found + self._anywhere(sorted(missing)) if missing else found

    def of_uids(self, uids: Iterable[str]) -> list[Job]:
        """The jobs that have these uids."""
        queues, names = self._queues.all(), list(uids)
        commands = [("HMGET", self._queues.keys(queue).key("uids"), *names) for queue in queues]
        found: list[Job] = []
        for queue, ids in zip(queues, self._redis.commands(commands), strict=True):
            here = {one: uid for one, uid in zip(ids, names, strict=True) if one is not None}
            jobs = self.snapshots(queue, [one for text in here if (one := id_in(text)) is not None])
            found += [job for job in jobs if job.uid in here.values()]
        return found

    def _anywhere(self, ids: list[int]) -> list[Job]:
        """The jobs of these ids, wherever they are: a queue may have had another number once."""
        found: list[Job] = []
        queues = self._queues.all()
        for start in range(0, len(queues), PAGE):
            some = queues[start : start + PAGE]
            commands = [("HMGET", self._queues.keys(queue).key("jobs"), *ids) for queue in some]
            for queue, records in zip(some, self._redis.commands(commands), strict=True):
                here = [one for one, record in zip(ids, records, strict=True) if record is not None]
                found += self.snapshots(queue, here)
        return found

    def snapshots(self, queue: str, stored: list[int]) -> list[Job]:
        """Snapshots of the jobs of a queue that exist, by their ids."""
        return self._whole(queue, self._read(queue, stored))

    def _read(self, queue: str, stored: list[int]) -> list[Job]:
        """Snapshots without the results."""
        jobs: list[Job] = []
        for chunk, reply, leases in self._look_at(queue, stored):
            now = float(reply[0])
            for at, record in enumerate(reply[1]):
                if record is not None:
                    lease = leases.get(chunk[at])
                    job = snapshot_of(chunk[at], queue, [part[at] for part in reply[1:]], lease, now)
                    job.waits = job.held not in {None, "line"} or (not job.finished and job.due > now)  # type: ignore[operator]
                    jobs.append(job)
        self.add_payloads([job for job in jobs if job.body is None])
        check_payloads(jobs)
        return jobs

    def _whole(self, queue: str, jobs: list[Job], *, brief: bool = False) -> list[Job]:
        """The jobs that have their payload, with their results; ``brief``: without them."""
        finished = [] if brief else [job for job in jobs if job.finished]
        for job, result in self._fetch("results", queue, finished):
            job.result_body = _checked_result(job, result)
        return [job for job in jobs if job.body is not None]

    def _look_at(self, queue: str, stored: list[int]) -> Iterator[tuple[list[int], Any, dict[int, bytes]]]:
        """Some jobs, what there is of them, and the leases of those that run; anew where one has ended."""
        script = self._queues.scripts.look
        keys, chunks = self._queues.keys(queue).keys(script.keys), _chunks(stored)
        for start in range(0, len(chunks), SENT_TOGETHER):
            some = chunks[start : start + SENT_TOGETHER]
            replies = self._redis.call_many([(script, keys, chunk) for chunk in some])
            for chunk, first in zip(some, replies, strict=True):
                reply, leases, whole = first, *self._leases_in(queue, chunk, first)
                for _ in range(LOOKS - 1):
                    if whole:
                        break
                    reply = self._queues.call(script, queue, chunk)
                    leases, whole = self._leases_in(queue, chunk, reply)
                yield chunk, reply, leases

    def _leases_in(self, queue: str, chunk: list[int], reply: Any) -> tuple[dict[int, bytes], bool]:
        """The leases of jobs that ran at a look, and whether all of them have one."""
        run = [one for one, runs in zip(chunk, reply[5], strict=True) if runs]
        leases = self.leases_of(queue, run) if run else {}
        return leases, len(leases) == len(run)

    def leases(self, queue: str, pattern: str) -> set[bytes]:
        """The leases of a queue whose names are like a pattern, read in short pages."""
        key, cursor, found = self._queues.keys(queue).key("lease"), 0, set[bytes]()
        while True:
            cursor, page = self._redis.command("ZSCAN", key, cursor, "MATCH", pattern, "COUNT", PAGE)
            found.update(item[0] if isinstance(item, tuple) else item for item in page if _is_name(item))
            cursor = int(cursor)
            if not cursor:
                return found

    def leases_of(self, queue: str, stored: Collection[int]) -> dict[int, bytes]:
        """The leases of jobs of a queue, by their ids; of those that have one."""
        pattern = f"{next(iter(stored))}:*" if len(stored) == 1 else "*"
        leases = {stored_in("lease", name): name for name in self.leases(queue, pattern)}
        return {one: leases[one] for one in stored if one in leases}

    def add_payloads(self, jobs: list[Job]) -> None:
        """Fetch the payloads that are stored separately. A job that has lost its payload cannot be read."""
        for queue in {job.queue for job in jobs}:
            for job, payload in self._fetch("payloads", queue, [job for job in jobs if job.queue == queue]):
                job.body = payload
            bare = [job for job in jobs if job.body is None and job.queue == queue]
            for job, record in self._fetch("jobs", queue, bare):
                if record is not None:  # it has not ended and been forgotten meanwhile
                    job.body = b""
                    mark_unreadable(job, "its payload is gone")

    def _fetch(self, what: str, queue: str, jobs: list[Job]) -> Iterator[tuple[Job, bytes | None]]:
        """Large values of jobs, one command each, so that the server can serve others in between."""
        key = self._queues.keys(queue).key(what)
        found = self._redis.commands([("HGET", key, job.id) for job in jobs], near=key)
        return zip(jobs, found, strict=True)

    def find(
        self, wanted: Filter, limit: int, after: int | None, before: int | None, *, brief: bool = False
    ) -> Page:
        """The newest jobs with ids below ``after``, or the oldest above ``before``; ``brief``: no results."""
        if wanted.ids is None and wanted.uids is None:
            return self._walk(wanted, limit, after, before, brief=brief)
        jobs = [
            job
            for job in (self.of_ids(wanted.ids or ()) if wanted.uids is None else self.of_uids(wanted.uids))
            if wanted.matches(job)
            and (after is None or job.id < after)
            and (before is None or job.id > before)
        ]
        jobs.sort(key=lambda job: job.id, reverse=True)
        return Page(jobs[:limit] if before is None else jobs[-limit:])

    def _walk(
        self, wanted: Filter, limit: int, after: int | None, before: int | None, *, brief: bool
    ) -> Page:
        """A page of the jobs that match a filter without ids: the pages of all queues, merged."""
        every = self._queues.all()
        queues = every if wanted.queue is None else [wanted.queue] if wanted.queue in every else []
        found, rests = list[Job](), list[int]()
        for name in queues:
            page = self._of_queue(name, wanted, limit, after, before, brief=brief)
            found += page.jobs
            if page.rest is not None:
                rests.append(page.rest)
        upwards = before is not None
        rest = (min if upwards else max)(rests, default=None)
        if rest is not None:  # beyond it not all queues were looked at
            found = [job for job in found if (job.id <= rest if upwards else job.id >= rest)]
        found.sort(key=lambda job: job.id, reverse=not upwards)
        if len(found) > limit:
            del found[limit:]
            rest = found[-1].id
        return Page(found[::-1] if upwards else found, rest)

    def _of_queue(
        self,
        queue: str,
        wanted: Filter,
        limit: int,
        after: int | None,
        before: int | None,
        *,
        brief: bool,
    ) -> Page:
        """The jobs of one queue, in the order of the walk."""
        members = self._few_of(queue, wanted)
        if members is not None:
            ids = [
                one for one in members if (after is None or one < after) and (before is None or one > before)
            ]
            walk = iter(sorted(ids, reverse=before is None))
        elif before is not None:
            walk = self._upwards(queue, before)
        else:
            walk = self._downwards(queue, after, limit)
        found, looked, size = list[Job](), 0, min(limit, LOOKED_AT_ONCE)
        while chunk := list(islice(walk, size)):
            likely = self._likely(queue, chunk, wanted)
            jobs = [job for job in self._read(queue, likely) if wanted.matches(job)]
            jobs.sort(key=lambda job: job.id, reverse=before is None)
            found += self._whole(queue, jobs, brief=brief)
            looked += len(chunk)
            size = LOOKED_AT_ONCE * (
                1 if len(jobs) * 10 > len(chunk) else SENT_TOGETHER
            )  # a search that finds little goes faster
            if len(found) >= limit:
                return Page(found[:limit], found[limit - 1].id)
            if wanted.narrow and looked >= LOOKED_IN_ALL:
                return Page(found, chunk[-1])
        return Page(found)

    def _likely(self, queue: str, stored: list[int], wanted: Filter) -> list[int]:
        """Without the jobs whose records show that they are not those that are looked for."""
        script = self._queues.scripts.sift
        asked = script.arguments(**_signs_of(wanted))
        if asked != script.arguments(**_signs_of(ALL)):
            stored = (
                [int(one) for one in self._queues.call(script, queue, [*asked, *stored])] if stored else []
            )
        parts = wanted.payload_parts()
        if not parts or not stored:
            return stored
        key = self._queues.keys(queue).key("jobs")
        records = self._redis.command("HMGET", key, *stored)
        return [
            one
            for one, record in zip(stored, records, strict=True)
            if record is not None and may_have(record, parts)
        ]

    def _few_of(self, queue: str, wanted: Filter) -> list[int] | None:
        """The ids of jobs that may match by status and end; None if they are too many to read."""
        if wanted.group is not None:
            return self._members(queue, wanted.group)
        recent = wanted.since if wanted.by_end else None
        if wanted.statuses is None and recent is None:
            return None
        keys = self._queues.keys(queue)
        places = {place for status in wanted.statuses or _PLACES for place in _PLACES[status]}
        # A job that has ended is there under the time at which that was recorded.
        starts = {
            place: "-inf" if recent is None or place not in _ENDED else repr(recent - SKEW)
            for place in places
        }
        spans = [(keys.key(place), start, "+inf") for place, start in starts.items()]
        if sum(self._redis.commands([("ZCOUNT", *span) for span in spans])) > FEW:
            return None
        members = self._redis.commands([("ZRANGEBYSCORE", *span) for span in spans])
        ids = [
            stored_in(place, member) for place, found in zip(starts, members, strict=True) for member in found
        ]
        return [one for one in ids if one is not None]

    def _members(self, queue: str, group: str) -> list[int]:
        """The ids of the jobs of a group in a queue."""
        key, start, found = self._queues.keys(queue).key("members"), f"[{group}", list[int]()
        while page := self._redis.command("ZRANGEBYLEX", key, start, f"({group}:", "LIMIT", 0, PAGE):
            found += [int(digits) for one in page if (digits := one.rpartition(b"/")[2]).isdigit()]
            start = b"(" + page[-1]
        return found

    def _downwards(self, queue: str, below: int | None, limit: int) -> Iterator[int]:
        """The ids of a queue, newest first: of existing jobs, and of some that were dropped."""
        key, step = self._queues.keys(queue).key("ids"), min(limit, LOOKED_AT_ONCE)
        start: Any = "+inf" if below is None else f"({below}"
        while page := self._redis.command(
            "ZREVRANGEBYSCORE", key, start, "-inf", "WITHSCORES", "LIMIT", 0, step
        ):
            pairs = _pairs(page)
            for member, _ in pairs:
                yield from (one for one in reversed(ids_in(member)) if below is None or one < below)
            start = f"({pairs[-1][1]!r}"
            step = PAGE if step >= LOOKED_AT_ONCE else LOOKED_AT_ONCE

    def _upwards(self, queue: str, above: int) -> Iterator[int]:
        """The ids of a queue, oldest first, as `_downwards`."""
        key, step = self._queues.keys(queue).key("ids"), LOOKED_AT_ONCE
        first = self._redis.command("ZREVRANGEBYSCORE", key, above, "-inf", "WITHSCORES", "LIMIT", 0, 1)
        start: Any = f"({above}" if not first else repr(_pairs(first)[0][1])  # that batch may have ids above
        while page := self._redis.command(
            "ZRANGEBYSCORE", key, start, "+inf", "WITHSCORES", "LIMIT", 0, step
        ):
            pairs = _pairs(page)
            for member, _ in pairs:
                yield from (one for one in ids_in(member) if one > above)
            start, step = f"({pairs[-1][1]!r}", PAGE

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        queues = self._queues.all()
        replies = self._redis.call_many(
            [self._queues.call_of(self._queues.scripts.counts, queue, ()) for queue in queues]
        )
        return [
            QueueCounts(
                queue,
                **dict(zip(COUNTED, numbers, strict=True)),
                paused=bool(paused),
                held=held,
                oldest_due=to_datetime(float(due)) if due else None,
                oldest_started=to_datetime(float(claimed) / 1e6) if claimed else None,
            )
            for queue, (*numbers, paused, held, due, claimed) in zip(queues, replies, strict=True)
        ]

    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait, of the first that will be claimed."""
        waiting: dict[tuple[str, str | None], int] = {}
        script = self._queues.scripts.kinds
        for queue in queues:
            left = KINDS_LOOKED_AT
            for place in (1, 2, 3, 4):
                start = 0
                while left > 0:
                    asked = min(left, KINDS_AT_ONCE)
                    arguments = script.arguments(place=place, start=start, most=asked)
                    number, *told = self._queues.call(script, queue, arguments)
                    for name, seen in zip(told[::2], told[1::2], strict=True):
                        kind = (queue, name.decode(errors="replace") or None)
                        waiting[kind] = waiting.get(kind, 0) + seen
                    start += asked
                    left -= number
                    if number < asked:
                        break
        return waiting


def _pairs(page: list[Any]) -> list[tuple[bytes, float]]:
    """The members and scores of a reply: pairs, or one after the other."""
    pairs = page if isinstance(page[0], (tuple, list)) else zip(page[::2], page[1::2], strict=True)
    return [(member, float(score)) for member, score in pairs]


def _signs_of(wanted: Filter) -> dict[str, Any]:
    """What the records and lives of the wanted jobs have, as sift.lua takes it."""
    statuses = frozenset[Status]() if wanted.statuses is None else wanted.statuses
    if Status.RUNNING in statuses:  # whose lives say what they were before
        statuses = frozenset()
    return {
        "kind": wanted.kind or "",
        "any_kind": int(wanted.kind is None),
        "statuses": "".join(str(NUMBER[status]) for status in sorted(statuses)),
        "key": wanted.key or "",
        "in_life": "" if wanted.error is None else '"err":',
    }


def stored_in(place: str, member: bytes) -> int | None:
    """The id in a member of one of our lists; None if another program has written something else."""
    if place == "lease":
        return id_in(member.partition(b":")[0])
    if place == "lines":
        return id_in(member[-16:])
    return id_in(member[3:] if place in {"wait", "retry"} else member)


def check_payloads(jobs: Iterable[Job]) -> list[Job]:
    """Parse the payloads; mark and return the jobs that cannot be read."""
    unread = []
    for job in jobs:
        try:
            payload = orjson.loads(job.body or b"")
        except ValueError:
            if is_coded(job.body) and job.unreadable is None:
                continue
            payload = None
        if payload.__class__ is dict:
            job.parsed = payload
        elif job.body is not None and job.unreadable is None:
            mark_unreadable(job, f"payload holds {shown(job.body)}, which is not a JSON object")
        if payload is None or job.unreadable is not None:
            unread.append(job)
    return unread


def _checked_result(job: Job, result: bytes | None) -> bytes | None:
    try:
        if result is not None and not is_coded(result):
            orjson.loads(result)
    except ValueError:
        mark_unreadable(job, f"result holds {shown(result)}, which is not JSON")
        return None
    return result


def _chunks(ids: list[int]) -> list[list[int]]:
    return [ids[start : start + LOOKED_AT_ONCE] for start in range(0, len(ids), LOOKED_AT_ONCE)]


def snapshot_of(name: int, queue: str, parts: list[Any], lease: bytes | None, now: float) -> Job:
    """A snapshot of the job of an id, from what look.lua returns of it."""
    record, life, progress, cancelled, runs, steps, held, lined = parts
    job = job_of(name, queue, record, life)
    if lease is not None:
        read_lease(job, lease)
    elif runs:
        job.status = Status.RUNNING
    if progress is not None:
        try:
            told = orjson.loads(progress)
            job.progress_report = (float(told["pf"]), str(told["pt"]))
        except (ValueError, LookupError, TypeError):
            pass  # it says nothing of the job itself, and the next one overwrites it
    job.cancel_asked = bool(cancelled)
    job.steps = steps_in(steps)
    if held is not None and float(held) > now:
        mark_held(job, life)
    if lined:
        job.held = "line"
    return job


def _is_name(item: Any) -> bool:
    """ZSCAN's pages hold names and scores, in pairs or one after the other."""
    return isinstance(item, tuple) or item.count(b":") == 2
