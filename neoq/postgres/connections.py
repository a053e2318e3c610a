"""The connections of one process to one PostgreSQL database: opened when needed, checked, not forked.

Each is used by one thread at a time and then lies idle for the next. There is no pool of the driver's own: it
opens connections in threads, which would hide from the caller why it cannot, and outlive a fork badly.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.postgres.arrays import register
from neoq.system import at_fork, wait_to_read
from neoq.threads.kept import LOOK_SECONDS, broken_off
from neoq.wording.redact import HOW_TO_WRITE, Hider, Url, secrets_of

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]
Values = Sequence[Any] | Mapping[str, Any]  # of a statement: by place, or by name

CONNECT_TIMEOUT = 10  # seconds, unless the URL says otherwise
_AWAY = frozenset(
    """08000 08001 08003 08004 08006 25006 40001 40P01 53000 53100 53200 53300 53400 55P03 57014 57P01 57P02
    57P03 57P04 57P05 58000 58030""".split()
)  # what passes: failures of the connection, shutdowns, failovers, too many connections, locks, a full disk
_GOOD = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK})
_MET = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_MAYBE_COMMITTED = frozenset({None, "57P02"})  # a server that ends at once may do so between commit and reply
# What we rely on, whatever the server, the database or the role has for a default. Our statements wait for
# others, which a stricter isolation forbids, but not for ever: somebody may have locked a table.
_SESSION: LiteralString = """
    select pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
        pg_catalog.set_config('lock_timeout', %s, false),
        pg_catalog.set_config('standard_conforming_strings', 'on', false)
"""
_LOCKED = """
    select format('%%I.%%I', n.nspname, c.relname), l.pid, coalesce(a.application_name, '')
    from pg_locks l join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
    left join pg_stat_activity a on a.pid = l.pid
    where n.nspname = %s and l.granted and l.pid <> pg_backend_pid()
        and l.database = (select oid from pg_database where datname = current_database())
        and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    order by l.mode, c.relname limit 1
"""
# The compiler takes plans without these for very long ones.
_NOT_ALONG_INDEX = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
_TRIES = 3  # of a statement that met a deadlock
LOCK_PATIENCE = "10s"  # to wait for what others have locked
PLACE_COMES = 10.0  # seconds to wait for one of the connections, all of which are in use
DOUBT_LASTS = 3.0  # seconds to wait for the server to end a statement whose reply was lost


class Connections:
    """The idle connections of one process, and how to open more."""

    def __init__(self, url: str, *, size: int, schema: str = "neoq") -> None:
        self._conninfo = Url(_with_defaults(url))
        self._schema = schema
        self._hider = Hider([*secrets_of(url), *_passwords(url)])
        self.where = self._hider.text(describe(url))
        self._session_known = False
        self.direct = True  # False: through a PgBouncer that gives each transaction another session
        self._idle: list[Connection] = []
        self._lock = threading.RLock()
        self._size = size
        self._room = threading.Semaphore(size)
        self._closed = False
        self._executing: dict[Connection, str] = {}  # what `execute` is waiting for
        self._lost: list[int] = []  # sessions that broke while they executed something
        _all.add(self)
        self._prepared: weakref.WeakKeyDictionary[Connection, set[bytes]] = weakref.WeakKeyDictionary()
        self._sessions: weakref.WeakKeyDictionary[Connection, int] = weakref.WeakKeyDictionary()

    # -- open and close ---------------------------------------------------------------------------------

    def connect(self) -> Connection:
        """A new connection, in autocommit; BackendUnavailable where there is none to be had."""
        try:
            connection: Connection = psycopg.connect(self._conninfo, autocommit=True)
        except psycopg.Error as error:
            self._hider.error(error)
            raise BackendUnavailable(
                f"cannot connect to {self.where}: {_text_of(error)}{_advice(error)}"
            ) from error
        connection.prepare_threshold = None
        if not self._session_known:  # a PgBouncer tells another session's number than the server does
            self.direct = self._is_direct(connection)
            self._session_known = True
        if self.direct:
            self._begin_with(connection, _SESSION, (LOCK_PATIENCE,))
        connection.prepare_threshold = 1 if self.direct else None
        register(connection)
        self._sessions[connection] = connection.info.backend_pid
        return connection

    def _is_direct(self, connection: Connection) -> bool:
        [(session,)] = self._begin_with(connection, "select pg_backend_pid()").fetchall()
        return bool(session == connection.info.backend_pid)

    def _begin_with(
        self, connection: Connection, statement: LiteralString, values: Sequence[Any] = ()
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Execute one of a new connection's first statements, or close it."""
        try:
            return connection.execute(statement, values)
        except psycopg.Error as error:
            connection.close()
            raise self.wrapped(error) from error  # nothing was sent that could be in doubt

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        _all.discard(self)

    def break_all(self) -> None:
        """Break each connection, those in use as well, as a network does."""
        for connection in list(self._sessions):
            with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """A connection for one thread; psycopg's errors leave it as BackendError."""
        with self._place():
            connection = self.take()
            try:
                yield connection
            except psycopg.Error as error:
                raise self.lost_or_wrapped(error, connection) from error
            finally:
                self.give(connection)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the connections that there may be at once."""
        if not self._room.acquire(timeout=PLACE_COMES):
            raise BackendUnavailable(
                f"{self.where}: all {self._size} connections of this process were in use for "
                f"{PLACE_COMES:g} s, so nothing was sent; raise pool_size, or look on the server for what "
                "they wait for (a transaction of yours may hold the fingerprints that they enqueue)"
            )
        try:
            yield
        finally:
            self._room.release()

    def lost_or_wrapped(self, error: psycopg.Error, connection: Connection) -> BackendError:
        """As `wrapped`; where the connection broke, what it executed may go on."""
        if connection.closed:
            self._lost = [*self._lost[-99:], self._sessions.get(connection, 0)]
        return self.wrapped(error, connection)

    def read(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Execute one statement that reads, and wait no longer for a locked table than our sessions do."""
        if self.direct:
            return self.execute(statement, values)
        with self.use() as connection, connection.transaction():  # behind a PgBouncer no session is ours
            connection.execute("select pg_catalog.set_config('lock_timeout', %s, true)", (LOCK_PATIENCE,))
            return connection.cursor(binary=True).execute(statement, values).fetchall()

    def look(
        self,
        statement: str,
        values: Values = (),
        *,
        along_index: bool = False,
        seconds: float | None = None,
    ) -> list[tuple[Any, ...]]:
        """As `read`, for a statement that may look at very many rows; LookTimeoutError after `LOOK_SECONDS`.

        ``along_index``: its plan goes along an index, whatever the statistics say. ``seconds``: another
        limit.
        """
        seconds = LOOK_SECONDS if seconds is None else seconds
        settings = {
            "lock_timeout": LOCK_PATIENCE,
            "statement_timeout": f"{int(seconds * 1000)}ms",
            **(dict.fromkeys(_NOT_ALONG_INDEX, "off") if along_index else {}),
        }
        choose = f"select {', '.join(['pg_catalog.set_config(%s, %s, true)'] * len(settings))}"
        chosen = [part for setting in settings.items() for part in setting]
        with self.use() as connection:
            try:
                with connection.transaction():
                    connection.execute(choose, chosen)
                    # Not prepared: its plan is for these values.
                    return connection.cursor(binary=True).execute(statement, values, prepare=False).fetchall()
            except psycopg.errors.QueryCanceled as error:
                raise broken_off(self.where, seconds) from error

    def execute(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Execute one statement, which is a transaction of its own; again where it met a deadlock."""
        return self._until_it_met_none(lambda: self._execute_once(statement, values))

    def execute_prepared(self, name: bytes, statement: bytes, values: Sequence[Any]) -> PGresult:
        """As `execute`, in the manner of `prepared`."""

        def once() -> PGresult:
            with self.use() as connection:
                return self.prepared(connection, name, statement, values)

        return self._until_it_met_none(once)

    def _until_it_met_none(self, execute: Callable[[], T]) -> T:
        left = _TRIES
        while True:
            left -= 1
            try:
                return execute()
            except BackendUnavailable as error:
                if not left or not isinstance(error.__cause__, _MET):
                    raise

    def _execute_once(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        with self._place():
            connection = self.take()
            try:
                cursor = connection.cursor(binary=True)
                self._executing[connection] = statement
                cursor.execute(statement, values)
                result = cursor.pgresult
                if result is not None and result.status == ExecStatus.TUPLES_OK:
                    return cursor.fetchall()
                return []
            except psycopg.Error as error:
                raise self.lost_or_wrapped(error, connection) from error
            finally:
                self._executing.pop(connection, None)
                self.give(connection)

    def break_off(self, statement: str, timeout: float) -> None:
        """Ask the server to break off a statement that is executed, for up to ``timeout`` seconds."""
        for connection, executed in list(self._executing.items()):
            if executed == statement:
                try:
                    connection.cancel_safe(timeout=timeout)
                except psycopg.Error:  # nobody answers there
                    return

    def prepared(
        self, connection: Connection, name: bytes, statement: bytes, values: Sequence[Any]
    ) -> PGresult:
        """Execute a statement with as little ado as there can be; all values and results are binary.

        What a cursor does for each statement costs more than the server needs to add a job.
        """
        pgconn = connection.pgconn
        if not self.direct:
            return _checked(pgconn.exec_params(statement, values, None, [1] * len(values), 1))
        names = self._prepared.setdefault(connection, set())
        if name not in names:
            _checked(pgconn.prepare(name, statement))
            names.add(name)
        return _checked(pgconn.exec_prepared(name, values, [1] * len(values), 1))

    def await_end(self, part: str) -> bool:
        """Wait until no session executes a statement whose reply was lost; False where one still may."""
        give_up = machine.monotonic() + DOUBT_LASTS
        while self.execute(
            "select 1 from pg_stat_activity where pid = any (%s::int[]) and state = 'active'"
            " and position(%s in query) > 0",
            (self._lost[-100:], part),
        ):
            if machine.monotonic() > give_up:
                return False
            time.sleep(0.02)
        return self.direct  # behind a PgBouncer there is no telling

    def take(self) -> Connection:
        """An idle connection that lives, or a new one."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self.connect()
            if is_alive(connection):
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        if connection.closed:
            return
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            connection.close()  # what it was doing was broken off
            return
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    # -- errors -----------------------------------------------------------------------------------------

    def wrapped(self, error: psycopg.Error, connection: Connection | None = None) -> BackendError:
        """One of our errors for one of psycopg's, which is its cause."""
        self._hider.error(error)
        broken = connection is not None and connection.closed
        state = error.sqlstate
        if broken or state in _AWAY or (state is None and isinstance(error, psycopg.OperationalError)):
            unknown = broken and state in _MAYBE_COMMITTED
            return BackendUnavailable(
                f"{self.where}: {_text_of(error)}{self._reason(state, error)}", outcome_unknown=unknown
            )
        if isinstance(error, (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)):
            return BackendError(
                f"{self.where}: {_text_of(error)}; neoq's tables are gone: call neoq.migrate(url)"
            )
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return BackendError(
                f"{self.where}: {_text_of(error)}; a process that runs jobs needs usage on the schema, usage "
                "and select on its sequences, and select, insert, update and delete on its tables; the page "
                "on Postgres has the grants, also of those that only enqueue or look"
            )
        return BackendError(f"{self.where}: {_text_of(error)}")

    def _reason(self, state: str | None, error: psycopg.Error) -> str:
        if state == "25006":
            return (
                "; this server takes no writes: it is a replica, or was made read-only "
                "(default_transaction_read_only)"
            )
        if state != "55P03":
            return ""
        if "insert into jobs" in str(error) and re.search(r"\(\d+,\d+\)", str(error)):  # a place in its index
            return "; another transaction holds that fingerprint and was waited for in vain"
        return self._locked() or (
            "; another transaction holds a lock that was waited for in vain: look into pg_locks on the server"
        )

    def _locked(self) -> str:
        """The session that has locked one of the tables, as far as that can be told."""
        try:
            connection = self.take()
            try:
                for table, pid, name in connection.execute(_LOCKED, (self._schema,)).fetchall():
                    whose = f"{pid} ({name})" if name else f"{pid}"
                    return f"; the table {table} is locked by session {whose} and was waited for in vain"
            finally:
                self.give(connection)
        except (BackendError, psycopg.Error):
            pass
        return ""

    # -- fork -------------------------------------------------------------------------------------------

    def forked_in_child(self) -> None:
        """Leave the parent's connections alone, but for the sockets: open here, they would outlive it."""
        for connection in list(self._sessions):
            ctypes.pythonapi.Py_IncRef(
                ctypes.py_object(connection)
            )  # never finished: that would end the session
            pgconn = connection.pgconn
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pgconn))
            try:
                os.close(pgconn.socket)
            except (OSError, psycopg.Error):
                pass
        self._sessions = weakref.WeakKeyDictionary()
        self._executing = {}
        self._idle = []
        self._lock = threading.RLock()
        self._closed = True


def _checked(result: PGresult) -> PGresult:
    """A result that is none of an error."""
    if result.status not in _GOOD:
        raise psycopg.errors.error_from_result(result)
    return result


def is_alive(connection: Connection) -> bool:
    """Whether an idle connection still is one: a server that ended it has written so, or hung up."""
    if connection.closed:
        return False
    try:
        return not wait_to_read([connection.fileno()], 0)
    except (OSError, psycopg.Error):
        return False


def _with_defaults(url: str) -> str:
    """The URL with what notices a dead server or network, unless it says otherwise."""
    given = conninfo_to_dict(url)
    given.pop("client_encoding", None)  # our arrays are written in UTF-8, whatever the database is in
    defaults: dict[str, Any] = {
        "application_name": "neoq",
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    return make_conninfo(url, **{name: value for name, value in defaults.items() if name not in given})


def describe(url: str) -> str:
    """Where a URL leads, without its password."""
    given = conninfo_to_dict(url)
    user = f"{given['user']}@" if given.get("user") else ""
    port = f":{given['port']}" if given.get("port") else ""
    place = f"postgresql://{user}{given.get('host') or ''}{port}/{given.get('dbname') or ''}"
    return Hider([*secrets_of(url), *_passwords(url)]).text(place)


def _passwords(url: str) -> list[str]:
    given = conninfo_to_dict(url)
    return [str(given[name]) for name in ("password", "sslpassword") if given.get(name)]


def bad_conninfo(url: str) -> str | None:
    """What is wrong with a URL or a connection string, in words of ours: libpq's repeat it."""
    try:
        given = conninfo_to_dict(url)
    except (psycopg.Error, ValueError) as error:
        words = str(error)
    else:
        ports = str(given.get("port") or "").split(",")
        if all(port.isdigit() and int(port) < 65536 for port in ports if port):
            return None
        return "the port in the URL is no number from 1 to 65535; in a password write / as %2F, and so on"
    for sign, reason in (
        ("percent", "a % begins no code of two digits; write it as %25"),
        ("forbidden value", "it holds a %00"),
        ("]", "a [ has no ]; only an IPv6 address stands in brackets, elsewhere write %5B"),
        ("IPv6", "what stands in [ ] is no IPv6 address"),
        ("URI query parameter", "a part of its query is no setting, or has no ="),
        ("invalid connection option", "it has a setting that libpq does not know"),
        ('missing "="', "it is no URL that begins with postgresql://, and no list of name=value"),
        ("quoted", "a quoted value has no end"),
    ):
        if sign in words:
            return f"the URL is not one that libpq understands: {reason}"
    return f"the URL is not one that libpq understands; {HOW_TO_WRITE}"


def _text_of(error: psycopg.Error) -> str:
    if error.sqlstate == "55P03":  # a lock: the statement, which follows, says nothing
        return str(error).partition("\n")[0]
    return " ".join(str(error).split()) or type(error).__name__


def _advice(error: psycopg.Error) -> str:
    """What to do about a connection that could not be made; libpq tells the reason in words only."""
    words = str(error)
    for sign, advice in (
        ("password", "check the user and the password in the URL, and pg_hba.conf on the server"),
        ("does not exist", "check the database and the user in the URL; neoq makes neither"),
        ("refused", "nothing listens there: check host and port in the URL, and that the server runs"),
        ("resolve", "check the host in the URL"),
        ("could not translate", "check the host in the URL"),
        ("timeout", "the host does not answer: check host and port in the URL, and the network between"),
        ("SSL", "see sslmode and the other ssl options of libpq, which the URL takes"),
        ("too many", "raise max_connections on the server, or put a PgBouncer before it"),
    ):
        if sign in words:
            return f"; {advice}"
    return ""


_all: weakref.WeakSet[Connections] = weakref.WeakSet()


def _forked_in_child() -> None:
    for connections in list(_all):
        connections.forked_in_child()
    _all.clear()


at_fork(after_in_child=_forked_in_child)
