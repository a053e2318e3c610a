"""The lines of the queues of a database: looked at as claims come to them, and with each heartbeat."""

from __future__ import annotations

from neoq.held.limits import Line, LineState
from neoq.postgres.connections import Connections
from neoq.postgres.statements import Statements

_STATES: dict[int, LineState] = {0: "waiting", 1: "retrying", 2: "running", 4: "dead"}


class Lines:
    """Shows lines, and looks after those that no claim comes to."""

    def __init__(self, connections: Connections, own: Connections, statements: Statements) -> None:
        self._connections = connections
        self._own = own
        self._statements = statements

    def tend(self) -> bool:
        """Give turns in the lines that have changed; whether there is more to do at once."""
        more = False
        for (queue,) in self._own.execute(self._statements.lines_to_look_at):
            [(left,)] = self._own.execute(self._statements.tend_lines, {"queue": queue})
            more |= left
        return more

    def of(self, queue: str, limit: int) -> list[Line]:
        """The lines of a queue in which jobs wait or that stand still, those that stand still first."""
        rows = self._connections.look(
            self._statements.lines, {"queue": queue, "limit": limit}, along_index=True
        )
        return [Line(queue, key, _STATES[state], head, waiting) for key, state, head, waiting in rows]
