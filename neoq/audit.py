"""Who did what: an operation leaves an entry in its store while somebody is said to act.

An entry says who, by what way, what, and to how many jobs. It never holds a payload or the error of a job.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from neoq.errors import InvalidJobError
from neoq.times import to_datetime
from neoq.wording.redact import MASK

if TYPE_CHECKING:
    from neoq.config import Config
    from neoq.filter import Filter

KEPT = 30 * 86400.0  # seconds
MOST_IN_MEMORY = 10_000
IDS_NAMED = 20  # of one operation
LONGEST_NAME, LONGEST_WHAT, LONGEST_VALUE = 200, 1000, 100  # characters
_is_plain = re.compile(r"[\w.:@/+,-]+").fullmatch
_is_secret = re.compile(r"passw|secret|token|key|auth|cookie|credential", re.IGNORECASE).search


@dataclass(frozen=True)
class AuditEntry:
    """One operation of somebody.

    ``action`` is "retry", "cancel", "delete", "run", "purge", "prune", "pause" or "resume", or what `note`
    was given. ``count`` is how many jobs it changed, of "pause" and "resume" how many queues. ``queue`` is
    where all of it was, if in one queue. ``what`` names the ids, 20 at most, or the filter:
    ``status=dead queue=emails``.
    """

    id: int
    at: datetime
    user: str
    via: str
    action: str
    count: int
    queue: str | None
    what: str

    def __str__(self) -> str:
        where = "" if self.queue is None or "queue=" in self.what else f" in queue {self.queue}"
        what = f" ({self.what})" if self.what else ""
        return f"{self.action} by {self.user} via {self.via}: {self.count}{where}{what}"


class Entries:
    """Entries in the memory of a process, for a store that keeps them nowhere else."""

    def __init__(self) -> None:  # without a lock, which a fork may leave taken
        self._entries: deque[AuditEntry] = deque(maxlen=MOST_IN_MEMORY)
        self._ids = itertools.count(1)

    def add(self, entry: AuditEntry, now: float) -> None:
        """Keep an entry, and give it its id and its time."""
        self._entries.append(replace(entry, id=next(self._ids), at=to_datetime(now) or entry.at))

    def newest(self, limit: int, before: int | None, now: float) -> list[AuditEntry]:
        """Entries that were not kept long enough, newest first; see `neoq.store.Store.audit`."""
        oldest = now - KEPT
        found = [
            entry
            for entry in list(self._entries)
            if entry.at.timestamp() >= oldest and (before is None or entry.id < before)
        ]
        return sorted(found, key=lambda entry: -entry.id)[:limit]


class Keeper(Protocol):
    """A store, as far as it keeps entries."""

    config: Config

    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did."""


class _Actor(NamedTuple):
    user: str
    via: str


@dataclass
class Deed:
    """An operation under way: what is known of it so far."""

    action: str
    queue: str | None = None
    what: str = ""
    count: int = 0


_actor: ContextVar[_Actor | None] = ContextVar("neoq_actor", default=None)


@contextmanager
def acting_as(user: str, *, via: str = "code") -> Iterator[None]:
    """Let each operation in the block leave an entry that names this user, and the way by which they act.

    It holds for the thread, or the task of an event loop, that runs the block.
    """
    actor = _Actor(*(_name(name, value) for name, value in (("user", user), ("via", via))))
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


@contextmanager
def recorded(store: Keeper, action: str, *, queue: str | None = None, what: str = "") -> Iterator[Deed]:
    """Let all that the block does leave one entry, if somebody acts; also where it ends by an exception.

    The block adds to the ``count`` of what it is given as it goes on.
    """
    deed, actor = Deed(action, queue, what), _actor.get()
    if actor is None:
        yield deed
        return
    token = _actor.set(None)  # operations inside are parts of this one
    try:
        yield deed
    finally:
        _actor.reset(token)
        _write(store, actor, deed)


def note(store: Keeper, action: str, *, count: int = 1, queue: str | None = None, what: str = "") -> None:
    """Leave an entry of something that a program of one's own has done for whoever acts."""
    with recorded(store, action, queue=queue, what=what) as deed:
        deed.count = count


def _write(store: Keeper, actor: _Actor, deed: Deed) -> None:
    entry = AuditEntry(
        0, datetime.now(UTC), *actor, _cut(deed.action, LONGEST_NAME), deed.count, deed.queue,
        _cut(deed.what, LONGEST_WHAT),
    )  # fmt: skip
    try:
        store.add_audit(entry)
    except Exception as error:  # what was done stays done, and its caller is to know
        store.config.log.warning("%s is not in the audit: %s", entry, error)


def ids_text(ids: Sequence[object]) -> str:
    """The ids of jobs, at most the first `IDS_NAMED` of them."""
    named = ", ".join(str(one) for one in ids[:IDS_NAMED])
    more = len(ids) - IDS_NAMED
    return f"ids {named}" + (f" and {more:,} more" if more > 0 else "")


def filter_text(wanted: Filter) -> str:
    """A filter, for people: ``status=dead queue=emails``.

    The text of an error is left out, and values of payloads whose names look like secrets.
    """
    parts: list[tuple[str, Any]] = []
    if wanted.statuses is not None:
        parts.append(("status", ",".join(sorted(wanted.statuses))))
    parts += [(name, getattr(wanted, name)) for name in ("queue", "kind", "key")]
    parts += [(name, _moment(getattr(wanted, name))) for name in ("since", "until")]
    parts.append(("time", wanted.time))
    told = [f"{name}={_value(value)}" for name, value in parts if value is not None]
    if wanted.error is not None:
        told.append(f"error={MASK}")
    for path, value in wanted.payload:
        told.append(f"payload.{'.'.join(path)}={MASK if any(map(_is_secret, path)) else _value(value)}")
    return " ".join(told)


def _value(value: Any) -> str:
    if isinstance(value, str):
        value = _cut(value, LONGEST_VALUE)
        return value if _is_plain(value) else repr(value)
    return orjson.dumps(value).decode()


def _moment(epoch: float | None) -> str | None:
    moment = to_datetime(epoch)
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidJobError(f"{name} is {value!r:.80}; it takes the name of who acts, or of how they do")
    return _cut(value, LONGEST_NAME)


def _cut(text: str, length: int) -> str:
    """A text that every store can hold, on one line."""
    sound = text.encode("utf-8", "replace").decode()
    sound = "".join(sign if sign.isprintable() else " " for sign in sound[: length + 1])
    return sound if len(sound) <= length else f"{sound[: length - 3]}..."
