"""The queues under one prefix: their keys, their numbers, and the server's clock as this process knows it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from neoq.checks import check_queue
from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable, InvalidJobError
from neoq.redis.connection import Call, RedisConnection
from neoq.redis.keys import Ids, QueueKeys, global_key, id_in, ids_of
from neoq.redis.scripts import Script

MOST_QUEUES = 10**9  # that have a number
LAYOUT = 2  # of the records: larger where an older neoq cannot work on what this one writes, or this on its
_layout_in = re.compile(rb"layout ([0-9]{1,6})").fullmatch
MORE_CALLS = 8  # workers that are called in turn until one hears


class RedisQueues:
    """Where each queue's jobs are, for everything that calls scripts."""

    def __init__(self, connection: RedisConnection, prefix: str) -> None:
        self.redis = connection
        self.scripts = connection.scripts
        self.prefix = prefix
        self.channel = f"{prefix}:wake:"
        self.calls = 1 if connection.cluster else MORE_CALLS  # a cluster cannot tell who has heard
        self.slot = os.urandom(6).hex()
        self.numbers: dict[str, int] = {}
        self.ids: dict[str, Ids] = {}  # of the queues that this process has registered
        self.clock_ahead = 0.0  # of the server's clock before ours, seconds
        self._keys: dict[str, QueueKeys] = {}

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys.setdefault(
                queue, QueueKeys(self.prefix, queue, self.slot, cluster=self.redis.cluster)
            )
        return keys

    def call_of(self, script: Script, queue: str, arguments: Sequence[Any]) -> Call:
        """A call of a script on a queue."""
        return script, self.keys(queue).keys(script.keys), arguments

    def call(self, script: Script, queue: str, arguments: Sequence[Any], *, again: bool = True) -> Any:
        """Call a script on a queue. ``again``: once more where the connection broke, for it is safe to."""
        return self.redis.call(script, self.keys(queue).keys(script.keys), arguments, again=again)

    def waking(self, queue: str) -> dict[str, Any]:
        """What scripts need to wake a worker: the prefix of its channel, the queue, how many to try."""
        return {"channel": self.channel, "queue": self.keys(queue).name, "tries": self.calls}

    def register(self, queue: str) -> Ids:
        """Give a queue its number, and its ids with it.

        The server may have lost the one that it had: in a failover, or because somebody emptied it.
        """
        keys = [global_key(self.prefix, name) for name in ("queues", "numbers")]
        script = self.scripts.register
        known, layout = self.numbers.get(queue, ""), f"layout {LAYOUT}"
        arguments = script.arguments(queue=queue, known=known, layout=layout)
        number = int(self.redis.call(script, keys, arguments))
        if self.redis.cluster:  # scripts look into the queue's own slot
            self.redis.command("HSET", self.keys(queue).key("queues"), queue, number)
        self.numbers[queue] = number
        self.ids[queue] = ids = ids_of(number)
        return ids

    def named(self, number: int) -> str | None:
        """The queue that has a number."""
        for _ in range(2):
            for queue, known in list(self.numbers.items()):
                if known == number:
                    return queue
            self.all()
        return None

    def known(self, queue: str) -> Ids:
        """The ids of a queue; a new one is registered."""
        return self.ids.get(queue) or self.register(queue)

    def register_anew(self) -> None:
        """Register the queues of this process that the server has lost."""
        queues = list(self.ids)  # other threads register new ones meanwhile
        if queues:
            found = self.redis.command("HMGET", global_key(self.prefix, "queues"), *queues)
            for queue, number in zip(queues, found, strict=True):
                if number is None or id_in(number) is None:
                    self.register(queue)

    def all(self) -> list[str]:
        """Every queue that has or had jobs."""
        found = pairs_of(self.redis.command("HGETALL", global_key(self.prefix, "queues")))
        for name, text in found:
            number = id_in(text)
            if number is not None and number < MOST_QUEUES and is_name(name):
                self.numbers[name.decode()] = number
        return sorted(self.numbers)

    def time(self) -> float:
        """The server's clock, as far as this process knows it."""
        return machine.time() + self.clock_ahead

    def ask_time(self) -> float:
        """The server's clock; in a cluster each has its own."""
        if self.redis.cluster:
            return self.time()
        seconds, micros = self.redis.command("TIME")
        return int(seconds) + int(micros) / 1e6

    def learn_time(self, server: float, before: float) -> None:
        """Take the server's clock from a reply to what was sent at ``before``."""
        ahead = server - before
        late = machine.time() - before  # it was read at some moment between
        if not ahead - late <= self.clock_ahead <= ahead:
            self.clock_ahead = ahead - late / 2


def check_layout(connection: RedisConnection, prefix: str) -> None:
    """Refuse a store that holds jobs of a neoq that writes them down in another way.

    Each would take the other's jobs for damaged ones. The mark stands among the queues, where no queue has an
    empty name, so both are lost together.
    """
    key = global_key(prefix, "queues")
    try:
        mark, queues = connection.commands([("HGET", key, ""), ("HLEN", key)], near=key)
    except BackendUnavailable:
        raise
    except BackendError:
        return  # the first call says why, or sets a key of another type aside
    found = _layout_in(mark or b"")
    if found and int(found[1]) > LAYOUT:
        raise BackendError(
            f"the jobs under the prefix {prefix!r} have layout {int(found[1])} and this neoq knows only "
            f"{LAYOUT}: they are of a newer neoq; upgrade this one"
        )
    if (found and int(found[1]) < LAYOUT) or (not mark and queues):
        raise BackendError(
            f"the jobs under the prefix {prefix!r} are of an older neoq, and this one cannot read them: "
            "let the older one finish them, or give this one another prefix"
        )


def is_name(text: bytes) -> bool:
    """Whether a queue may have this name; another hand may have written something else."""
    try:
        check_queue(text.decode())
    except (UnicodeDecodeError, InvalidJobError):
        return False
    return True


def pairs_of(reply: Any) -> list[tuple[bytes, bytes]]:
    """The fields and values of a hash; some replies come as a dict already, others as a flat list."""
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=True))
