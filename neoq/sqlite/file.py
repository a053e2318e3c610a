"""One SQLite file as one process uses it: its connections, its errors, its one writer at a time.

A thread that wants to write while another one commits waits. The next commit takes along all that wait: one
fsync for many, see group_commit.py. There is no thread for it.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.sqlite.fork import note_closed, note_open
from neoq.sqlite.limits import rows_of
from neoq.sqlite.place import Identity, Place
from neoq.sqlite.schema import NAMES, VERSION, is_whole, statements_for
from neoq.threads.group_commit import Call, GroupCommit
from neoq.threads.kept import broken_off

if TYPE_CHECKING:
    from neoq.sqlite.session import Session


T = TypeVar("T")
Work = Callable[["Session"], T]
Operation = Call[Work[Any], Any]

LOG_AT_LEAST, LOG_AT_MOST, LOG_SHARE = 2 << 20, 32 << 20, 4  # bytes of the write-ahead log, and of the file
LOG_SIZED_EVERY = 500  # commits
BUSY_SLICE = 0.005  # seconds that SQLite itself waits for a lock; we ask again until busy_timeout is over
LONGEST_PATH = 500  # bytes; SQLite's own limit, with room for the names of its logs
FORK_PATIENCE = 5.0  # seconds that a fork waits for a commit to end
_TEXT = methodcaller("decode", "utf-8", "replace")
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_AWAY = {
    sqlite3.SQLITE_BUSY: "another connection holds its write lock for longer than busy_timeout",
    sqlite3.SQLITE_LOCKED: "another connection holds its write lock for longer than busy_timeout",
    sqlite3.SQLITE_FULL: "there is no room left for it; nothing of this operation was kept",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; its directory must exist, and both be writable",
    sqlite3.SQLITE_READONLY: "it is read-only here; the file and its directory must be writable",
    sqlite3.SQLITE_PERM: "it is read-only here; the file and its directory must be writable",
    sqlite3.SQLITE_IOERR: "reading or writing it failed",
}
_WRONG = {
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; name another file",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup (see sqlite.org/recovery.html)",
}


class SqliteFile:
    """The connections of one process to one file."""

    def __init__(
        self,
        path: str,
        *,
        synchronous: str,
        busy_timeout: float,
        session_on: Callable[[sqlite3.Cursor], Session],
        file_mode: int | None = None,
        on_replaced: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.session_on = session_on
        self._place = Place(path)
        self.path = self._place.path
        self._file_mode = file_mode
        self._on_replaced = on_replaced
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._in_group: GroupCommit[Work[Any], Any] = GroupCommit(self._commit)
        self._gate = threading.RLock()  # over the writing connection
        self._writer: sqlite3.Connection | None = None
        self._mode = ""  # the writer's, as it was last set
        self._session: Session | None = None  # on the writer
        self._commits = 0
        self._read_gate = threading.RLock()  # over the reading one
        self._reader: sqlite3.Connection | None = None
        self._writer_to = self._reader_to = (0, 0)  # the files that they have open
        self._newest: Identity | None = None  # of the files that were open here
        self._has_tables = False
        self._closed = False
        self.fork_hook: Callable[[], None] = lambda: None

    # -- open and close ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and bring the tables up to date; BackendError where that cannot be.

        It does not wait for the write lock. The caller's own connection may hold it, in a transaction that
        is to get a job. An operation that needs the lock waits for it then.
        """
        self._place.check(make_with=self._file_mode)
        with self._gate:
            note_open(self)  # before there is anything to close
            try:
                self._open_writer(patience=0.0)
            except sqlite3.Error as error:
                if _code(error) not in _BUSY:
                    raise self.wrapped(error) from error

    def _open_writer(self, patience: float | None = None) -> None:
        self._writer, self._writer_to = self._connect(patience)
        self._session = self.session_on(self._writer.cursor())

    def close(self) -> None:
        """Close the connections. A later operation opens its own and closes it again."""
        with self._gate, self._read_gate:
            self._closed = True
            self._disconnect()
        note_closed(self)

    def break_connections(self) -> None:
        """Close the connections; the next operations open new ones."""
        with self._gate, self._read_gate:
            self._disconnect()

    @contextmanager
    def pause_commits(self) -> Iterator[Callable[[], int]]:
        """Let no write begin to be committed inside the block; yields a count of those that wait."""
        with self._gate:
            yield lambda: self._in_group.pending

    def _disconnect(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer, self._session, self._mode = self._writer, None, None, ""
        if writer is not None:
            writer.close()

    def _connect(self, patience: float | None = None) -> tuple[sqlite3.Connection, Identity]:
        """A connection to the file that is there now, with its tables up to date, and which file that is."""
        if (again := self._newest is not None) and not self._place.must_be(self._newest):
            self._place.check()
        connection = sqlite3.connect(
            f"{Path(self.path).as_uri()}?mode=rw" if again else self.path,  # it is made only once
            timeout=BUSY_SLICE,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            uri=again,
        )
        connection.text_factory = _TEXT  # text that is not UTF-8 must not raise
        try:
            self._prepare(connection, patience)
        except BaseException:
            connection.close()
            raise
        identity = self._place.identity() or (0, 0)
        if self._newest not in {None, identity}:
            self._on_replaced(self.path)
        self._newest, self._has_tables = identity, True
        return connection, identity

    def _prepare(self, connection: sqlite3.Connection, patience: float | None) -> None:
        mode = self._patiently(lambda: connection.execute("pragma journal_mode = wal").fetchone(), patience)
        if mode != ("wal",):
            raise BackendError(f"{self.path} cannot use a write-ahead log (its journal mode is {mode[0]})")
        connection.execute(f"pragma synchronous = {self._synchronous}")
        connection.execute("pragma cache_size = -16000")
        connection.execute("pragma temp_store = memory")  # where savepoints keep what they may undo
        self._migrate(connection, patience)
        self._size_log(connection)

    def _size_log(self, connection: sqlite3.Connection) -> None:
        """Say how long the write-ahead log may grow before it is copied into the file.

        A short one is soon on the disk with its full length, and from then on an fsync costs half. In a
        large file the jobs of one log are on pages far apart, and a longer one has more of them on each.
        """
        [[size]] = connection.execute("pragma page_size")
        [[pages]] = self._patiently(lambda: connection.execute("pragma page_count").fetchall())
        log = min(max(LOG_AT_LEAST, pages * size // LOG_SHARE), LOG_AT_MOST)
        connection.execute(f"pragma wal_autocheckpoint = {log // size}")

    def _migrate(self, connection: sqlite3.Connection, patience: float | None) -> None:
        cursor = connection.cursor()
        if self._patiently(lambda: self._is_up_to_date(cursor), patience):
            return
        self._patiently(lambda: cursor.execute("begin immediate"), patience)
        try:
            self._make_tables(cursor)
            cursor.execute("commit")
        except BaseException:
            _roll_back(connection)
            raise

    def make_tables_within(self, cursor: sqlite3.Cursor) -> None:
        """Make the tables in the caller's transaction where this process has not yet seen any."""
        if not self._has_tables:
            self._make_tables(cursor)

    def is_there(self) -> bool:
        """Whether the file has not been removed."""
        return self._place.identity() is not None

    def refuse_removed(self) -> None:
        """BackendUnavailable where the file has been removed since it was opened."""
        if self._newest is not None:
            self._place.must_be(self._newest)

    def _make_tables(self, cursor: sqlite3.Cursor) -> None:
        if self._is_up_to_date(cursor):  # another process may have been faster
            return
        for statement in self._missing(cursor):
            cursor.execute(statement)

    def missing(self) -> list[str]:
        """The statements that would make or update the tables now; nothing is opened for longer."""
        if not self.is_there():
            return ["begin immediate", *_statements(0, set()), "commit"]
        try:
            connection = sqlite3.connect(f"{Path(self.path).as_uri()}?mode=ro", uri=True)
            try:
                cursor = connection.cursor()
                if self._is_up_to_date(cursor):
                    return []
                return ["begin immediate", *self._missing(cursor), "commit"]
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self.wrapped(error) from error

    def _missing(self, cursor: sqlite3.Cursor) -> list[str]:
        version, names = self._version(cursor), _names(cursor)
        if version == VERSION:  # somebody has dropped some of them
            version = 0
        if not names & {"neoq_schema", "neoq_jobs"}:  # what else is there by such a name is not ours
            names = set()
        return _statements(version, names)

    def _is_up_to_date(self, cursor: sqlite3.Cursor) -> bool:
        return self._version(cursor) == VERSION and is_whole(_names(cursor))

    def _version(self, cursor: sqlite3.Cursor) -> int:
        """The version of the tables; 0 where it does not stand there, whatever tables there are."""
        if "neoq_schema" not in _names(cursor):
            return 0
        [version] = cursor.execute("select version from neoq_schema").fetchone() or [0]
        if type(version) is not int or version < 0:
            return 0
        if version > VERSION:
            raise BackendError(
                f"{self.path} has schema version {version} and this neoq knows only {VERSION}: it was used "
                "by a newer neoq; upgrade this one"
            )
        return version

    def _make_anew(self) -> None:
        """Make the tables that were dropped since the file was opened."""
        with self._gate:
            self._close_writer()
            try:
                self._open_writer()
            except sqlite3.Error as error:
                raise self.wrapped(error) from error
            finally:
                if self._closed:
                    self._disconnect()

    def _patiently(self, act: Callable[[], T], patience: float | None = None) -> T:
        """Repeat what meets the lock of another process, until busy_timeout (or less) is over.

        SQLite's own waiting sleeps for up to 100 ms at a time, which is long for a lock held for one.
        """
        give_up = None
        while True:
            try:
                return act()
            except sqlite3.OperationalError as error:
                now = machine.monotonic()
                if give_up is None:
                    give_up = now + (self._busy_timeout if patience is None else patience)
                if _code(error) not in _BUSY or now >= give_up:
                    raise

    # -- errors -----------------------------------------------------------------------------------------

    def wrapped(self, error: sqlite3.Error, *, outcome_unknown: bool = False) -> BackendError:
        """One of our errors for one of SQLite's, which is its cause."""
        code = _code(error)
        if code == sqlite3.SQLITE_INTERRUPT:
            wrapped: BackendError = broken_off(self.path)
        elif code in _WRONG:
            wrapped = BackendError(f"cannot use {self.path}: {_WRONG[code]} ({error})")
        elif code == sqlite3.SQLITE_CANTOPEN and len(os.fsencode(self.path)) > LONGEST_PATH:
            wrapped = BackendError(f"cannot use {self.path}: SQLite takes no path as long as that ({error})")
        elif code in _AWAY:
            wrapped = BackendUnavailable(
                f"cannot use {self.path}: {_AWAY[code]} ({error})", outcome_unknown=outcome_unknown
            )
        elif "no such table: neoq_" in str(error):
            wrapped = BackendError(
                f"{self.path}: {error}; neoq's tables are gone, and its next call outside a transaction of "
                "yours makes them anew"
            )
        else:
            wrapped = BackendError(f"{self.path}: {error}")
        wrapped.__cause__ = error
        return wrapped

    # -- reading ----------------------------------------------------------------------------------------

    def read(self, statement: str, values: Sequence[Any] = (), *, seconds: float | None = None) -> list[Any]:
        """The rows of one query, as of the last commit; LookTimeoutError where it takes longer than that."""
        try:
            return self._read(statement, values, seconds)
        except BackendError as error:
            if not _tables_are_gone(error):
                raise
        self._make_anew()
        return self._read(statement, values, seconds)

    def _read(self, statement: str, values: Sequence[Any], seconds: float | None) -> list[Any]:
        with self._read_gate:
            try:
                if self._reader is not None and not self._place.must_be(self._reader_to):
                    self._reader.close()
                    self._reader = None
                if self._reader is None:
                    self._reader, self._reader_to = self._connect()
                reader = self._reader
                return self._patiently(lambda: rows_of(reader, statement, values, seconds))
            except sqlite3.Error as error:
                raise self.wrapped(error) from error
            finally:
                if self._closed and self._reader is not None:
                    self._reader.close()
                    self._reader = None

    # -- writing ----------------------------------------------------------------------------------------

    def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Call ``work`` with the session inside a transaction and commit it, together with waiting ones.

        If it raises, it alone is undone. It may be called again if a commit failed. A commit that is not
        ``durable`` does not wait for the disk: it survives the end of this process, but not a power cut.
        """
        written: T
        try:
            written = self._in_group(work, durable=durable)
        except BackendError as error:
            if not _tables_are_gone(error):
                raise
            self._make_anew()
            written = self._in_group(work, durable=durable)
        return written

    def _commit(self, batch: Sequence[Operation]) -> None:
        with self._gate:
            try:
                if not self._try(batch) and not self._try(batch, apart=True):  # most often none fails
                    for operation in batch:  # the transaction broke: only the operation that broke it fails
                        self._try([operation])
            except BaseException as error:
                if self._writer is not None:
                    _roll_back(self._writer)
                if isinstance(error, sqlite3.Error):
                    raise self.wrapped(error) from error
                raise
            finally:
                if self._closed:
                    self._disconnect()

    def _try(self, batch: Sequence[Operation], *, apart: bool = False) -> bool:
        """Commit a batch in one transaction; False if it was rolled back and must be tried again."""
        if self._writer is not None and not self._place.must_be(self._writer_to):
            self._close_writer()
        if self._writer is None or self._session is None:
            self._open_writer()
        writer, session = self._writer, self._session
        assert writer is not None
        assert session is not None
        self._choose_mode(batch)
        self._patiently(session.begin)
        alone, committing = len(batch) == 1, False
        try:
            if self._work_apart(batch, writer.cursor()) if apart else self._work_together(batch, session):
                committing = True
                session.commit()
            else:
                session.do("rollback")
                if not alone:
                    return False
        except sqlite3.Error as error:
            _roll_back(writer)
            if not alone:
                return False
            known = not committing or _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}
            batch[0].error = self.wrapped(error, outcome_unknown=not known)
        for operation in batch:
            operation.ended = True
        self._commits += 1
        if not self._commits % LOG_SIZED_EVERY:
            self._size_log(writer)
        return True

    def _work_together(self, batch: Sequence[Operation], session: Session) -> bool:
        """Do all operations of a batch; False if one raised, and all must be undone."""
        for operation in batch:
            operation.error = None
            try:
                operation.value = operation.item(session)
            except sqlite3.Error:
                raise
            except Exception as error:
                operation.error = error
                return False
        session.close()
        return True

    def _work_apart(self, batch: Sequence[Operation], cursor: sqlite3.Cursor) -> bool:
        """Do all operations of a batch, each in a savepoint: one that raises is undone alone."""
        for operation in batch:
            operation.error = None
            cursor.execute("savepoint neoq")
            try:
                session = self.session_on(cursor)
                session.open()
                operation.value = operation.item(session)
                session.close()
            except sqlite3.Error:
                raise
            except Exception as error:
                operation.error = error
                cursor.execute("rollback to neoq")
            cursor.execute("release neoq")
        return True

    def _choose_mode(self, batch: Sequence[Operation]) -> None:
        durable = batch[0].durable or any(operation.durable for operation in batch)
        mode = self._synchronous if durable or self._synchronous == "off" else "normal"
        if mode != self._mode:
            assert self._writer is not None
            self._writer.execute(f"pragma synchronous = {mode}")
            self._mode = mode

    # -- fork -------------------------------------------------------------------------------------------

    def before_fork(self, held: list[threading.RLock]) -> None:
        """Let no connection be open while the process forks; ``held`` takes the gates that this closes."""
        gates = [gate for gate in (self._gate, self._read_gate) if gate.acquire(timeout=FORK_PATIENCE)]
        held += gates
        if len(gates) == 2 and (self._writer is None or not self._writer.in_transaction):
            self._disconnect()

    def forked_in_child(self) -> None:
        """Never close a connection that is still open: it is the parent's."""
        for connection in (self._writer, self._reader):
            if connection is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._writer = self._reader = None
        self._closed = True
        self._gate, self._read_gate = threading.RLock(), threading.RLock()
        self._in_group = GroupCommit(self._commit)
        self.fork_hook()


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary error code, 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _names(cursor: sqlite3.Cursor) -> set[str]:
    """The tables and indexes of ours that there are, and the columns of the jobs, as "neoq_jobs.held"."""
    return {name for (name,) in cursor.execute(NAMES)}


def _statements(version: int, names: set[str]) -> list[str]:
    return [
        "create table if not exists neoq_schema (version integer not null)",
        *statements_for(version, names),
        "delete from neoq_schema",
        f"insert into neoq_schema values ({VERSION})",  # noqa: S608
    ]


def _tables_are_gone(error: BackendError) -> bool:
    return "no such table: neoq_" in str(error.__cause__)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("rollback")
