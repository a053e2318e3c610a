"""What the keys are called that RedisBackend keeps its jobs under, and how ids name them.

All keys of a queue share a hash tag, so that one script may touch them wherever a cluster keeps them. An id
is the microsecond at which its job was stored, followed by the number of its queue: it tells where to look,
and ids rise in the order of the enqueues to a queue.
"""

from __future__ import annotations

from collections.abc import Sequence

NUMBER_BITS = 11
NUMBERS = 1 << NUMBER_BITS  # queues beyond share numbers, and are told apart by looking


def global_key(prefix: str, name: str) -> bytes:
    """A key that belongs to no queue."""
    return f"{{{prefix}}}:{name}".encode()


class QueueKeys:
    """The keys of one queue."""

    def __init__(self, prefix: str, queue: str, slot: str) -> None:
        self.queue = queue
        self.name = queue.encode()
        self._tag = f"{{{prefix}:{queue}}}:"
        self._slot = slot
        self._keys: dict[Sequence[str], list[bytes]] = {}

    def key(self, name: str) -> bytes:
        """One key, by the name that the scripts know it under."""
        suffix = f"{name}:{self._slot}" if name in {"last", "gate"} else name.removesuffix("_jobs")
        return (self._tag + suffix).encode()

    def keys(self, names: tuple[str, ...]) -> list[bytes]:
        """Several keys, in the order of their names."""
        try:
            return self._keys[names]
        except KeyError:
            return self._keys.setdefault(names, [self.key(name) for name in names])


def job_id(stored_at: int, number: int) -> int:
    """The id of the job that a queue of this number stored at this microsecond."""
    return stored_at << NUMBER_BITS | number % NUMBERS


def stored_at(id_of_job: int) -> int:
    """The microsecond in an id."""
    return id_of_job >> NUMBER_BITS


def number_of(id_of_job: int) -> int:
    """The number of the queue in an id."""
    return id_of_job % NUMBERS
