"""Checks of what users give: names of queues, ids, and the options of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neoq.errors import InvalidJobError, PayloadError
from neoq.payload import check_text
from neoq.times import LATEST, to_seconds

_LONGEST_UID = 255
_LEAST_TIMEOUT = 0.001
_MAX_KNOWN = 10_000
known_queues: set[str] = set()  # names that were checked
_LAST_ID = 2**63 - 1  # of 64 bits


def check_queue(queue: Any) -> None:
    """Refuse what is no queue name: 1 to 200 printable characters."""
    if type(queue) is str and queue in known_queues:
        return
    if callable(queue):
        raise InvalidJobError(
            'the queue is a function; a decorator needs its queue: @backend.listen("emails")'
        )
    if not isinstance(queue, str) or not queue.strip():
        raise InvalidJobError(f'the queue is {queue!r}; it takes a name such as "emails"')
    if len(queue) > 200 or not queue.isprintable():
        raise InvalidJobError(f"the queue is {queue[:40]!r}...; a name has 1 to 200 printable characters")
    if len(known_queues) < _MAX_KNOWN:
        known_queues.add(queue)


def checked_id(job_id: Any) -> int:
    """The id that some call was given; one that no store gives out is merely unknown."""
    if isinstance(job_id, bool) or not isinstance(job_id, int):
        raise InvalidJobError(f"the id of a job is {job_id!r:.80}; it takes an int, which job.id is")
    return max(-_LAST_ID, min(job_id, _LAST_ID))


def checked_uid(uid: Any) -> str:
    """The uid that some call was given, or InvalidJobError."""
    if not isinstance(uid, str) or not 0 < len(uid) <= _LONGEST_UID or not uid.isprintable():
        raise InvalidJobError(f"uid is {uid!r:.80}; it takes 1 to {_LONGEST_UID} printable characters")
    return uid


def checked_int(name: str, value: Any, low: int, high: int) -> int:
    """An int within bounds, or InvalidJobError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidJobError(f"{name} is {value!r}; it takes an int from {low} to {high}")
    return value


def checked_timeout(timeout: Any) -> float:
    """A timeout in seconds, or InvalidJobError."""
    seconds = to_seconds("timeout", timeout)
    if not _LEAST_TIMEOUT <= seconds <= LATEST:
        raise InvalidJobError(
            f"timeout is {timeout!r}; it takes seconds (or a timedelta) >= {_LEAST_TIMEOUT}"
        )
    return seconds


def checked_span(name: str, span: Any) -> float:
    """A span of more than nothing in seconds, or InvalidJobError."""
    seconds = to_seconds(name, span)
    if not 0 < seconds <= LATEST:
        raise InvalidJobError(
            f"{name} is {span!r}; it takes seconds (or a timedelta) above 0, up to the year 9999"
        )
    return seconds


def checked_text(name: str, value: Any) -> str:
    """A text of 1 to 1,000 printable characters, or InvalidJobError."""
    if not isinstance(value, str) or not 0 < len(value) <= 1000 or not value.isprintable():
        raise InvalidJobError(f"{name} is {value!r:.80}; it takes 1 to 1,000 printable characters")
    return value


def checked_choice(name: str, value: Any, choices: tuple[Any, ...], also: str = "") -> Any:
    """One of several values, or InvalidJobError; ``also`` says what is taken besides, checked elsewhere."""
    for choice in choices:
        if value is choice or (isinstance(value, str) and value == choice):
            return choice
    words = [*map(repr, choices), *([also] if also else [])]
    raise InvalidJobError(f"{name} is {value!r}; it takes {' or '.join(words)}")


def checked_fraction(value: Any) -> float:
    """A number from 0.0 to 1.0 as a float, or InvalidJobError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InvalidJobError(f"progress is {value!r}; it takes a number from 0.0 to 1.0")
    return float(value)


def check_size_of_meta(meta: Mapping[str, str], limit: int, queue: str) -> None:
    """Refuse meta of more than ``limit`` bytes."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for item in meta.items() for text in item)
    if size > limit:
        raise PayloadError(
            f"the meta for queue {queue!r} is {size:,} bytes, more than max_payload ({limit:,}): "
            "it is for a few words, so store the bulk elsewhere",
            path="meta",
            queue=queue,
        )


def checked_meta(meta: Any) -> Mapping[str, str]:
    """A copy of meta, whose keys and values are texts, or InvalidJobError."""
    if not isinstance(meta, Mapping):
        raise InvalidJobError(f"meta is {meta!r:.80}; it takes a dict of str to str")
    for key, value in meta.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidJobError(f"meta[{key!r}] is {value!r:.80}; keys and values of meta are str")
        check_text(key, "a key of meta", None)
        check_text(value, f"meta[{key!r}]", None)
    return dict(meta)
