"""RedisBackend: jobs in Redis or Valkey, shared by every process that can reach it."""

from __future__ import annotations

import dataclasses
import os
import threading
import time as _time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import orjson

from neoq.backend import Backend
from neoq.config import OPTIONAL_TEXT, Config, Kind, count, setting, span
from neoq.errors import (
    BackendClosedError,
    BackendError,
    BackendUnavailable,
    ConfigError,
    DuplicateJobError,
    QueueFullError,
    UnsupportedError,
)
from neoq.job import FINISHED, Job, Status, to_datetime
from neoq.redis_connection import Address, Call, RedisConnection
from neoq.redis_keys import QueueKeys, global_key, job_id, number_of, stored_at
from neoq.redis_records import (
    NUMBER,
    arguments_of,
    change_of,
    job_of,
    progress_of,
    read_run,
    success_of,
)
from neoq.redis_wakes import Wakes
from neoq.store import (
    Action,
    Changed,
    Claimed,
    Demand,
    Extended,
    Lease,
    Notify,
    Outcome,
    QueueCounts,
    Reclaimed,
    Tick,
    WorkerInfo,
)

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from neoq.redis_scripts import Script

T = TypeVar("T")

MAX_BATCH = 500  # jobs of one script
LOOK_EVERY = 5  # times job_check_interval: how often an idle queue is looked at, though nobody has called
ROOM_EVERY = 0.05  # seconds between looks whether a full queue has room again
SWEEP_EVERY = 60.0  # seconds between looks for leases that ran out and that no dead worker accounts for
DEAF_AFTER = 2.0  # heartbeats without a sign of life until a worker that hears nothing is dead
STEADY_AFTER = 3.0  # heartbeats of contact before this process judges who is dead
FEW = 5000  # jobs of a status that are read as a whole to find the newest of them
RECONCILED_AT_ONCE = 200
MORE_CALLS = 8  # workers that are called in turn until one hears


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    Address.of(value)
    return value


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not value or set(value) & set("{}:") or not value.isprintable():
        raise ValueError(value)
    return value


@dataclass(frozen=True)
class RedisConfig(Config):
    """The settings of `RedisBackend`: those of every backend, and the server's."""

    url: str = setting(
        "redis://localhost:6379/0",
        Kind("the URL of a server", lambda value: str(value)),
        "The server: redis://, rediss:// (TLS), redis+unix://, redis+sentinel://, redis+cluster://.",
    )
    prefix: str = setting(
        "neoq", Kind("printable characters without { } :", _prefix), "What all keys begin with, in braces."
    )
    socket_timeout: float = setting(
        5.0, span(0.05, 3600), "How long the server may take to answer before it counts as away."
    )
    wait_replicas: int = setting(
        0, count(0, 100), "Replicas that must have a job before enqueue returns; 0: waits for none."
    )
    tls_ca: str | None = setting(
        None, OPTIONAL_TEXT, "A file with the certificates that sign the server's, for rediss:// URLs."
    )
    tls_cert: str | None = setting(
        None, OPTIONAL_TEXT, "A file with our certificate, where one is asked for."
    )
    tls_key: str | None = setting(None, OPTIONAL_TEXT, "A file with the key of ``tls_cert``.")
    retention: float | None = setting(
        3600.0, span(0.0, none=True), "How long finished jobs can be looked up; None: for ever."
    )

    def _contradictions(self) -> list[str]:
        problems = super()._contradictions()
        try:
            Address.of(self.url)
        except ValueError as error:
            problems.append(f"url does not say where the server is: {error}")
        return problems

    def __repr__(self) -> str:
        return f"RedisConfig({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults, without the password."""
        changed = super().changed()
        if "url" in changed:
            scheme, _, rest = self.url.partition("://")
            changed["url"] = f"{scheme}://{rest.rpartition('@')[2]}"
        return changed


class Quiet(NamedTuple):
    """A queue that held nothing for us when we looked."""

    due: float | None  # on the server's clock, when the next job is due
    looked_at: float  # monotonic


class Held(NamedTuple):
    """Outcomes of one queue, as a script is told of them."""

    script: Script
    queue: str
    arguments: list[Any]


class RedisBackend(Backend):
    """Jobs in Redis: ``RedisBackend("redis://localhost:6379/0")``, or ``neoq.connect`` with such a URL.

    Takes every setting of `Config`, and ``prefix``, ``socket_timeout`` and ``wait_replicas``, as keywords. Any
    number of processes on any machines may share a server. Safe to use from many threads.

    Raises ConfigError for a setting that is unknown or out of range, and at the first call BackendUnavailable
    where the server cannot be reached, ConfigError where it would evict jobs.
    """

    config_class = RedisConfig
    config: RedisConfig
    features: ClassVar[frozenset[str]] = frozenset({"durable", "shared"})

    def __init__(self, url: str | None = None, **options: Any) -> None:
        super().__init__(**({} if url is None else {"url": url}), **options)

    @classmethod
    def url_settings(cls, parts: SplitResult) -> dict[str, Any]:
        """The server in a URL; its query holds settings."""
        url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        return {"url": url + (f"#{parts.fragment}" if parts.fragment else "")}

    # -- open and close ---------------------------------------------------------------------------------

    def open_store(self, notify: Notify) -> None:
        """Connect, and look whether the server may keep jobs."""
        config = self.config
        tls = {"ssl_ca_certs": config.tls_ca, "ssl_certfile": config.tls_cert, "ssl_keyfile": config.tls_key}
        connection = RedisConnection(
            Address.of(config.url),
            socket_timeout=config.socket_timeout,
            wait_replicas=config.wait_replicas,
            tls={name: value for name, value in tls.items() if value is not None},
            log=config.log,
        )
        connection.open()
        self._notify = notify
        self._redis = connection
        self._scripts = connection.scripts
        self._worker = self.engine.worker_id
        self._channel = f"{config.prefix}:wake:"
        self._calls = 1 if connection.cluster else MORE_CALLS  # a cluster cannot tell who has heard
        self._slot = os.urandom(6).hex()
        self._adding = threading.Lock()
        self._queues: dict[str, QueueKeys] = {}
        self._numbers: dict[str, int] = {}
        self._quiet: dict[str, Quiet] = {}
        self._stirs: dict[str, int] = {}
        self._clock_ahead = 0.0  # of the server's clock before ours, seconds
        self._tokens = int.from_bytes(os.urandom(5), "big") << 12
        self._token_lock = threading.Lock()
        self._lost_claims: list[tuple[str, int]] = []
        self._unsure = False  # whether outcomes may be recorded whose reply was lost
        self._claims_from: set[str] = set()
        self._told: bytes = b""
        self._touched = 0.0
        self._swept = self._opened_at = _time.monotonic()
        self._cursors: dict[str, Any] = {}
        self._crons: dict[str, str] = {}
        self._room = threading.Condition()
        self._blocked = 0
        self._refusing = False
        self._info: WorkerInfo | None = None
        self._wakes = Wakes(
            connection,
            self._channel + self._worker,
            called=self._called,
            back=self._stir_all,
            log=config.log,
        )

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        with self._room:
            self._refusing = True
            self._room.notify_all()

    def close_store(self) -> None:
        """Leave the workers, and disconnect."""
        self.stop_waiting()
        self._wakes.close()
        try:
            if self._told:
                leave: list[Sequence[Any]] = [
                    ("HDEL", global_key(self.config.prefix, "workers"), self._worker)
                ]
                idle = [("SREM", self._keys(queue).key("idle"), self._worker) for queue in self._claims_from]
                self._redis.commands([*leave, *idle])
        except BackendError as error:
            self.config.log.warning("the server was not told that this worker ends: %s", error)
        finally:
            self._redis.close()

    def _keys(self, queue: str) -> QueueKeys:
        keys = self._queues.get(queue)
        if keys is None:
            keys = self._queues.setdefault(queue, QueueKeys(self.config.prefix, queue, self._slot))
        return keys

    def _call_of(self, script: Script, queue: str, arguments: Sequence[Any]) -> Call:
        return script, self._keys(queue).keys(script.keys), arguments

    # -- numbers of queues ------------------------------------------------------------------------------

    def _number(self, queue: str) -> int:
        number = self._numbers.get(queue)
        if number is None:
            self._register([queue])
            number = self._numbers[queue]
        return number

    def _register(self, queues: list[str]) -> None:
        """Learn the numbers of queues; new ones get one."""
        key = global_key(self.config.prefix, "queues")
        numbers = self._redis.call(self._scripts.register, [key], queues)
        self._numbers.update(zip(queues, numbers, strict=True))

    def _all_queues(self) -> list[str]:
        found = self._redis.command("HGETALL", global_key(self.config.prefix, "queues"))
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        self._numbers.update({name.decode(): int(number) for name, number in pairs})
        return sorted(self._numbers)

    # -- enqueue ----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. Up to 500 of one queue are stored all or none."""
        if transaction is not None:
            raise _no_transactions("enqueue")
        capacities = {} if self.in_runner() else self._capacities(jobs)
        if not capacities:
            return self._add(jobs, token, {})
        return self._add_bounded(jobs, token, capacities)

    def _capacities(self, jobs: Sequence[Job]) -> dict[str, int]:
        """The capacity of each queue of a batch that has one; QueueFullError where it can never fit."""
        queues = {job.queue for job in jobs}
        capacities = {queue: limit for queue in queues if (limit := self.capacity_of(queue)) is not None}
        for queue, limit in capacities.items():
            number = sum(job.queue == queue and not job._waits for job in jobs)
            if number > limit:
                raise QueueFullError(
                    f"{number:,} jobs at once are more than queue {queue!r} holds ({limit:,}); enqueue them in "
                    "parts, or raise its capacity",
                    queue=queue,
                )
        return capacities

    def _add_bounded(self, jobs: Sequence[Job], token: bytes, capacities: dict[str, int]) -> list[Job]:
        """Add where there is room, or wait for it."""
        timeout = self.config.enqueue_timeout
        give_up = None if timeout is None else _time.monotonic() + timeout
        while True:
            free = {queue: max(0, limit - self.handed_over(queue)) for queue, limit in capacities.items()}
            try:
                return self._add(jobs, token, free)
            except _NoRoom as full:
                self._await_room(full.queue, capacities[full.queue], give_up, timeout)

    def _await_room(self, queue: str, capacity: int, give_up: float | None, timeout: float | None) -> None:
        left = ROOM_EVERY if give_up is None else give_up - _time.monotonic()
        with self._room:
            if left <= 0 and not self._refusing:
                raise QueueFullError(
                    f"queue {queue!r} holds all {capacity:,} jobs that it may, and no room came within "
                    f"{timeout:g} s; add runners (concurrency), raise its capacity, or enqueue less",
                    queue=queue,
                )
            self._blocked += 1
            try:
                self._refusing or self._room.wait(min(left, ROOM_EVERY))
            finally:
                self._blocked -= 1
            if self._refusing:
                raise BackendClosedError(
                    f"the backend was shut down while enqueue waited for room in queue {queue!r}", queue=queue
                )

    def _make_room_known(self) -> None:
        if self._blocked:
            with self._room:
                self._room.notify_all()

    def _add(self, jobs: Sequence[Job], token: bytes, room: dict[str, int]) -> list[Job]:
        parts = list(_parts(jobs))
        with self._adding:
            if len(parts) == 1:
                part = parts[0]
                self._add_part(part, token, room.get(part.queue), 0)
            else:
                self._add_parts(parts, token, room)
        for queue in {part.queue for part in parts}:
            self._stir(queue)
            self._notify(queue, "ready")
        return [job for _, job in sorted(pair for part in parts for pair in part.added())]

    def _add_parts(self, parts: list[_Part], token: bytes, room: dict[str, int]) -> None:
        """Several scripts: look first whether each of them can, then add; it is atomic for each."""
        if room or any(job.on_duplicate == "raise" for part in parts for job in part.jobs):
            _refuse_twins(parts)
            for part in parts:
                self._add_part(part, b"", room.get(part.queue), 0, look=True)
        done = 0
        for number, part in enumerate(parts):
            try:
                self._add_part(part, token, None, number)
            except BackendError as error:
                if done:
                    error.args = (
                        f"{error}; of {sum(len(p.jobs) for p in parts):,} jobs the first {done:,} were "
                        "added, by queue and in parts of 500",
                    )
                raise
            done += len(part.jobs)

    def _add_part(
        self,
        part: _Part,
        token: bytes,
        room: int | None,
        place: int,
        *,
        look: bool = False,
        cron: Any = ("", ""),
    ) -> None:
        keys = self._keys(part.queue)
        number = self._number(part.queue)
        script = self._scripts.add
        names = keys.keys(script.keys)
        if place:  # each part of a batch remembers its own token
            at = script.keys.index("last")
            names = [*names[:at], names[at] + b".%d" % place, *names[at + 1 :]]
        arguments: list[Any] = ["" if not token else token, "" if room is None else room, int(look)]
        arguments += [self._channel, keys.name, self._calls, *cron]
        for job in part.jobs:
            arguments += arguments_of(job, skip=cron[0] != "")
        reply = self._redis.call_and_wait(script, names, arguments)
        self._read_added(part, reply, number)

    def _read_added(self, part: _Part, reply: list[Any], number: int) -> None:
        what = reply[0]
        if what == b"added":
            first = int(reply[1])
            for at, job in enumerate(part.jobs):
                job.id = job_id(first + at, number)
            if len(reply) > 2:
                holders = {reply[at]: int(reply[at + 1]) for at in range(2, len(reply), 2)}
                self._meet(part, holders, number)
        elif what == b"again":
            ids = [mark.rstrip(b"!") for mark in reply[1].split()]
            duplicates = {
                at: int(mark[:-1]) for at, mark in enumerate(reply[1].split()) if mark.endswith(b"!")
            }
            known = {job.id: job for job in self._look(part.queue, [int(text) for text in ids])}
            for at, text in enumerate(ids):
                found = known.get(job_id(int(text), number))
                part.jobs[at] = found if found is not None else part.jobs[at]
            self._meet(part, duplicates, number)
        elif what == b"full":
            raise _NoRoom(part.queue)
        elif what == b"taken":
            raise self._taken(part, reply[1], int(reply[2]), number)
        part.reply = what

    def _meet(self, part: _Part, holders: dict[int, int], number: int) -> None:
        """Put the jobs that hold the fingerprints in the places of the duplicates."""
        found = {job.id: job for job in self._look(part.queue, list(set(holders.values())))}
        for place, at in holders.items():
            holder = found.get(job_id(at, number))
            if holder is not None:  # else it has ended and was forgotten meanwhile
                part.jobs[place] = holder = holder._copy()
                holder.duplicate = True
            else:
                part.jobs[place] = part.jobs[place]._copy()
                part.jobs[place].id, part.jobs[place].duplicate = job_id(at, number), True

    def _taken(self, part: _Part, place: int, holder: int, number: int) -> DuplicateJobError:
        if holder < 0:
            return _duplicate(part.jobs[-holder - 1])
        found = self._look(part.queue, [holder])
        if found:
            return _duplicate(found[0])
        ended = part.jobs[place]._copy()
        ended.id = job_id(holder, number)
        return _duplicate(ended)

    # -- cron -------------------------------------------------------------------------------------------

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job in one script; capacity does not hold it back."""
        if self._crons.get(cron) != job.queue:
            self._redis.command("HSET", global_key(self.config.prefix, "crons"), cron, job.queue)
            self._crons[cron] = job.queue
        part = _Part(job.queue, [0], [job])
        self._add_part(part, b"", None, 0, cron=(cron, repr(tick.timestamp())))
        if part.reply == b"known":
            return Tick.EXISTS
        if part.jobs[0].duplicate:
            return Tick.SKIPPED
        self._stir(job.queue)
        self._notify(job.queue, "ready")
        return Tick.NEW

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        queue = self._redis.command("HGET", global_key(self.config.prefix, "crons"), cron)
        if queue is None:
            return None
        tick = self._redis.command("HGET", self._keys(queue.decode()).key("ticks"), cron)
        return None if tick is None else to_datetime(float(tick))

    # -- wakes ------------------------------------------------------------------------------------------

    def _stir(self, queue: str) -> None:
        """Something has changed in a queue: look at it again."""
        self._stirs[queue] = self._stirs.get(queue, 0) + 1
        self._quiet.pop(queue, None)

    def _called(self, queue: str) -> None:
        """The server calls: there is work in a queue, or (without one) a job of ours was cancelled."""
        if queue:
            self._stir(queue)
            self._notify(queue, "ready")
        else:
            self._notify("", "cancel")

    def _stir_all(self) -> None:
        """Calls may have been missed, also by a claim that is under way: it asked for none."""
        for queue in list(self._claims_from):
            self._stir(queue)
        self._notify("", "ready")

    def _is_quiet(self, queue: str) -> bool:
        quiet = self._quiet.get(queue)
        if quiet is None:
            return False
        now = _time.monotonic()
        if quiet.due is not None and quiet.due <= self._server_time():
            return False
        return now - quiet.looked_at < LOOK_EVERY * self.config.job_check_interval

    def _server_time(self) -> float:
        return _time.time() + self._clock_ahead

    # -- claim ------------------------------------------------------------------------------------------

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first; queues that are known to hold none are not asked for a while."""
        self._regain_lost()
        asked = [
            one
            for one in demand
            if one.limit > 0 and (one.kinds is not None or not self._is_quiet(one.queue))
        ]
        dues = [
            quiet.due
            for one in demand
            if one not in asked
            and (quiet := self._quiet.get(one.queue)) is not None
            and quiet.due is not None
        ]
        jobs: list[Job] = []
        if asked:
            self._enlist(one.queue for one in asked)
            jobs = self._claim(asked, dues)
        now = self._server_time()
        due = to_datetime(min(dues)) if dues else None
        if jobs:
            self._make_room_known()
        return Claimed(jobs, due, to_datetime(now))  # type: ignore[arg-type]

    def _claim(self, demands: list[Demand], dues: list[float]) -> list[Job]:
        token = self._new_lease()
        stirs = [self._stirs.get(one.queue, 0) for one in demands]
        hears = int(self._wakes.hears)
        calls = [
            self._call_of(
                self._scripts.claim,
                one.queue,
                [
                    *(min(one.limit, MAX_BATCH), token, self._worker, int(self.config.lease * 1e6)),
                    *(
                        self._channel,
                        self._keys(one.queue).name,
                        self._calls,
                        hears,
                        *sorted(one.kinds or ()),
                    ),
                ],
            )
            for one in demands
        ]
        before = _time.time()
        try:
            replies = (
                [self._redis.call(*calls[0], again=False)] if len(calls) == 1 else self._claim_all(calls)
            )
        except BackendUnavailable:
            self._lost_claims += [(one.queue, token) for one in demands]
            raise
        jobs: list[Job] = []
        for one, reply, stir in zip(demands, replies, stirs, strict=True):
            jobs += self._read_claimed(one, reply, stir, token, before, dues)
        return jobs

    def _claim_all(self, calls: list[Call]) -> list[Any]:
        return self._redis.call_many(calls)

    def _read_claimed(
        self, demand: Demand, reply: list[Any], stir: int, token: int, before: float, dues: list[float]
    ) -> list[Job]:
        now, due = float(reply[0]), float(reply[1])
        self._clock_ahead = (
            now - before if abs(now - before - self._clock_ahead) > 0.001 else self._clock_ahead
        )
        ids, records, lives, payloads = reply[2:]
        if due >= 0:
            dues.append(due)
        full = len(ids) >= min(demand.limit, MAX_BATCH) or 0 <= due <= now
        if not full and demand.kinds is None and self._stirs.get(demand.queue, 0) == stir:
            self._quiet[demand.queue] = Quiet(due if due >= 0 else None, _time.monotonic())
        if not ids:
            return []
        number, queue, worker = self._number(demand.queue), demand.queue, self._worker
        jobs = []
        for at, stored in enumerate(ids):
            record = records[at]
            if record is None:  # somebody has deleted it by hand
                continue
            job = job_of(
                job_id(int(stored), number), queue, record, lives[at], payloads[at] if payloads else None
            )
            job.status = Status.RUNNING
            job.worker = worker
            job._token = token
            job._progress = None
            job._waits = False
            jobs.append(job)
        return jobs

    def _new_lease(self) -> int:
        """A token that no claim has had: below 2**53, which is all that Lua counts to."""
        with self._token_lock:
            self._tokens += 1
            return self._tokens

    def _regain_lost(self) -> None:
        """Give back what was claimed for us by a call whose reply was lost."""
        while self._lost_claims:
            queue, token = self._lost_claims[0]
            outcomes = []
            for stored, run in self._scan(self._keys(queue).key("runs"), f"*:{self._worker}"):
                if run.startswith(b"%d:" % token):
                    lease = Lease(job_id(int(stored), self._number(queue)), queue, token)
                    outcomes.append(Outcome(lease, Status.PENDING))
            if outcomes:
                self.settle(outcomes)
            self._lost_claims.pop(0)

    def _scan(self, key: bytes, match: str) -> Iterator[tuple[bytes, bytes]]:
        """The fields of a hash whose values match, read in steps; a pattern of HSCAN is for fields only."""
        cursor: Any = 0
        end = match.removeprefix("*").encode()
        while True:
            cursor, page = self._redis.command("HSCAN", key, cursor, "COUNT", 500)
            pairs = page.items() if isinstance(page, dict) else zip(page[::2], page[1::2], strict=True)
            yield from ((field, value) for field, value in pairs if value.endswith(end))
            if not int(cursor):
                return

    # -- settle -----------------------------------------------------------------------------------------

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record how attempts ended: each queue's in scripts of at most 500."""
        if transaction is not None:
            raise _no_transactions("job.complete")
        calls, ids = [], []
        for script, queue, batch in self._batches(outcomes):
            header, body = self._settling(script, queue, batch)
            calls.append(self._call_of(script, queue, [*header, *body]))
            ids.append({b"%d" % stored_at(one.lease.job_id): one.lease.job_id for one in batch})
        stale = self._strangers(outcomes)
        try:
            replies = self._redis.call_many(calls) if calls else []
        except BackendUnavailable:
            self._unsure = True
            raise
        self._unsure = False
        for reply, known in zip(replies, ids, strict=True):
            stale |= {known[stored] for stored in reply}
        self._follow(outcomes, stale)
        for queue in {one.lease.queue for one in outcomes if one.status not in FINISHED}:
            self._stir(queue)
            self._notify(queue, "ready")
        return stale

    def _batches(self, outcomes: Sequence[Outcome]) -> Iterator[tuple[Script, str, list[Outcome]]]:
        scripts = self._scripts
        sorted_out: dict[tuple[Script, str], list[Outcome]] = {}
        for outcome in outcomes:
            script = scripts.finish if outcome.status is Status.SUCCEEDED else scripts.settle
            sorted_out.setdefault((script, outcome.lease.queue), []).append(outcome)
        for (script, queue), batch in sorted_out.items():
            ours = [one for one in batch if not self._is_strange(one.lease)]
            for start in range(0, len(ours), MAX_BATCH):
                yield script, queue, ours[start : start + MAX_BATCH]

    def _is_strange(self, lease: Lease) -> bool:
        """Whether no job of this queue can have that id, or nobody that token."""
        return lease.token <= 0 or number_of(lease.job_id) != number_of(self._number(lease.queue))

    def _strangers(self, outcomes: Sequence[Outcome]) -> set[int]:
        return {one.lease.job_id for one in outcomes if self._is_strange(one.lease)}

    def _settling(self, script: Script, queue: str, batch: list[Outcome]) -> tuple[list[Any], list[Any]]:
        again = int(self._unsure)
        body: list[Any] = []
        if script is self._scripts.finish:
            for one in batch:
                lease = one.lease
                body += (lease.job_id >> 11, b"%d:" % lease.token, success_of(one), one.result or b"")
            return [int(self.config.retention != 0), again], body
        now = self._server_time()
        for one in batch:
            lease = one.lease
            body += (stored_at(lease.job_id), b"%d:" % lease.token, change_of(one, now), one.result or b"")
        return [again, self._channel, self._keys(queue).name, self._calls], body

    def _follow(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Add the jobs that follow outcomes which were recorded now."""
        for outcome in outcomes:
            if outcome.follow and outcome.lease.job_id not in stale:
                self.add(list(outcome.follow), token=b"follow %d %d" % outcome.lease[:3:2])

    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases; tell which are lost, and whose job was cancelled."""
        self._touch()
        strange = {lease.job_id for lease in leases if self._is_strange(lease)}
        lost, cancelled = set(strange), set[int]()
        by_queue: dict[str, list[Lease]] = {}
        for lease in leases:
            if lease.job_id not in strange:
                by_queue.setdefault(lease.queue, []).append(lease)
        calls = []
        for queue, all_of_queue in by_queue.items():
            for start in range(0, len(all_of_queue), MAX_BATCH):
                arguments: list[Any] = [int(self.config.lease * 1e6)]
                for lease in all_of_queue[start : start + MAX_BATCH]:
                    progress = "" if lease.progress is None else progress_of(lease.progress)
                    arguments += (stored_at(lease.job_id), b"%d:" % lease.token, progress)
                calls.append((queue, self._call_of(self._scripts.extend, queue, arguments)))
        replies = self._redis.call_many([call for _, call in calls]) if calls else []
        for (queue, _), reply in zip(calls, replies, strict=True):
            number = self._number(queue)
            lost |= {job_id(int(stored), number) for stored in reply[0]}
            cancelled |= {job_id(int(stored), number) for stored in reply[1]}
        return Extended(lost, cancelled)

    # -- workers ----------------------------------------------------------------------------------------

    def beat(self, worker: WorkerInfo) -> None:
        """Say that this process is alive, and begin to hear the server's calls."""
        if worker.id == self._worker:
            self._info = worker
            if self.engine.running:
                self._wakes.start()
        self._tell_of(worker)

    def _tell_of(self, worker: WorkerInfo) -> None:
        told = orjson.dumps(
            {
                "host": worker.host,
                "pid": worker.pid,
                "began": worker.started_at.timestamp(),
                "queues": worker.queues,
                "running": worker.running,
                "heartbeat": self.config.heartbeat,
                "lease": self.config.lease,
                "claims": sorted(self._claims_from) if worker.id == self._worker else [],
            }
        )
        key = global_key(self.config.prefix, "workers")
        self._redis.call(self._scripts.beat, [key], [worker.id, told])
        if worker.id == self._worker:
            self._told, self._touched = told, _time.monotonic()

    def _touch(self) -> None:
        """Be alive in the eyes of others, without news."""
        if self._told and _time.monotonic() - self._touched > self.config.heartbeat / 2:
            key = global_key(self.config.prefix, "workers")
            self._redis.call(self._scripts.beat, [key], [self._worker, self._told])
            self._touched = _time.monotonic()

    def _enlist(self, queues: Iterable[str]) -> None:
        """Before the first claim from a queue, say that there may be leases of ours: others look there."""
        new = set(queues) - self._claims_from
        if new:
            self._claims_from |= new
            self._tell_of(self._info or self.engine.worker_info())

    def _known_workers(self) -> dict[str, tuple[float, dict[str, Any]]]:
        found = self._redis.command("HGETALL", global_key(self.config.prefix, "workers"))
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        known = {}
        for name, value in pairs:
            beat, _, told = value.partition(b" ")
            known[name.decode()] = float(beat), orjson.loads(told)
        return known

    def workers(self) -> list[WorkerInfo]:
        """The processes that listen and are alive."""
        now = self._redis_time()
        return sorted(
            (
                WorkerInfo(
                    *(name, told["host"], told["pid"], _time_of(told["began"]), _time_of(beat)),
                    *(tuple(told["queues"]), told["running"]),
                )
                for name, (beat, told) in self._known_workers().items()
                if now - beat <= told["lease"]
            ),
            key=lambda worker: (worker.started_at, worker.id),
        )

    def _redis_time(self) -> float:
        if self._redis.cluster:
            return self._server_time()
        seconds, micros = self._redis.command("TIME")
        return int(seconds) + int(micros) / 1e6

    # -- reclaim ----------------------------------------------------------------------------------------

    def reclaim(self) -> Reclaimed:
        """Take the jobs of workers that have died.

        A worker has died when it was silent for as long as its lease, or for two heartbeats while the server
        sees no connection of its. Who has just come back, perhaps with everybody, judges nobody yet.
        """
        reclaimed = Reclaimed([], [])
        steady_since = max(self._opened_at, self._redis.broke_at)
        if _time.monotonic() - steady_since < STEADY_AFTER * self.config.heartbeat:
            return reclaimed
        for worker, told in self._dead_workers():
            for queue in told["claims"]:
                runs = list(self._scan(self._keys(queue).key("runs"), f"*:{worker}"))
                self._take_back(queue, runs, reclaimed)
            self._redis.command("HDEL", global_key(self.config.prefix, "workers"), worker)
        if _time.monotonic() - self._swept > SWEEP_EVERY:
            self._swept = _time.monotonic()
            self._sweep(reclaimed)
        for queue in {job.queue for job in reclaimed.returned}:
            self._stir(queue)
            self._notify(queue, "ready")
        return reclaimed

    def _dead_workers(self) -> list[tuple[str, dict[str, Any]]]:
        others = {name: known for name, known in self._known_workers().items() if name != self._worker}
        if not others:
            return []
        now = self._redis_time()
        silent = {
            name: (now - beat, told)
            for name, (beat, told) in others.items()
            if now - beat > DEAF_AFTER * told["heartbeat"]
        }
        dead = [name for name, (span, told) in silent.items() if span > told["lease"]]
        doubtful = [name for name in silent if name not in dead]
        if doubtful and not self._redis.cluster:  # whose nodes each know only their own connections
            channels = [self._channel + name for name in doubtful]
            reply = self._redis.command("PUBSUB", "NUMSUB", *channels)
            ears = [pair[1] for pair in reply] if reply and isinstance(reply[0], tuple) else reply[1::2]
            dead += [name for name, number in zip(doubtful, ears, strict=True) if not number]
        return [(name, silent[name][1]) for name in dead]

    def _take_back(self, queue: str, runs: list[tuple[bytes, bytes]], reclaimed: Reclaimed) -> None:
        for start in range(0, len(runs), MAX_BATCH):
            arguments: list[Any] = [
                self.config.max_crashes,
                "WorkerDied: %d workers died while they ran it (max_crashes)",
            ]
            arguments += [self._channel, self._keys(queue).name, self._calls]
            for pair in runs[start : start + MAX_BATCH]:
                arguments += pair
            returned, dead = self._redis.call(*self._call_of(self._scripts.reclaim, queue, arguments))
            reclaimed.returned.extend(self._look(queue, [int(stored) for stored in returned]))
            reclaimed.dead.extend(self._look(queue, [int(stored) for stored in dead]))

    def _sweep(self, reclaimed: Reclaimed) -> None:
        """Look for leases that ran out whoever holds them, and for jobs that are nowhere."""
        now = self._redis_time()
        for queue in self._all_queues():
            key = self._keys(queue).key("lease")
            expired = self._redis.command("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, MAX_BATCH)
            if expired:
                self._take_back(queue, [(stored, b"") for stored in expired], reclaimed)
            self._reconcile(queue)

    def _reconcile(self, queue: str) -> None:
        call = self._call_of(
            self._scripts.reconcile, queue, [self._cursors.get(queue, 0), RECONCILED_AT_ONCE]
        )
        self._cursors[queue], found = self._redis.call(*call)
        for stored in found:
            self.config.log.error(
                "job %s of %s was in no list and is ready again: something else writes to our keys",
                job_id(int(stored), self._number(queue)),
                queue,
            )

    # -- prune ------------------------------------------------------------------------------------------

    def prune(self) -> int:
        """Forget finished jobs older than ``retention``, and the oldest beyond max_finished and max_dead."""
        config, pruned = self.config, 0
        queues = self._all_queues()
        if config.retention is not None:
            for queue in queues:
                for what in ("done", "cancelled"):
                    pruned += self._drop_old(queue, what, config.retention)
        if config.max_finished is not None:
            pruned += len(self._drop_excess(queues, ("done", "cancelled"), config.max_finished))
        if config.max_dead is not None:
            for name, queue in self._drop_excess(queues, ("dead",), config.max_dead):
                pruned += 1
                config.log.warning(
                    "dead job %s of %s is dropped: max_dead is %d; look at dead jobs, retry or delete them",
                    *(name, queue, config.max_dead),
                )
        return pruned

    def _drop_old(self, queue: str, what: str, seconds: float) -> int:
        dropped = 0
        call = self._call_of(self._scripts.drop, queue, [what, repr(seconds), MAX_BATCH])
        while number := len(self._redis.call(*call)):
            dropped += number
            if number < MAX_BATCH:
                break
        return dropped

    def _drop_excess(self, queues: list[str], places: tuple[str, ...], limit: int) -> list[tuple[int, str]]:
        """Drop the oldest of all queues until no more than the limit are left."""
        heads = [(queue, place) for queue in queues for place in places]
        counts = self._redis.commands([("ZCARD", self._keys(queue).key(place)) for queue, place in heads])
        dropped: list[tuple[int, str]] = []
        excess = sum(counts) - limit
        while excess > 0:
            firsts = self._redis.commands(
                [("ZRANGE", self._keys(queue).key(place), 0, 0, "WITHSCORES") for queue, place in heads]
            )
            oldest = [
                (float(first[0][1] if isinstance(first[0], tuple) else first[1]), at)
                for at, first in enumerate(firsts)
                if first
            ]
            if not oldest:
                break
            queue, place = heads[min(oldest)[1]]
            number = min(excess, MAX_BATCH) if len(oldest) == 1 else 1
            for stored in self._redis.call(*self._call_of(self._scripts.drop, queue, [place, "", number])):
                dropped.append((job_id(int(stored), self._number(queue)), queue))
            excess -= number
        return dropped

    # -- looking ----------------------------------------------------------------------------------------

    def find(
        self,
        *,
        ids: Iterable[int] | None = None,
        queue: str | None = None,
        status: Status | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[Job]:
        """Snapshots of jobs, newest first."""
        if ids is not None:
            jobs = self._of_ids(list(ids))
            jobs = [
                job
                for job in jobs
                if (queue is None or job.queue == queue)
                and (status is None or job.status is status)
                and (after is None or job.id < after)  # type: ignore[operator]
            ]
        else:
            all_queues = self._all_queues()
            queues = all_queues if queue is None else [queue] if queue in all_queues else []
            jobs = [job for name in queues for job in self._newest(name, status, limit, after)]
        return sorted(jobs, key=lambda job: job.id or 0, reverse=True)[:limit]

    def _of_ids(self, ids: list[int]) -> list[Job]:
        by_number: dict[int, list[int]] = {}
        for one in ids:
            by_number.setdefault(number_of(one), []).append(stored_at(one))
        if not by_number:
            return []
        if not by_number.keys() <= {number_of(number) for number in self._numbers.values()}:
            self._all_queues()
        found: list[Job] = []
        for queue, number in list(self._numbers.items()):
            found += self._look(queue, by_number.get(number_of(number), []))
        return found

    def _look(self, queue: str, stored: list[int]) -> list[Job]:
        """Snapshots of the jobs of a queue that exist."""
        jobs: list[Job] = []
        for start in range(0, len(stored), MAX_BATCH):
            chunk = stored[start : start + MAX_BATCH]
            reply = self._redis.call(*self._call_of(self._scripts.look, queue, chunk))
            now, number = float(reply[0]), self._number(queue)
            for at, record in enumerate(reply[1]):
                if record is not None:
                    job = _snapshot(job_id(chunk[at], number), queue, [part[at] for part in reply[1:]])
                    job._waits = not job.finished and job._run_after > now  # type: ignore[operator]
                    jobs.append(job)
        return jobs

    def _newest(self, queue: str, status: Status | None, limit: int, after: int | None) -> list[Job]:
        below = None if after is None else _stored_below(after, self._number(queue))
        members = None if status is None else self._few_of(queue, status)
        if members is not None:
            wanted = sorted((one for one in members if below is None or one < below), reverse=True)
            return list(self._matching(queue, _chunks(wanted), status, limit))
        return list(self._matching(queue, self._downwards(queue, below, limit), status, limit))

    def _matching(
        self, queue: str, chunks: Iterable[list[int]], status: Status | None, limit: int
    ) -> Iterator[Job]:
        left = limit
        for chunk in chunks:
            for job in self._look(queue, chunk):
                if status is None or job.status is status:
                    yield job
                    left -= 1
                    if not left:
                        return

    def _few_of(self, queue: str, status: Status) -> list[int] | None:
        """The jobs that may have a status, where they are few enough to read them all."""
        keys = self._keys(queue)
        places = _PLACES[status]
        if sum(self._redis.commands([("ZCARD", keys.key(place)) for place in places])) > FEW:
            return None
        members = self._redis.commands([("ZRANGE", keys.key(place), 0, -1) for place in places])
        return [
            int(member[3:] if place in {"wait", "retry"} else member)
            for place, found in zip(places, members, strict=True)
            for member in found
        ]

    def _downwards(self, queue: str, below: int | None, limit: int) -> Iterator[list[int]]:
        key, step = self._keys(queue).key("ids"), min(limit, MAX_BATCH)
        start: Any = "+inf" if below is None else f"({below}"
        while page := self._redis.command("ZREVRANGEBYSCORE", key, start, "-inf", "LIMIT", 0, step):
            yield [int(member) for member in page]
            start, step = f"({page[-1].decode()}", MAX_BATCH

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        queues = self._all_queues()
        calls = [self._call_of(self._scripts.counts, queue, ()) for queue in queues]
        replies = self._redis.call_many(calls) if calls else []
        return [
            QueueCounts(queue, *reply[:7], paused=bool(reply[7]))
            for queue, reply in zip(queues, replies, strict=True)
        ]

    # -- operating --------------------------------------------------------------------------------------

    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        done, running, queues = set[int](), set[int](), set[str]()
        by_queue: dict[str, list[int]] = {}
        for job in self._of_ids(list(job_ids)):
            by_queue.setdefault(job.queue, []).append(stored_at(job.id))  # type: ignore[arg-type]
        for queue, ids in by_queue.items():
            number = self._number(queue)
            for start in range(0, len(ids), MAX_BATCH):
                arguments = [
                    action,
                    self._channel,
                    self._keys(queue).name,
                    self._calls,
                    *ids[start : start + MAX_BATCH],
                ]
                reply = self._redis.call(*self._call_of(self._scripts.change, queue, arguments))
                if reply[0] == b"taken":
                    raise _duplicate(self._look(queue, [int(reply[2])])[0])
                done |= {job_id(int(stored), number) for stored in reply[0]}
                running |= {job_id(int(stored), number) for stored in reply[1]}
                if reply[0]:
                    queues.add(queue)
        self._make_room_known()
        for queue in queues:
            self._stir(queue)
            self._notify(queue, "ready")
        return Changed(frozenset(done), frozenset(running), frozenset(queues))

    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        self._number(queue)
        keys = self._keys(queue)
        if paused:
            self._redis.command("SET", keys.key("paused"), 1)
        else:
            _, idle = self._redis.commands(
                [("DEL", keys.key("paused")), ("SPOP", keys.key("idle"), MORE_CALLS)]
            )
            if idle and not self._redis.cluster:
                self._redis.commands([("PUBLISH", self._channel + name.decode(), queue) for name in idle])
        self._stir(queue)
        self._notify(queue, "pause" if paused else "ready")


_PLACES = {
    Status.PENDING: ("ready", "wait", "retry"),
    Status.RETRYING: ("ready", "wait", "retry"),
    Status.RUNNING: ("lease",),
    Status.SUCCEEDED: ("done",),
    Status.DEAD: ("dead",),
    Status.CANCELLED: ("cancelled",),
}


class _NoRoom(Exception):
    """A queue holds as many ready jobs as it may."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue


class _Part:
    """The jobs of one queue in a batch that go into one script, and their places in the batch."""

    def __init__(self, queue: str, places: list[int], jobs: list[Job]) -> None:
        self.queue = queue
        self.places = places
        self.jobs = jobs
        self.reply = b""

    def added(self) -> Iterator[tuple[int, Job]]:
        """The jobs as they are stored now, with their places."""
        return zip(self.places, self.jobs, strict=True)


def _parts(jobs: Sequence[Job]) -> Iterator[_Part]:
    by_queue: dict[str, _Part] = {}
    seen: set[int] = set()
    for place, job in enumerate(jobs):
        part = by_queue.setdefault(job.queue, _Part(job.queue, [], []))
        part.places.append(place)
        part.jobs.append(job._copy() if id(job) in seen else job)  # one Job object may be in a batch twice
        seen.add(id(job))
    for part in by_queue.values():
        for start in range(0, len(part.jobs), MAX_BATCH):
            end = start + MAX_BATCH
            yield _Part(part.queue, part.places[start:end], part.jobs[start:end])


def _refuse_twins(parts: list[_Part]) -> None:
    """An on_duplicate="raise" that equals an earlier job of its batch aborts all of it."""
    seen: dict[tuple[str, str], Job] = {}
    for part in parts:
        for job in part.jobs:
            if job.unique:
                first = seen.setdefault((job.queue, job.fingerprint), job)
                if first is not job and job.on_duplicate == "raise":
                    raise _duplicate(first)


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    return (ids[start : start + MAX_BATCH] for start in range(0, len(ids), MAX_BATCH))


def _stored_below(after: int, number: int) -> int:
    """The microsecond below which a queue's jobs have smaller ids than this one."""
    return stored_at(after) + (number_of(number) < number_of(after))


def _snapshot(name: int, queue: str, parts: list[Any]) -> Job:
    record, life, run, payload, result, progress, cancelled = parts
    job = job_of(name, queue, record, life, payload)
    if result is not None:
        job._result = result
    if run is not None:
        read_run(job, run)
        job._finished_at = None
        job._progress = None
    if progress is not None:
        told = orjson.loads(progress)
        job._progress = (float(told["pf"]), told["pt"])
    job._cancel = bool(cancelled)
    return job


def _duplicate(holder: Job) -> DuplicateJobError:
    return DuplicateJobError(
        f"job {holder.id} of {holder.queue!r} has that fingerprint and is {holder.status.name}", job=holder
    )


def _no_transactions(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} cannot join a transaction: Redis shares none with your database. Enqueue after the commit "
        "(jobs are unique by fingerprint, so a repeated enqueue adds none), or keep jobs in that database "
        "(postgresql://, sqlite:///)"
    )


def _time_of(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)
