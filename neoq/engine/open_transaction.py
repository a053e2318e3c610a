"""Whether a connection of the user's is in a transaction: of psycopg, sqlite3, SQLAlchemy or Django."""

from __future__ import annotations

from typing import Any

_IDLE = 0  # libpq's number for a connection that is in no transaction


def is_open(connection: Any) -> bool:
    """Whether a transaction is open on a connection; False where that cannot be told."""
    try:
        if getattr(connection, "closed", False) is True:
            return False
        atomic = getattr(connection, "in_atomic_block", None)
        if atomic is not None:
            return bool(atomic) or not connection.get_autocommit()
        within = getattr(connection, "in_transaction", None)
        if within is not None:
            return bool(within() if callable(within) else within)
        info = getattr(connection, "info", None)
        return int(info.transaction_status) != _IDLE if info is not None else False
    except Exception:
        return False
