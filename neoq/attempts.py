"""What became of the attempts of a job: those that failed are kept with it, the newest of them.

A store keeps them as bytes that mean nothing to it: a line of JSON for each, so that one more may be put
behind those that are there. Whatever somebody else has written there, what is no attempt is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from neoq.job import Job
from neoq.record import Status
from neoq.times import to_datetime
from neoq.wording.bounds import cut

KEPT = 20  # the newest
MAX_KEPT_ERROR, MAX_KEPT_TRACEBACK = 2 * 1024, 8 * 1024  # bytes of each
_TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (
    *(("n", (int,)), ("s", (int, float)), ("f", (int, float))),  # its number, its start and its end
    *(("w", (str,)), ("e", (str,)), ("t", (str,))),  # its worker, error and traceback
)
_NUMBERS = 2**53


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job that is over.

    ``number`` counts from 1 over all attempts that failed or succeeded, those before a `retry` by hand and
    those that ended with their process included. ``worker`` is the id of the process that ran it, where its
    store knows. ``error`` and ``traceback`` are None for an attempt that succeeded, and shortened where they
    are long.
    """

    number: int
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str | None = None
    error: str | None = None
    traceback: str | None = None


def one_more(
    before: bytes | None,
    error: str,
    traceback: str | None = None,
    *,
    started: float | None,
    finished: float,
    worker: str | None,
) -> bytes:
    """The failed attempts of a job as bytes, with one more; the oldest of too many are dropped."""
    lines = _lines_of(before)
    lines.append(
        {
            "n": _next(lines),
            "s": started,
            "f": finished,
            "w": _text(worker) if type(worker) is str else None,
            "e": _text(cut(error, MAX_KEPT_ERROR)),
            "t": None if not traceback else _text(cut(traceback, MAX_KEPT_TRACEBACK)),
        }
    )
    return b"\n".join(map(orjson.dumps, lines[-KEPT:]))


def attempts_of(job: Job) -> list[Attempt]:
    """The attempts of a job that are over, oldest first: those that failed, and the one that succeeded."""
    lines = _lines_of(job.failed_attempts)
    attempts = [
        Attempt(line["n"], to_datetime(line["s"]), to_datetime(line["f"]), line["w"], line["e"], line["t"])
        for line in lines
    ]
    if job.status is Status.SUCCEEDED:
        attempts.append(Attempt(_next(lines), job.ran_at, job.finished_at))
    return attempts[-KEPT:]


def _lines_of(kept: bytes | None) -> list[dict[str, Any]]:
    """What is there, each with its number: a store that adds a line need not know it."""
    lines: list[dict[str, Any]] = []
    for text in kept.split(b"\n") if isinstance(kept, bytes) else ():
        try:
            found = orjson.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            line = {
                name: value if type(value := found.get(name)) in types else None for name, types in _TYPES
            }
            if line["n"] is None or not 0 < line["n"] < _NUMBERS:
                line["n"] = _next(lines)
            lines.append(line)
    return lines


def _next(lines: list[dict[str, Any]]) -> int:
    return lines[-1]["n"] + 1 if lines else 1


def _text(value: str) -> str:
    """A text that UTF-8 can carry: an exception's message may hold anything."""
    return value.encode("utf-8", "replace").decode()
