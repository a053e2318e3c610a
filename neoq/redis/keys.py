"""What the keys are called that RedisBackend keeps its jobs under, and how ids name them.

All keys of a queue share a hash tag, so that one script may touch them wherever a cluster keeps them. An id
tells when its job was stored and in which queue: it counts the time in steps, and its last bits are the
queue's number. So ids are unique throughout a store, rise in the order of the enqueues to a queue, and need
no more than the 53 bits that a browser's numbers have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

EPOCH = 1_600_000_000  # when ids began, in seconds
MOST = 500  # jobs that were stored together
PACE = 1 << 21  # of ids, a second: those of 136 years are below 2**53


class Ids(NamedTuple):
    """The ids of one queue: those that leave this remainder when divided by the step."""

    step: int
    tag: int

    def at(self, time: float) -> int:
        """The id for a job that is stored now, where no later one is taken."""
        ticks = max(int((time - EPOCH) * PACE), self.step)
        return ticks - ticks % self.step + self.tag


def ids_of(number: int) -> Ids:
    """The ids of the queue of this number.

    The first 16 queues have 5 bits for it, the next 256 have 10, the next 4,096 have 15, and so on: as many
    ones as there are shorter kinds, a zero, and the place among those of its kind.
    """
    kind, first = 0, 0
    while number - first >= 16 ** (kind + 1):
        first += 16 ** (kind + 1)
        kind += 1
    return Ids(1 << 5 * (kind + 1), (number - first) << (kind + 1) | (1 << kind) - 1)


def number_of(job_id: int) -> int:
    """The number of the queue in an id."""
    kind = (~job_id & (job_id + 1)).bit_length() - 1
    first = ((1 << 4 * (kind + 1)) - 16) // 15
    return first + ((job_id >> kind + 1) & (1 << 4 * (kind + 1)) - 1)


def id_in(text: bytes) -> int | None:
    """The id that stands there; None where another hand has written something else."""
    return int(text) if len(text) <= 19 and text.isdigit() else None


def ids_in(text: bytes) -> range:
    """The ids of a batch that was stored together: their first, their number and the step between them."""
    parts = [id_in(part) or 0 for part in text.split(b":")]
    first, count, step, *_ = *parts, 1, 1
    return range(first, first + min(count, MOST) * step, step) if first and step else range(0)


def global_key(prefix: str, name: str) -> bytes:
    """A key that belongs to no queue."""
    return f"{{{prefix}}}:{name}".encode()


class QueueKeys:
    """The keys of one queue."""

    def __init__(self, prefix: str, queue: str, slot: str, *, cluster: bool) -> None:
        self.queue = queue
        self.name = queue.encode()
        self._tag = f"{{{prefix}:{queue}}}:"
        self._slot = slot
        self._queues = None if cluster else global_key(prefix, "queues")  # a script touches only one slot
        self._keys: dict[Sequence[str], list[bytes]] = {}

    def key(self, name: str) -> bytes:
        """One key, by the name that the scripts know it under."""
        if name == "queues" and self._queues is not None:
            return self._queues
        suffix = f"{name}:{self._slot}" if name in {"last", "gate"} else name.removesuffix("_jobs")
        return (self._tag + suffix).encode()

    def keys(self, names: tuple[str, ...]) -> list[bytes]:
        """Several keys, in the order of their names."""
        try:
            return self._keys[names]
        except KeyError:
            return self._keys.setdefault(names, [self.key(name) for name in names])
