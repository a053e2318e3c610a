"""How processes on one PostgreSQL database notify each other, and know which workers are alive.

One connection of a process listens, and holds a session lock whose key is the worker's number. The server
frees that lock the moment the process is gone, however it ended, so others need not wait for its leases.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import psycopg

from neoq.clock import machine
from neoq.errors import BackendError
from neoq.messages import ask_in, text_of_ids
from neoq.postgres.connections import Connection, Connections
from neoq.postgres.statements import Statements, changes_channel_of, channel_of
from neoq.store import Notify, WorkerInfo
from neoq.stored import report_of, restricted
from neoq.system import wait_to_read
from neoq.threads.loop import Loop
from neoq.wording.safe_logger import SafeLogger

APART = 0.01  # seconds between two notifications of one process, at least
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0  # seconds between attempts to connect again
MAX_PAYLOAD = 7000  # bytes; PostgreSQL takes just under 8,000
_KINDS = {"r": "ready", "c": "cancel", "p": "pause"}


def class_of(schema: str) -> int:
    """The first half of the keys of the workers' locks: another one for each schema."""
    import zlib

    return zlib.crc32(f"neoq {schema}".encode()) & 0x7FFFFFFF


class WorkerPresence:
    """This process as a worker: its number, its lock, and the thread that receives notifications."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        *,
        schema: str,
        heartbeat: float,
        lease: float,
        notify: Notify,
        asked: Callable[[Sequence[int], bool], None],
        info: Callable[[], WorkerInfo],
        log: SafeLogger,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._schema = schema
        self._heartbeat = heartbeat
        self.patience = (
            2 * heartbeat,
            3 * lease,
        )  # seconds without a heartbeat until a worker is dead: without its lock, and with it
        self._beaten = machine.monotonic()
        # The server may have been away, or be a new one: give live workers time for a heartbeat.
        self._away_until = self._beaten + self.patience[0]
        self._notify = notify
        self._asked = asked
        self._info = info
        self._log = log
        self.lock_class = class_of(schema)
        self.number: int | None = None
        self.signalled = False  # a signal has come that no job has heeded
        self.limited = True  # limits may have changed
        self._connection: Connection | None = None
        self._lock = threading.RLock()
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._left = False  # close() is over
        self._fresh = True  # nothing was received on this connection yet
        self._looked = 0.0  # monotonic: for workers that died
        self._loop = Loop(
            "neoq-listener",
            self._turn,
            log,
            away=self._say_lost,
            ended=self._release,
            pauses=(FIRST_PAUSE, LAST_PAUSE),
        )

    def hold(self) -> int:
        """Register this worker and take its lock, before anything is claimed; returns the number."""
        if self.number is None:
            with self._lock:
                if self.number is None:
                    self._take_lock(self.beat(self._info()))
        assert self.number is not None
        return self.number

    def beat(self, worker: WorkerInfo) -> int:
        """Record the heartbeat of a worker; returns its number."""
        own = worker.id == self._info().id
        values = {
            "number": self.number if own else None,
            "id": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "started": worker.started_at.timestamp(),
            "queues": list(worker.queues),
            "running": worker.running,
            "locked": own and self._is_connected(),
            "kinds": orjson.dumps(restricted(worker)).decode(),
            "version": worker.version,
            "report": report_of(worker).decode(),
        }
        with self._connections.use() as connection:
            try:
                [(number,)] = connection.execute(self._statements.beat, values).fetchall()
            except psycopg.errors.UniqueViolation:  # a script has given our number to another worker
                if own and self.number is not None:
                    connection.execute(self._statements.forget_worker, (self.number,))
                [(number,)] = connection.execute(self._statements.beat, values).fetchall()
        if own:
            self.number = number
            now = machine.monotonic()
            if (
                now - self._beaten > self.patience[0]
            ):  # the server may have been away, and every heartbeat is late
                self._away_until = now + 3 * self._heartbeat
            self._beaten = now
        return int(number)

    def judged_by(self) -> dict[str, Any]:
        """The values by which `Statements.dead_workers` judges others."""
        quiet, gone = self.patience
        return {"me": self.number, "quiet": quiet, "gone": gone, "class": self.lock_class}

    def may_judge(self) -> bool:
        """Whether this process may declare others dead: not just after a start or a late heartbeat."""
        return machine.monotonic() >= self._away_until

    def _is_connected(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def _take_lock(self, number: int) -> None:
        if not self._connections.direct or self._is_connected():
            return
        connection = self._connections.connect()
        try:
            connection.execute(
                "set lock_timeout = '5s'"
            )  # the server may not have noticed yet that our last session died
            if connection.info.server_version >= 140_000:  # this session is idle on purpose
                connection.execute("set idle_session_timeout = 0")
            connection.execute("select pg_advisory_lock(%s::int, %s::int)", (self.lock_class, number))
            connection.execute(f'listen "{channel_of(self._schema)}"')
        except psycopg.Error as error:
            connection.close()
            raise self._connections.wrapped(error) from error
        self._connection = connection

    def listen(self) -> None:
        """Begin to receive notifications, once."""
        with self._lock:
            if self._bell is None and not self._loop.closing:
                self._bell = socket.socketpair()
        self._loop.start()

    def let_go(self) -> None:
        """Free the lock as the end of the process does."""
        if self._connection is not None:
            self._connection.close()

    def close(self, *, owes_nothing: bool) -> None:
        """Stop listening, and leave the workers. A worker that still has leases is only marked as gone."""
        with self._lock:
            self._loop.close()
            if self._bell is not None:
                self._bell[1].send(b"!")
        if self._loop.join(2.0):  # its thread may never have begun
            self._release()
        try:
            if self.number is not None:
                with self._connections.use() as connection:
                    statements = self._statements
                    connection.execute(
                        statements.forget_worker if owes_nothing else statements.leave, (self.number,)
                    )
        finally:
            with self._lock:
                self._left = True
            self.let_go()

    def _release(self) -> None:
        """Close what the thread waits for, at its end, which is late where a dead network holds it."""
        with self._lock:
            bell, self._bell = self._bell, None
            left = self._left
        for end in bell or ():
            end.close()
        if left:
            self.let_go()

    # -- listening --------------------------------------------------------------------------------------

    def _turn(self) -> float:
        """Receive notifications for a while."""
        try:
            self._receive()
        except (psycopg.Error, OSError) as error:
            self.let_go()
            self._fresh = True
            raise BackendError(str(error)) from error
        except BaseException:
            self.let_go()
            self._fresh = True
            raise
        return 0.0

    def _say_lost(self, error: BackendError, pause: float) -> None:
        self._log.warning("lost the LISTEN connection; reconnecting in %.1f s: %s", pause, error)

    def _receive(self) -> None:
        if not self._is_connected() and self._connections.direct:
            with self._lock:
                self._take_lock(self.hold())
            self._fresh = True
        if self._fresh:
            self._fresh, self._looked = False, machine.monotonic()
            if self._connections.direct:  # what was sent meanwhile is lost
                self._notify("", "ready")
                self._notify("", "cancel")
                if self._connection is not None:  # asks are lost as well
                    channel = changes_channel_of(self._schema)
                    self._connection.execute(
                        "select pg_notify(%s::text, %s::text)", (channel, text_of_ids(None))
                    )
        every = max(0.05, self._heartbeat / 2)
        self._wait(max(0.0, self._looked + every - machine.monotonic()))
        connection = self._connection
        if connection is not None:
            for notice in connection.notifies(timeout=0):
                self._pass_on(notice.payload)
        if machine.monotonic() - self._looked >= every:
            self._looked = machine.monotonic()
            self._look_for_dead()

    def _wait(self, seconds: float) -> None:
        assert self._bell is not None
        sockets = [self._bell[0].fileno()]
        if self._connection is not None:
            sockets.append(self._connection.fileno())
        wait_to_read(sockets, seconds)

    def _pass_on(self, payload: str) -> None:
        for line in payload.split("\n"):
            if (ask := ask_in(line)) is not None:
                self._asked(*ask)
                continue
            kind, _, queue = line.partition(" ")
            if kind == "s":
                self.signalled = True
            elif kind == "l":
                self.limited = True
            self._notify(queue, _KINDS.get(kind, "ready"))  # type: ignore[arg-type]

    def _look_for_dead(self) -> None:
        with self._connections.use() as connection:
            dead = connection.execute(self._statements.dead_workers, self.judged_by()).fetchone()
        if dead is not None:
            self._notify("", "cancel")  # a call of the heartbeat, which reclaims


class Notifier:
    """Notifies other processes of new jobs: at once, or together if the last notification was just now.

    A notification holds a lock over the whole server while its transaction commits. So the first one goes
    with the commit of its jobs, and a thread sends one for all that follow closely.
    """

    def __init__(self, connections: Connections, schema: str, log: SafeLogger) -> None:
        self._connections = connections
        self._channel = channel_of(schema)
        self._log = log
        self._lock = threading.RLock()  # a finalizer in its own thread may enqueue
        self._sent_at = -1.0
        self._pending: set[str] = set()
        self._loop = Loop("neoq-notifier", self._turn, log, owes=lambda: bool(self._pending), on_demand=True)

    def notify_in_commit(self, queues: Iterable[str]) -> str | None:
        """The payload for the commit that adds to these queues; None: call `notify_later` after it."""
        now = machine.monotonic()
        if now - self._sent_at < APART:
            return None
        with self._lock:
            self._sent_at = now
            pending, self._pending = self._pending.union(queues), set()
        return payload_for("r", pending)

    def notify_later(self, queues: Iterable[str]) -> None:
        """Notify of queues whose jobs were committed without a notification."""
        if self._pending.issuperset(queues):
            return
        with self._lock:
            idle = not self._pending
            self._pending.update(queues)
        if idle:
            self._loop.wake()

    def notification(self, payload: str) -> tuple[str, tuple[str, str]]:
        """The statement that notifies workers."""
        return notification(self._channel, payload)

    def close(self) -> None:
        """Send what is left."""
        self._loop.close(2.0)

    def _turn(self) -> float | None:
        with self._lock:
            queues = self._pending
            now = machine.monotonic()
            left = max(0.0, self._sent_at + APART - now)
            due = bool(queues) and (self._loop.closing or not left)
            if due:
                self._pending, self._sent_at = set(), now
        if due:
            self._tell(queues)
            return 0.0
        return left if queues else None

    def _tell(self, queues: set[str]) -> None:
        try:
            self._connections.execute(*self.notification(payload_for("r", queues)))
        except BackendError as error:
            self._log.debug("other processes were not notified of new jobs and find them later: %s", error)


def notification(channel: str, payload: str) -> tuple[str, tuple[str, str]]:
    """The statement that notifies others; it waits for no disk, and a crash of the server may lose it."""
    statement = "select set_config('synchronous_commit', 'off', true), pg_notify(%s::text, %s::text)"
    return statement, (channel, payload)


def payload_for(kind: str, queues: Iterable[str]) -> str:
    """The payload for these queues; it stands for all queues if they are too many for one payload."""
    text = "\n".join(f"{kind} {queue}" for queue in queues)
    return text if len(text.encode()) <= MAX_PAYLOAD else kind
