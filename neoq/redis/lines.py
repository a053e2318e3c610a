"""Limits of queues, and the lines that the jobs of a key form, in a Redis server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from neoq.held.limits import Limits, Line, LineState, Rate
from neoq.job import Job
from neoq.record import Status
from neoq.redis.find import Finder
from neoq.redis.mending import mending
from neoq.redis.queues import RedisQueues, pairs_of

LOOKED_AT_ONCE = 50  # jobs or lines of one script
FORMED_AT_ONCE = 100  # ready jobs that one script puts in their lines: a millisecond or two
FIRST_FORMED = 2000  # ready jobs that are in their lines when their limits were set
MOST_TURNS = 5000  # jobs that have their turn, which a look at the lines of a queue reads
_STATES: dict[Status, LineState] = {
    Status.RUNNING: "running",
    Status.RETRYING: "retrying",
    Status.DEAD: "dead",
}


class Lines:
    """Sets limits, and looks at lines."""

    def __init__(
        self, queues: RedisQueues, finder: Finder, tell_ready: Callable[[Iterable[str]], None]
    ) -> None:
        self._queues = queues
        self._finder = finder
        self._tell_ready = tell_ready

    def limit(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue; return those that a listener has set before, if they were others."""
        self._queues.known(queue)
        script = self._queues.scripts.limit
        # Those of an operator that are none are some, too: they override others.
        text = b"" if limits is None or (by_listener and limits == Limits()) else _text_of(limits)
        arguments = script.arguments(by="listener" if by_listener else "operator", text=text)
        before, changed = self._queues.call(script, queue, arguments)
        if changed:
            self._form(queue)
            self._tell_ready([queue])
            wake = self._queues.scripts.call
            self._queues.call(wake, queue, wake.arguments(**self._queues.waking(queue)))
        return _limits_in(before) if before and before != text else None

    def _form(self, queue: str) -> None:
        """Put the first ready jobs in their lines, in short steps; claims put there what is left over."""
        script = self._queues.scripts.form_lines
        for _ in range(FIRST_FORMED // FORMED_AT_ONCE):
            if not self._queues.call(script, queue, script.arguments(most=FORMED_AT_ONCE)):
                return

    def limits(self) -> dict[str, Limits]:
        """The limits that hold now."""
        queues = self._queues.all()
        commands = [
            ("HMGET", self._queues.keys(queue).key("limits"), "operator", "listener") for queue in queues
        ]
        found = self._queues.redis.commands(commands)
        held = {
            queue: _limits_in(texts[0] or texts[1] or b"") for queue, texts in zip(queues, found, strict=True)
        }
        return {queue: limits for queue, limits in held.items() if limits is not None}

    def lines(self, queue: str, limit: int) -> list[Line]:
        """The lines of a queue in which a job waits or that stand still: those that stand still first."""
        turns = self._turns(queue)
        heads: dict[str, Job] = {}
        for job in self._finder.snapshots(queue, list(turns)):
            key = turns[job.id]
            if key not in heads or job.status is Status.DEAD:
                heads[key] = job
        waiting = self._waiting(queue, limit)
        lines = [
            Line(
                queue,
                key,
                "waiting" if head is None else _STATES.get(head.status, "waiting"),
                None if head is None else head.id,
                waiting.get(key, 0),
            )
            for key in {*heads, *waiting}
            for head in [heads.get(key)]
            if key in waiting or (head is not None and head.status in {Status.DEAD, Status.RETRYING})
        ]
        lines.sort(key=lambda line: (line.state != "dead", line.state != "retrying", -line.waiting, line.key))
        return lines[:limit]

    def _turns(self, queue: str) -> dict[int, str]:
        """The jobs that have their turn, and their keys."""
        key, cursor = self._queues.keys(queue).key("turn"), 0
        turns: dict[int, str] = {}
        while len(turns) < MOST_TURNS:
            reply = self._queues.redis.command("HSCAN", key, cursor, "COUNT", 500)
            cursor = int(reply[0])
            turns.update((int(name), of.decode()) for name, of in pairs_of(reply[1]) if name.isdigit())
            if not cursor:
                break
        return turns

    def _waiting(self, queue: str, limit: int) -> dict[str, int]:
        """How many jobs wait in each line."""
        script, after = self._queues.scripts.lines, b""
        waiting: dict[str, int] = {}
        while len(waiting) < limit:
            most = min(LOOKED_AT_ONCE, limit - len(waiting))
            after, *found = self._queues.call(script, queue, script.arguments(after=after, most=most))
            waiting.update((key.decode(), int(n)) for key, n in zip(found[::2], found[1::2], strict=True))
            if not after:
                break
        return waiting


class LimitingStore:
    """The part of RedisStore for limits and lines."""

    _lines: Lines

    @mending
    def limit(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue; return those that a listener has set before, if they were others."""
        return self._lines.limit(queue, limits, by_listener=by_listener)

    @mending
    def limits(self) -> Mapping[str, Limits]:
        """The limits that hold now, of each queue that has any."""
        return self._lines.limits()

    @mending
    def lines(self, queue: str, *, limit: int = 1000) -> list[Line]:
        """The lines of a queue in which a job waits or that stand still: those that stand still first."""
        return self._lines.lines(queue, limit)


def _text_of(limits: Limits) -> bytes:
    """Limits as ``lua/limit.lua`` takes them: times in microseconds, what is none left out."""
    rate, of_key = limits.rate, limits.rate_per_key
    told: dict[str, Any] = {
        "by_key": int(limits.by_key) or None,
        "ordered": int(limits.ordered) or None,
        "hold_dead": int(limits.hold_dead) or None,
        "slots": limits.slots,
        "max_running": limits.max_running,
        "spacing": rate and rate.spacing * 1e6,
        "tolerance": rate and rate.tolerance * 1e6,
        "key_spacing": of_key and of_key.spacing * 1e6,
        "key_tolerance": of_key and of_key.tolerance * 1e6,
        "aging": limits.aging,
    }
    of = {
        name: [value.n, value.per, value.burst] if isinstance(value, Rate) else value
        for name, value in zip(Limits.__annotations__, limits, strict=True)
    }
    return orjson.dumps({name: value for name, value in told.items() if value is not None} | {"of": of})


def _limits_in(text: bytes) -> Limits | None:
    """Limits as they were written; None where there are none, or where another hand has written."""
    try:
        of = orjson.loads(text)["of"]
        for name in ("rate", "rate_per_key"):
            if of[name] is not None:
                of[name] = Rate(*of[name])
        return Limits(**of)
    except (ValueError, LookupError, TypeError):
        return None
