"""The workers of a Redis server: their heartbeats, and which of them have died."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from neoq.clock import machine
from neoq.redis.keys import global_key
from neoq.redis.queues import RedisQueues, pairs_of
from neoq.store import WorkerInfo
from neoq.stored import Unreadable, kinds_in, report_of, reported, restricted, shown
from neoq.times import within_calendar

if TYPE_CHECKING:
    from neoq.config import Config

DEAF_AFTER = 2.0  # heartbeats missed until a worker without a subscription is dead
STEADY_AFTER = 3.0  # heartbeats of contact before this process judges which workers are dead


class Workers:
    """The workers that the server knows; this process is one of them."""

    def __init__(
        self, queues: RedisQueues, config: Config, worker: str, info: Callable[[], WorkerInfo]
    ) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._config = config
        self._worker = worker
        self._info = info
        self._key = global_key(queues.prefix, "workers")
        self._told = b""
        self._touched = 0.0
        self._opened_at = machine.monotonic()
        self._told_of: dict[str, bytes] = {}  # records that could not be read, once each
        self.claims_from: set[str] = set()
        self._idlers: dict[tuple[str, frozenset[str] | None], bytes] = {}

    # -- this process -----------------------------------------------------------------------------------

    def beat(self, worker: WorkerInfo) -> None:
        """Record that a worker is alive."""
        ours = worker.id == self._worker
        told = orjson.dumps(
            {
                "host": worker.host,
                "pid": worker.pid,
                "began": worker.started_at.timestamp(),
                "queues": worker.queues,
                "running": worker.running,
                "kinds": restricted(worker),
                "version": worker.version,
                "report": orjson.Fragment(report_of(worker)),
                "heartbeat": self._config.heartbeat,
                "lease": self._config.lease,
                "claims": sorted(self.claims_from) if ours else [],
            }
        )
        self._say(worker.id, told)
        if ours:
            self._told, self._touched = told, machine.monotonic()

    def touch(self) -> None:
        """Repeat the last heartbeat of this worker, if it is older than half an interval."""
        if self._told and machine.monotonic() - self._touched > self._config.heartbeat / 2:
            self._say(self._worker, self._told)
            self._touched = machine.monotonic()

    def enlist(self, queues: Iterable[str]) -> None:
        """Record, before the first claim from a queue, that this worker may have leases there.

        If this worker dies, the others take its jobs from those queues.
        """
        new = set(queues) - self.claims_from
        if new:
            self.claims_from |= new
            self.beat(self._info())

    def idler(self, queue: str, kinds: frozenset[str] | None) -> bytes:
        """The name of this worker among those that are idle at a queue; it begins with its group."""
        try:
            return self._idlers[queue, kinds]
        except KeyError:
            name = f"{_group_of(kinds)}:{self._worker}".encode()
            return self._idlers.setdefault((queue, kinds), name)

    def leave(self) -> None:
        """Remove this worker from the server."""
        if self._told:
            idle = [
                ("ZREM", self._queues.keys(queue).key("idle"), idler)
                for (queue, _), idler in list(self._idlers.items())
            ]
            self._redis.commands([("HDEL", self._key, self._worker), *idle])

    def _say(self, worker: str, told: bytes) -> None:
        said = b"%.6f %b" % (self._queues.time(), told)
        script = self._queues.scripts.beat
        self._redis.call(script, [self._key], script.arguments(worker=worker, report=said))

    # -- all of them ------------------------------------------------------------------------------------

    def alive(self) -> list[WorkerInfo]:
        """The processes that listen and are alive."""
        known = self._known()
        now = self._queues.ask_time()
        infos = [
            reported(
                WorkerInfo(
                    *(name, told["host"], told["pid"], _time_of(told["began"]), _time_of(beat)),
                    *(tuple(told["queues"]), told["running"]),
                    *(kinds_in(told.get("kinds"), told["queues"]), _text_in(told.get("version"))),
                ),
                told.get("report"),
            )
            for name, (beat, told) in known.items()
            if now - beat <= told["lease"]
        ]
        return sorted(infos, key=lambda worker: (worker.started_at, worker.id))

    def dead(self) -> list[tuple[str, list[str]]]:
        """The workers that have died, and the queues that they claimed from.

        A worker has died if it sent no heartbeat for as long as its lease, or for two heartbeats while the
        server has no subscription of it. A process that has just reconnected judges no worker yet: all of
        them may have been cut off.
        """
        steady_since = max(self._opened_at, self._redis.broke_at)
        if machine.monotonic() - steady_since < STEADY_AFTER * self._config.heartbeat:
            return []
        others = {name: known for name, known in self._known().items() if name != self._worker}
        if not others:
            return []
        now = self._queues.ask_time()
        silent = {
            name: (now - beat, told)
            for name, (beat, told) in others.items()
            if now - beat > DEAF_AFTER * told["heartbeat"]
        }
        dead = [name for name, (span, told) in silent.items() if span > told["lease"]]
        dead += self._deaf([name for name in silent if name not in dead])
        return [(name, silent[name][1]["claims"]) for name in dead]

    def forget(self, worker: str) -> None:
        """Remove a dead worker whose jobs were taken back."""
        self._redis.command("HDEL", self._key, worker)

    def _deaf(self, workers: list[str]) -> list[str]:
        """The workers without a subscription; none in a cluster, whose nodes know only their own clients."""
        if not workers or self._redis.cluster:
            return []
        reply = self._redis.command("PUBSUB", "NUMSUB", *[self._queues.channel + name for name in workers])
        ears = [pair[1] for pair in reply] if isinstance(reply[0], tuple) else reply[1::2]
        return [name for name, number in zip(workers, ears, strict=True) if not number]

    def _known(self) -> dict[str, tuple[float, dict[str, Any]]]:
        known = {}
        for name, value in pairs_of(self._redis.command("HGETALL", self._key)):
            worker = name.decode(errors="replace")
            try:
                known[worker] = _record_in(value)
            except (ValueError, LookupError, TypeError):
                self._tell_of(worker, value)
        return known

    def _tell_of(self, worker: str, value: bytes) -> None:
        """Log once that the record of a worker cannot be read; its jobs return when their leases expire."""
        said = value.partition(b" ")[2] or value
        if self._told_of.get(worker) == said or len(self._told_of) > 1000:
            return
        self._told_of[worker] = said
        self._config.log.warning(
            "the record of worker %s cannot be read, so it is left alone: %s; another version of neoq "
            "wrote it, or another program writes to these keys",
            worker[:60],
            shown(value),
        )


def _record_in(value: bytes) -> tuple[float, dict[str, Any]]:
    """The time of a worker's last heartbeat, and its record; raises if a value is neither."""
    beat, _, text = value.partition(b" ")
    told = orjson.loads(text)
    numbers = {name: told[name] for name in ("began", "heartbeat", "lease")}
    if not all(type(one) in {int, float} for one in numbers.values()) or not math.isfinite(float(beat)):
        raise Unreadable("a number")
    if type(told["host"]) is not str or not all(type(told[name]) is int for name in ("pid", "running")):
        raise Unreadable("what a process is")
    queues = [*_list_in(told["queues"]), *_list_in(told["claims"])]
    if not all(type(queue) is str for queue in queues):
        raise Unreadable("the name of a queue")
    return float(beat), told


def _list_in(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable("a list")
    return value


def _text_in(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _time_of(epoch: float) -> datetime:
    return datetime.fromtimestamp(within_calendar(epoch), UTC)


def _group_of(kinds: frozenset[str] | None) -> str:
    """What those workers have in common that take the same kinds."""
    return "*" if kinds is None else blake2b("\0".join(sorted(kinds)).encode(), digest_size=6).hexdigest()
