"""Adding jobs to a Redis server: up to 500 of one queue all or none, in scripts that are each short."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from neoq.errors import BackendError
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.redis.connection import Call
from neoq.redis.find import Finder
from neoq.redis.groups import Groups, Opening
from neoq.redis.keys import Ids, ids_in
from neoq.redis.parts import (
    MEETS,
    Part,
    count_spans,
    described,
    is_for_add,
    must_be_free,
    must_be_new,
    parts_of,
    refuse_twins,
)
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import record_of, score_of
from neoq.redis.scripts import AT_ONCE, Script
from neoq.store import must_not_meet, refuse_taken_uids, taken_by

# What add.lua is told of most calls.
_USUAL: dict[str, Any] = {
    "room": "",
    "gated": 0,
    "cron": "",
    "tick": "",
    "entry": "",
    "deadline": "",
    "void": 0,
}
_USUAL |= {"opened": "", "batch": ""}


class NoRoom(Exception):
    """A queue is full: it holds as many ready jobs as its capacity."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue


class Unregistered(Exception):
    """The server does not know a queue; nothing was added."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue


class New(NamedTuple):
    """The calls that add new jobs, and the fingerprints that must be free for them."""

    fingerprints: list[bytes]
    calls: list[Call]


class Adder:
    """Adds jobs, one batch at a time, so that the last batch can be sent again after a lost reply."""

    def __init__(self, queues: RedisQueues, finder: Finder, groups: Groups) -> None:
        self._queues = queues
        self._finder = finder
        self._groups = groups
        self._lock = threading.Lock()
        self._next: dict[str, int] = {}  # by queue: the first free id, as far as this process knows

    def add(self, jobs: Sequence[Job], token: bytes, room: dict[str, int]) -> list[Job]:
        """Add a batch; ``room`` says how many ready jobs each bounded queue may hold after it."""
        for job in jobs:
            if job.special:
                count_spans(job, self._queues.time())
        if uids := {job.uid for job in jobs if job.uid is not None}:
            self._refuse_taken_uids(jobs, uids, token)
        while True:
            try:
                return self._add(jobs, token, room)
            except Unregistered as unknown:
                self.register(unknown.queue)

    def _refuse_taken_uids(self, jobs: Sequence[Job], uids: set[str], token: bytes) -> None:
        """Raise where a uid is that of a job in another queue, or of one that the enqueue must not meet."""
        known = {job.uid: job for job in self._finder.of_uids(uids) if job.uid is not None}
        if any(must_not_meet(job, known[job.uid]) for job in jobs if job.uid in known):
            key = self._queues.keys(jobs[0].queue).key("last")
            if token and (last := self._queues.redis.command("GET", key)) and last.startswith(token):
                return  # it is these jobs themselves that have the uids: the reply was lost
        refuse_taken_uids(jobs, known)

    def add_plain(self, job: Job, token: bytes) -> Job:
        """Add one job that is due and no more than a payload and a kind, to a queue without bounds."""
        try:
            with self._lock:
                added = self._add_usual(job, token)
        except Unregistered:
            added = None
        return self.add((job,), token, {})[0] if added is None else added

    def delivery(self, queue: str, entry: bytes, until: float, jobs: Sequence[bytes], *, void: bool) -> Call:
        """The call that adds what an outbox has, once; ``jobs`` are as `described` has them.

        ``void`` leaves out those of groups: these take no more.
        """
        script, header = self._header(queue, b"", entry=entry, deadline=repr(until), void=int(void))
        return self._queues.call_of(script, queue, [*header, *jobs])

    def register(self, queue: str) -> None:
        """Register a queue again: the server has lost it, and its ids begin anew."""
        self._next.pop(queue, None)
        self._queues.register(queue)

    def _add(self, jobs: Sequence[Job], token: bytes, room: dict[str, int]) -> list[Job]:
        if len(jobs) == 1:
            return [self._add_alone(jobs[0], token, room.get(jobs[0].queue))]
        parts = list(parts_of(jobs))
        with self._lock:
            if len(parts) == 1:
                self._add_part(parts[0], token, room.get(parts[0].queue))
            else:
                self._add_parts(parts, token, room)
        added: list[Job] = list(jobs)
        for part in parts:
            for place, job in zip(part.places, part.jobs, strict=True):
                added[place] = job
        return added

    def duplicates(self, jobs: Sequence[Job]) -> set[int]:
        """The places of jobs whose fingerprints unfinished jobs have, or whose uids any jobs have."""
        uids = {job.uid for job in jobs if job.uid is not None}
        known = {job.uid for job in self._finder.of_uids(uids)} if uids else uids
        places = {place for place, job in enumerate(jobs) if job.uid in known}
        for part in parts_of(jobs):
            unique = [(place, job) for place, job in zip(part.places, part.jobs, strict=True) if job.unique]
            key = self._queues.keys(part.queue).key("uniq")
            for start in range(0, len(unique), AT_ONCE):
                step = unique[start : start + AT_ONCE]
                found = self._queues.redis.command("HMGET", key, *(job.fingerprint for _, job in step))
                places.update(place for (place, _), holder in zip(step, found, strict=True) if holder)
        return places

    def add_tick(self, cron: str, tick: float, job: Job) -> Job | None:
        """Add the job of a cron's tick; None if the tick exists."""
        part = Part(job.queue, [0], [job])
        while True:
            call = self._general_call(part, b"", None, 0, cron=(cron, repr(tick)))
            reply = self._queues.redis.call_and_wait(*call)
            if reply[0] == b"known":
                return None
            try:
                self._read(part, reply)
            except Unregistered:
                self.register(job.queue)
            else:
                return part.jobs[0]

    def open_batch(self, then: Job, batch: bytes, token: bytes) -> Job:
        """Add the callback of a batch, held; or return the job that has its fingerprint."""
        if then.special:
            count_spans(then, self._queues.time())
        part = Part(then.queue, [0], [then])
        while True:
            call = self._general_call(part, token, None, 0, batch=batch)
            try:
                self._read(part, self._queues.redis.call_and_wait(*call))
            except Unregistered:
                self.register(then.queue)
            else:
                return part.jobs[0]

    def _add_alone(self, job: Job, token: bytes, room: int | None) -> Job:
        with self._lock:
            if token and room is None and not job.waits and not is_for_add(job):
                added = self._add_usual(job, token)
                if added is not None:
                    return added
            part = Part(job.queue, [0], [job])
            self._add_part(part, token, room)
        return part.jobs[0]

    def _add_usual(self, job: Job, token: bytes) -> Job | None:
        """Add a ready and small job, as most are; None if add.lua has to decide."""
        record, _, payload = record_of(job)
        if payload is not None:
            return None
        queue, queues = job.queue, self._queues
        ids = queues.ids.get(queue) or queues.register(queue)
        base = max(ids.at(queues.time()), self._next.get(queue, 0))
        score = score_of(job.priority, job.due)  # type: ignore[arg-type]
        reply = self._call_add_one(queue, step=ids.step, token=token, id=base, record=record, score=score)
        if reply.__class__ is bytes:
            job.id = int(reply)
            self._next[queue] = job.id + ids.step
            return job
        if reply[0] == b"held" and job.on_duplicate != "return":
            return None
        part = Part(queue, [0], [job])
        self._read(part, reply)
        [met] = part.jobs
        return None if met.status is Status.RETRYING else met  # a retry may have to be brought forward

    def _call_add_one(self, queue: str, **named: Any) -> Any:
        queues, script = self._queues, self._queues.scripts.add_one
        keys = queues.keys(queue).keys(script.keys)
        return queues.redis.call_and_wait(script, keys, script.arguments(**named, **queues.waking(queue)))

    def _add_parts(self, parts: list[Part], token: bytes, room: dict[str, int]) -> None:
        """Add several parts, each all or none. Look first whether all of them can be added."""
        if room or any(must_be_new(job) for part in parts for job in part.jobs):
            self._look(parts, token, room)
        done, total, number = 0, sum(len(part.jobs) for part in parts), 0
        for part in parts:
            try:
                number += self._add_part(part, token, None, number)
            except BackendError as error:
                if done:
                    error.args = (
                        f"{error}; {done:,} of {total:,} jobs were added before, in parts of a queue",
                    )
                raise
            done += len(part.jobs)

    def _look(self, parts: list[Part], token: bytes, room: dict[str, int]) -> None:
        """Raise if a part cannot be added; a part that this token has already added always can."""
        refuse_twins(parts)
        number = 0
        left = dict(room)
        for part in parts:
            free = must_be_free(part)
            gate = self._gate_calls(part, token, left.get(part.queue), free, number, opens=False)
            self._pass_gate(part, self._queues.redis.call_many(gate))
            if part.queue in left:
                left[part.queue] -= sum(not job.waits for job in part.jobs)
            number += len(part.pieces())

    def _add_part(self, part: Part, token: bytes, room: int | None, number: int = 0) -> int:
        """Add a part; return how many scripts it took. The scripts of a batch are numbered throughout."""
        self._queues.known(part.queue)  # first: a queue that holds jobs is always known
        pieces = part.pieces()
        if len(pieces) > 1:
            self._add_pieces(part, pieces, token or os.urandom(16), room, number)
            return len(pieces)
        if room is None and (new := self._new_calls(pieces, token, number)):
            reply = self._queues.redis.call_and_wait(*new.calls[0])
            if reply[0] != b"taken" and (reply[0] != b"held" or part.jobs[0].on_duplicate == "return"):
                self._read(part, reply)
                return 1
        call = self._general_call(part, token, room, number)
        self._read(part, self._queues.redis.call_and_wait(*call))
        return 1

    def _add_pieces(
        self, part: Part, pieces: list[Part], token: bytes, room: int | None, number: int
    ) -> None:
        """Run several scripts in one transaction, after a script that allows them (gate.lua)."""
        if room is None and (new := self._new_calls(pieces, token, number)):
            gate = self._gate_calls(part, token, None, new.fingerprints, number)
            replies = self._queues.redis.call_together([*gate, *new.calls])
            if replies[len(gate) - 1][0] == b"open":
                self._read_pieces(part, pieces, replies[len(gate) :])
                return
        refuse_twins([part])
        gate = self._gate_calls(part, token, room, must_be_free(part), number)
        calls = [
            self._general_call(piece, token, None, at, gated=True) for at, piece in enumerate(pieces, number)
        ]
        replies = self._queues.redis.call_together([*gate, *calls])
        self._pass_gate(part, replies[: len(gate)])
        self._read_pieces(part, pieces, replies[len(gate) :])

    # -- calling ----------------------------------------------------------------------------------------

    def _new_calls(self, pieces: list[Part], token: bytes, number: int) -> New | None:
        """Add jobs whose fingerprints are free, as nearly all are; None where that does not decide it."""
        first = pieces[0].jobs[0]
        if any(is_for_add(job, first.group) for piece in pieces for job in piece.jobs):
            return None
        opening = None if first.group is None else self._groups.opening(first)
        if opening is not None and opening.named:
            return None
        fingerprints: list[bytes] = []
        calls: list[Call] = []
        ids = self._queues.known(pieces[0].queue)
        base = self._first_id(pieces[0].queue, ids)
        gated = len(pieces) > 1
        for at, piece in enumerate(pieces, number):
            call, own = self._new_call(piece, token, at, base, opening, gated=gated)
            calls.append(call)
            fingerprints += own
            base += len(piece.jobs) * ids.step
        if len(fingerprints) > 1 and len(set(fingerprints)) < len(fingerprints):
            return None
        return New(fingerprints, calls)

    def _new_call(
        self, piece: Part, token: bytes, number: int, base: int, opening: Opening | None, *, gated: bool
    ) -> tuple[Call, list[bytes]]:
        queue, jobs = piece.queue, piece.jobs
        fingerprints: list[bytes] = []
        records: list[Any] = []
        uniques: list[Any] = []
        ready: list[Any] = []
        waits: list[Any] = []
        apart: list[Any] = []
        step = self._queues.known(queue).step
        for at, job in enumerate(jobs):
            stored = base + at * step
            record, mark, payload = record_of(job)
            records += (stored, record)
            if mark is not None:
                fingerprints.append(mark)
                uniques += (mark, stored)
            if job.waits:
                waits += (repr(job.due), b"%03d%d" % (100 - job.priority, stored))
            else:
                ready += (score_of(job.priority, job.due), stored)  # type: ignore[arg-type]
            if payload is not None:
                apart += (stored, payload)
        script = self._queues.scripts.add_new
        header = script.arguments(
            token=token,
            count=len(jobs),
            unique=len(uniques) // 2,
            ready=len(ready) // 2,
            waits=len(waits) // 2,
            apart=len(apart) // 2,
            base=base,
            gated=int(gated),
            step=step,
            group="" if opening is None else opening.group,
            opened=b"" if opening is None else opening.text,
            **self._queues.waking(queue),
        )
        seen = () if gated else fingerprints
        arguments = [*header, *seen, *records, *uniques, *ready, *waits, *apart]
        return (script, self._keys(queue, script.keys, number), arguments), fingerprints

    def _first_id(self, queue: str, ids: Ids) -> int:
        """The first id for a job that is added now, as far as this process knows."""
        return max(ids.at(self._queues.time()), self._next.get(queue, 0))

    def _gate_calls(
        self,
        part: Part,
        token: bytes,
        room: int | None,
        free: list[bytes],
        number: int,
        *,
        opens: bool = True,
    ) -> list[Call]:
        """Look whether a part may be added, or was by this token; ``opens`` opens the gate then."""
        script = self._queues.scripts.gate
        keys = self._keys(part.queue, script.keys, number)
        wanted = 0 if room is None else sum(not job.waits for job in part.jobs)
        steps = [free[start : start + AT_ONCE] for start in range(0, len(free), AT_ONCE)] or [[]]
        holds = [b"", *(b"%b:%d" % (token, step) for step in range(1, len(steps))), token]
        common = {"token": token, "room": "" if room is None else room, "wanted": wanted}
        if not opens:
            holds = [b""] * len(holds)
        return [
            (script, keys, [*script.arguments(before=before, after=after, **common), *step])
            for step, (before, after) in zip(steps, pairwise(holds), strict=True)
        ]

    def _general_call(
        self,
        part: Part,
        token: bytes,
        room: int | None,
        number: int,
        *,
        gated: bool = False,
        cron: tuple[str, str] = ("", ""),
        batch: bytes = b"",
    ) -> Call:
        opening = None if part.jobs[0].group is None else self._groups.opening(part.jobs[0])
        script, arguments = self._header(
            part.queue,
            token,
            room="" if room is None else room,
            gated=int(gated),
            cron=cron[0],
            tick=cron[1],
            opened=b"" if opening is None else opening.text,
            batch=batch,
        )
        named = opening is not None and opening.named
        for job in part.jobs:
            arguments += described(job, b"s" if cron[0] else MEETS[job.on_duplicate], named=named)
        return script, self._keys(part.queue, script.keys, number), arguments

    def _header(self, queue: str, token: bytes, **said: Any) -> tuple[Script, list[Any]]:
        """add.lua, and its arguments before those of the jobs; what is not said is as for most calls."""
        ids, script = self._queues.known(queue), self._queues.scripts.add
        said = _USUAL | said | {"token": token, "base": self._first_id(queue, ids), "step": ids.step}
        return script, script.arguments(**said, **self._queues.waking(queue))

    def _keys(self, queue: str, names: tuple[str, ...], number: int) -> list[bytes]:
        """The keys of a script; each numbered script of a batch has its own key for the token."""
        keys = self._queues.keys(queue).keys(names)
        if not number:
            return keys
        at = names.index("last")
        return [*keys[:at], keys[at] + b".%d" % number, *keys[at + 1 :]]

    # -- replies ----------------------------------------------------------------------------------------

    def _pass_gate(self, part: Part, replies: list[Any]) -> None:
        """Raise if jobs may not be added."""
        for step, reply in enumerate(replies):
            if reply[0] == b"full":
                raise NoRoom(part.queue)
            if reply[0] == b"taken":
                must = [place for place, job in enumerate(part.jobs) if must_be_new(job)]
                place, holder = must[step * AT_ONCE + reply[1]], int(reply[2])
                raise self._taken(part, place, holder)

    def _read_pieces(self, part: Part, pieces: list[Part], replies: list[Any]) -> None:
        for piece, reply in zip(pieces, replies, strict=True):
            self._read(piece, reply)
        part.jobs = [job for piece in pieces for job in piece.jobs]

    def _read(self, part: Part, reply: list[Any]) -> None:
        what, queue = reply[0], part.queue
        if what == b"added":
            first, step = int(reply[1]), self._queues.known(queue).step
            self._next[queue] = first + len(part.jobs) * step
            for at, job in enumerate(part.jobs):
                job.id = first + at * step
            if len(reply) > 2:
                self._meet(part, {reply[at]: int(reply[at + 1]) for at in range(2, len(reply), 2)})
        elif what == b"held":
            self._meet(part, {0: int(reply[1])})
        elif what == b"again":
            self._recall(part, reply[1])
        elif what == b"closed":
            raise self._groups.refuse(part.jobs[0])
        elif what == b"unknown":
            raise Unregistered(queue)
        elif what == b"full":
            raise NoRoom(queue)
        elif what == b"taken":
            raise self._taken(part, reply[1], int(reply[2]))
        else:
            raise BackendError(f"unexpected reply of Redis to an enqueue: {reply!r}")

    def _meet(self, part: Part, holders: dict[int, int]) -> None:
        """Put the jobs that hold the fingerprints in the places of the duplicates."""
        found = {job.id: job for job in self._finder.snapshots(part.queue, list(set(holders.values())))}
        for place, name in holders.items():
            if name in found:
                job = found[name].snapshot()
            else:  # the holder is deleted by now
                job = part.jobs[place].snapshot()
                job.status = Status.CANCELLED
            job.id, job.duplicate = name, True
            part.jobs[place] = job

    def _recall(self, part: Part, text: bytes) -> None:
        """Take the jobs that this token has added before, as the server remembers them."""
        marks = [b"%d" % one for one in ids_in(text)] if b":" in text else text.split()
        stored = [int(mark.rstrip(b"!")) for mark in marks]
        found = {job.id: job for job in self._finder.snapshots(part.queue, stored)}
        for place, (one, mark) in enumerate(zip(stored, marks, strict=True)):
            job = found.get(one, part.jobs[place]).snapshot()
            job.id, job.duplicate = one, mark.endswith(b"!")
            part.jobs[place] = job

    def _taken(self, part: Part, place: int, holder: int) -> DuplicateJobError:
        if holder < 0:  # an earlier job of the batch
            return taken_by(part.jobs[-holder - 1])
        found = self._finder.snapshots(part.queue, [holder])
        job = found[0] if found else part.jobs[place].snapshot()
        job.id = holder
        uid = part.jobs[place].uid
        return taken_by(job, uid if uid is not None and uid == job.uid else None)
