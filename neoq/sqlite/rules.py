"""The limits of queues, as a SQLite file keeps them, and the times at which rates let the next jobs start.

A key '' stands for the whole queue.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from neoq.errors import NeoqError
from neoq.held.limits import Limits, Rate
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.session import Session

_NONE = Limits()
_OF_QUEUE = "select listener, operator from neoq_rules where queue = ?"
_SET = (
    "insert into neoq_rules (queue, {0}) values (?, ?) on conflict (queue) do update set {0} = excluded.{0}"
)
_NEXT = "select next from neoq_rates where queue = ? and key = ?"


def encoded(limits: Limits | None) -> str | None:
    """Limits as a row has them."""
    if limits is None:
        return None
    return orjson.dumps({name: _plain(getattr(limits, name)) for name in Limits.__annotations__}).decode()


_RATES = ("rate", "rate_per_key")


def _plain(value: Any) -> Any:
    return [value.n, value.per, value.burst] if isinstance(value, Rate) else value


@lru_cache(1000)
def decoded(text: str | None) -> Limits | None:
    """The limits in a row; None for none, or where somebody has written what is not ours."""
    if text is None:
        return None
    try:
        fields = orjson.loads(text)
        rates = {name: Rate(*fields[name]) for name in _RATES if fields[name] is not None}
        limits = Limits(**fields | rates)
    except (ValueError, TypeError, LookupError, NeoqError):
        return None
    return limits


def in_force(listener: str | None, operator: str | None) -> Limits | None:
    """The limits that hold: an operator's, else those of listeners; None where these limit nothing."""
    limits = decoded(operator) or decoded(listener)
    return None if limits == _NONE else limits


def limits_of(session: Session, queue: str) -> Limits | None:
    """The limits of a queue that hold now."""
    if queue not in session.limits:
        row = session.do(_OF_QUEUE, (queue,)).fetchone()
        session.limits[queue] = None if row is None else in_force(*row)
    return session.limits[queue]


def set_limits(session: Session, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
    """Keep limits; return those that a listener has set before, if they were others."""
    row = session.do(_OF_QUEUE, (queue,)).fetchone()
    if by_listener and limits == _NONE:
        limits = None  # which another listener's may replace
    if row is None and limits is None:
        return None
    row = row or (None, None)
    session.do(_SET.format("listener" if by_listener else "operator"), (queue, encoded(limits)))
    session.limits.clear()
    before = decoded(row[0])
    return before if by_listener and before != limits else None


def all_limits(file: SqliteFile) -> dict[str, Limits]:
    """The limits that hold now, of each queue that has any."""
    rows = file.read("select queue, listener, operator from neoq_rules where typeof(queue) = 'text'")
    return {queue: limits for queue, *texts in rows if (limits := in_force(*texts)) is not None}


# -- rates: GCRA; ``next`` is when the next start would be, were none early ----------------------------------


def starts_now(session: Session, line: tuple[str, str], rate: Rate) -> tuple[int, float]:
    """How many jobs of a queue and key may start now; and when the first may if none can."""
    expected = max(_next(session, line), session.now)
    return rate.allowed(expected, session.now), rate.earliest(expected)


def start(session: Session, line: tuple[str, str], rate: Rate, number: int) -> None:
    """Note that jobs of a queue and key start now."""
    expected = rate.after(_next(session, line), session.now, number)
    session.do("insert or replace into neoq_rates values (?,?,?)", (*line, expected))


def _next(session: Session, line: tuple[str, str]) -> float:
    row = session.do(_NEXT, line).fetchone()
    return row[0] if row is not None and isinstance(row[0], float) else 0.0


def forget_rates(session: Session, queue: str, before: Limits, after: Limits) -> None:
    """Forget what rates of a queue have used up that are others now."""
    if before.rate != after.rate:
        session.do("delete from neoq_rates where queue = ? and key = ''", (queue,))
    if before.rate_per_key != after.rate_per_key:
        session.do("delete from neoq_rates where queue = ? and key <> ''", (queue,))


def forget(session: Session) -> None:
    """Forget the times of keys that may start at once again."""
    session.do("delete from neoq_rates where next < ?", (session.now,))
