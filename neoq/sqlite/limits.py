"""A time limit for what a connection to a SQLite file reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from neoq.clock import machine

STEPS = 20_000  # of SQLite's machine between two looks at the clock: some milliseconds


def rows_of(
    connection: sqlite3.Connection, statement: str, values: Sequence[Any], seconds: float | None
) -> list[Any]:
    """The rows of a query, which is interrupted where it takes longer than some seconds."""
    if seconds is None:
        return connection.execute(statement, values).fetchall()
    give_up = machine.monotonic() + seconds
    connection.set_progress_handler(lambda: machine.monotonic() > give_up, STEPS)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.set_progress_handler(None, 0)
