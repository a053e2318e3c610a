"""How a process that waits for jobs hears of their changes: on a connection that listens."""

from __future__ import annotations

import psycopg

from neoq.errors import BackendError
from neoq.messages import ids_in
from neoq.postgres.connections import Connection, Connections
from neoq.system import wait_to_read


class PostgresEar:
    """A connection that listens on the channel of changes."""

    def __init__(self, connections: Connections, channel: str) -> None:
        self._connections = connections
        self._connection = connections.connect()
        self._fresh = True
        try:
            if self._connection.info.server_version >= 140_000:  # this session is idle on purpose
                self._connection.execute("set idle_session_timeout = 0")
            self._connection.execute(f'listen "{channel}"')
        except psycopg.Error as error:
            self._connection.close()
            raise connections.wrapped(error) from error

    def hear(self, seconds: float) -> set[int] | None:
        """Ids of jobs that have changed; None where any may have."""
        if self._fresh:
            self._fresh = False
            return None
        try:
            wait_to_read([self._connection.fileno()], seconds)
            payloads = [notice.payload for notice in self._connection.notifies(timeout=0)]
        except (psycopg.Error, OSError) as error:
            raise _lost(self._connections, self._connection, error) from error
        named = [ids_in(payload) for payload in payloads]
        return None if None in named else set().union(*named)  # type: ignore[arg-type]

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def _lost(connections: Connections, connection: Connection, error: Exception) -> BackendError:
    known = error if isinstance(error, psycopg.Error) else psycopg.OperationalError(str(error))
    return connections.wrapped(known, connection)
