"""The limits of the queues of a database: which hold, and how those of a queue are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from neoq.held.limits import Limits, Rate
from neoq.postgres.connections import Connections
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.postgres.wake import payload_for

_NAMES = tuple(Limits.__annotations__)


class LimitBook:
    """Reads and sets limits; ``limited`` has the queues that have some, or had, as far as is known here."""

    def __init__(self, connections: Connections, own: Connections, statements: Statements) -> None:
        self._connections = connections
        self._own = own  # of workers: a heartbeat waits for no caller
        self._statements = statements
        self.limited: dict[str, Limits | None] = {}

    def refresh(self) -> None:
        """Learn which queues have limits."""
        rows = self._own.read(self._statements.limits)
        self.limited = {queue: _effective(*texts) for queue, *texts in rows}

    def all(self) -> Mapping[str, Limits]:
        """The limits that hold now."""
        self.refresh()
        return {queue: limits for queue, limits in self.limited.items() if limits is not None}

    def set(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue; the listener's that were there before, if they were others."""
        text = None if limits is None else _text(limits)
        with self._connections.use() as connection, connection.transaction():
            execute = Transaction(self._connections, connection)
            [(listener, operator)] = execute(self._statements.lock_limits, {"queue": queue})
            before = _limits(listener)
            if by_listener:
                listener = text
            else:
                operator = text
            values = {"queue": queue, "listener": listener, "operator": operator}
            effective = _effective(listener, operator)
            values |= _numbers(effective or Limits())
            values["told"] = "\n".join(payload_for(kind, [queue]) for kind in ("l", "r"))
            execute(self._statements.set_limits, values)
        self.limited = {**self.limited, queue: effective}
        return before if by_listener and before != limits else None


def _effective(listener: str | None, operator: str | None) -> Limits | None:
    return _limits(listener if operator is None else operator)


def _text(limits: Limits) -> str:
    fields: dict[str, Any] = dict(zip(_NAMES, limits, strict=True))
    for name in ("rate", "rate_per_key"):
        fields[name] = None if fields[name] is None else asdict(fields[name])
    return orjson.dumps(fields).decode()


def _limits(text: str | None) -> Limits | None:
    if text is None:
        return None
    try:
        fields = orjson.loads(text)
        for name in ("rate", "rate_per_key"):
            fields[name] = None if fields.get(name) is None else Rate(**fields[name])
        return Limits(**{name: fields[name] for name in _NAMES if name in fields})
    except (ValueError, TypeError, AttributeError):  # somebody has damaged it
        return None


def _numbers(limits: Limits) -> dict[str, Any]:
    rate, rate_per_key = limits.rate, limits.rate_per_key
    return {
        "by_key": limits.by_key,
        "ordered": limits.ordered,
        "hold_dead": limits.hold_dead,
        "slots": limits.slots,
        "max_running": limits.max_running,
        "spacing": None if rate is None else rate.spacing,
        "tolerance": None if rate is None else rate.tolerance,
        "key_spacing": None if rate_per_key is None else rate_per_key.spacing,
        "key_tolerance": None if rate_per_key is None else rate_per_key.tolerance,
        "aging": limits.aging,
    }
