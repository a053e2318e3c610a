"""Setting aside keys of a wrong type, which another program has written under our prefix."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from neoq.errors import BackendError
from neoq.redis.keys import global_key
from neoq.redis.queues import RedisQueues

if TYPE_CHECKING:
    from neoq.wording.safe_logger import SafeLogger

_OF_QUEUE = {
    b"hash": (
        "jobs",
        "payloads",
        "life",
        "results",
        "progress",
        "uniq",
        "ticks",
        "steps",
        "out",
        "groups",
        "ends",
        "opener",
        "known",
        "limits",
        "turn",
        "busy",
        "pace",
        "spent",
        "out",
    ),
    b"zset": (
        "ids",
        "ready",
        "wait",
        "retry",
        "lease",
        "done",
        "dead",
        "cancelled",
        "held",
        "lines",
        "paced",
        "tats",
        "took",
        "members",
        "tell",
        "stopped",
        "idle",
    ),
    b"set": ("cancel", "crashed", "halts"),
    b"string": ("seq",),
}
_GLOBAL = {
    b"hash": ("queues", "workers", "crons", "schedules", "tick_jobs", "skips"),
    b"zset": ("audit",),
    b"string": ("numbers", "audit_ids"),
}


def is_wrong_type(error: BackendError) -> bool:
    """Whether a script or command met a key of another type."""
    return "WRONGTYPE" in str(error)


M = TypeVar("M", bound=Callable[..., Any])


def mending(method: M) -> M:
    """A call of the store that sets keys of a wrong type aside, and is made once more then."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except BackendError as error:
            if not is_wrong_type(error):
                raise
            self._mend()  # or another thread or process has done so
        return method(self, *args, **options)

    return call  # type: ignore[return-value]


class Mender:
    """Renames keys of a wrong type, so that the queues continue with the rest."""

    def __init__(self, queues: RedisQueues, log: SafeLogger) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._log = log
        self._lock = threading.Lock()

    def mend(self) -> set[str] | None:
        """Set aside keys of a wrong type; return the queues that had some, or None."""
        with self._lock:
            found = self._aside("", {name: kind for kind, names in _GLOBAL.items() for name in names})
            queues: set[str] = set()
            for queue in sorted({*self._queues.ids, *self._queues.all()}):
                if self._aside(queue, {name: kind for kind, names in _OF_QUEUE.items() for name in names}):
                    queues.add(queue)
            return queues if queues or found else None

    def _aside(self, queue: str, wanted: dict[str, bytes]) -> bool:
        if queue:
            keys = {self._queues.keys(queue).key(name): kind for name, kind in wanted.items()}
        else:
            keys = {global_key(self._queues.prefix, name): kind for name, kind in wanted.items()}
        types = self._redis.commands([("TYPE", key) for key in keys])
        wrong = [
            (key, kind)
            for (key, wants), kind in zip(keys.items(), types, strict=True)
            if kind not in {wants, b"none"}
        ]
        for key, kind in wrong:
            name = key + b".unreadable." + os.urandom(4).hex().encode()
            self._redis.command("RENAME", key, name)
            self._log.error(
                "%s held a %s, so another program writes to these keys; it is %s now: look at it, delete it",
                key.decode(errors="replace"),
                kind.decode(),
                name.decode(errors="replace"),
            )
        return bool(wrong)
