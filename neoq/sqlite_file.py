"""One SQLite file as one process uses it: its connections, its errors, its one writer at a time.

Whoever wants to write while another commits waits, and the next commit takes all who wait along: one fsync
for many, see group_commit.py. There is no thread for it.

No connection is open across a fork. SQLite keeps its locks per process and would believe in the child that
it has those of the parent, so `_before_fork` closes them all, and both sides open new ones when they need
them.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from neoq.errors import BackendError, BackendUnavailable
from neoq.group_commit import Call, GroupCommit
from neoq.sqlite_schema import MIGRATIONS, VERSION

if TYPE_CHECKING:
    from neoq.sqlite_ledger import Ledger


T = TypeVar("T")
Work = Callable[["Ledger"], T]
Operation = Call[Work[Any], Any]

LOG_AT_LEAST, LOG_AT_MOST, LOG_SHARE = 2 << 20, 32 << 20, 4  # bytes of the write-ahead log, and of the file
LOG_SIZED_EVERY = 500  # commits
BUSY_SLICE = 0.005  # seconds that SQLite itself waits for a lock; we ask again until busy_timeout is over
FORK_PATIENCE = 5.0  # seconds that a fork waits for a commit to end
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
        ledger_on: Callable[[sqlite3.Cursor], Ledger],
    ) -> None:
        self.ledger_on = ledger_on
        self.path = os.path.realpath(path)  # a later chdir must not matter, nor which link leads to it
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._in_group: GroupCommit[Work[Any], Any] = GroupCommit(self._commit)
        self._gate = threading.RLock()  # over the writing connection
        self._writer: sqlite3.Connection | None = None
        self._mode = ""  # the writer's, as it was last set
        self._ledger: Ledger | None = None  # on the writer
        self._commits = 0
        self._read_gate = threading.RLock()  # over the reading one
        self._reader: sqlite3.Connection | None = None
        self._closed = False
        self.fork_hook: Callable[[], None] = lambda: None

    # -- open and close ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and bring the tables up to date; BackendError where that cannot be."""
        directory = Path(self.path).parent
        if not directory.is_dir():
            raise BackendUnavailable(f"cannot open {self.path}: the directory {directory} does not exist")
        if Path(self.path).is_dir():
            raise BackendUnavailable(f"cannot open {self.path}: it is a directory; name a file in it")
        self._refuse_second_name()
        with self._gate:
            _note_open(self)  # before there is anything to close
            try:
                self._writer = self._connect()
                self._migrate(self._writer)
                self._ledger = self.ledger_on(self._writer.cursor())
            except sqlite3.Error as error:
                self._disconnect()
                raise self.wrapped(error) from error
            except BaseException:
                self._disconnect()
                raise

    def _refuse_second_name(self) -> None:
        """By each of its names SQLite would keep another log, and workers would look for others elsewhere."""
        if Path(self.path).exists() and Path(self.path).stat().st_nlink > 1:
            raise BackendError(
                f"cannot use {self.path}: the file has a second name (a hard link), and used by two names it "
                "is damaged; remove one of them, and make a symbolic link where two are needed"
            )

    def close(self) -> None:
        """Close the connections. What is asked for later opens its own and closes it again."""
        with self._gate, self._read_gate:
            self._closed = True
            self._disconnect()
        _open_files.pop(id(self), None)

    def _disconnect(self) -> None:
        writer, self._writer, self._ledger, self._mode = self._writer, None, None, ""
        reader, self._reader = self._reader, None
        for connection in (reader, writer):
            if connection is not None:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_SLICE,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            mode = self._patiently(lambda: connection.execute("pragma journal_mode = wal").fetchone())
            if mode != ("wal",):
                raise BackendError(
                    f"{self.path} cannot use a write-ahead log (its journal mode is {mode[0]})"
                )
            connection.execute(f"pragma synchronous = {self._synchronous}")
            connection.execute("pragma cache_size = -16000")
            connection.execute("pragma temp_store = memory")  # where savepoints keep what they may undo
            self._size_log(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _size_log(self, connection: sqlite3.Connection) -> None:
        """Say how long the write-ahead log may grow before it is copied into the file.

        A short one is soon on the disk with its full length, and from then on an fsync costs half. In a
        large file the jobs of one log are on pages far apart, and a longer one has more of them on each.
        """
        [[size]] = connection.execute("pragma page_size")
        [[pages]] = self._patiently(lambda: connection.execute("pragma page_count").fetchall())
        log = min(max(LOG_AT_LEAST, pages * size // LOG_SHARE), LOG_AT_MOST)
        connection.execute(f"pragma wal_autocheckpoint = {log // size}")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._version(connection) == VERSION:
            return
        self._patiently(lambda: connection.execute("begin immediate"))
        try:
            version = self._version(connection)  # another process may have been faster
            if not version:
                connection.execute("create table neoq_schema (version integer not null)")
                connection.execute("insert into neoq_schema values (0)")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute("update neoq_schema set version = ?", (VERSION,))
            connection.execute("commit")
        except BaseException:
            _roll_back(connection)
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        known = "select 1 from sqlite_master where type = 'table' and name = 'neoq_schema'"
        if self._patiently(lambda: connection.execute(known).fetchone()) is None:
            return 0
        version = int(connection.execute("select version from neoq_schema").fetchone()[0])
        if version > VERSION:
            raise BackendError(
                f"{self.path} has schema version {version} and this neoq knows only {VERSION}: it was used "
                "by a newer neoq; upgrade this one"
            )
        return version

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do what may meet the lock of another process, until busy_timeout is over.

        SQLite's own waiting sleeps for up to 100 ms at a time, which is long for a lock held for one.
        """
        give_up = None
        while True:
            try:
                return act()
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                give_up = now + self._busy_timeout if give_up is None else give_up
                if _code(error) not in _BUSY or now >= give_up:
                    raise

    # -- errors -----------------------------------------------------------------------------------------

    def wrapped(self, error: sqlite3.Error, *, outcome_unknown: bool = False) -> BackendError:
        """One of our errors for one of SQLite's, which is its cause."""
        code = _code(error)
        if code in _WRONG:
            wrapped = BackendError(f"cannot use {self.path}: {_WRONG[code]} ({error})")
        elif code in _AWAY:
            wrapped = BackendUnavailable(
                f"cannot use {self.path}: {_AWAY[code]} ({error})", outcome_unknown=outcome_unknown
            )
        else:
            wrapped = BackendError(f"{self.path}: {error}")
        wrapped.__cause__ = error
        return wrapped

    # -- reading ----------------------------------------------------------------------------------------

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of one query, as of the last commit."""
        with self._read_gate:
            try:
                if self._reader is None:
                    self._reader = self._connect()
                reader = self._reader
                return self._patiently(lambda: reader.execute(statement, values).fetchall())
            except sqlite3.Error as error:
                raise self.wrapped(error) from error
            finally:
                if self._closed and self._reader is not None:
                    self._reader.close()
                    self._reader = None

    # -- writing ----------------------------------------------------------------------------------------

    def write(self, work: Work[T], *, lasting: bool = True) -> T:
        """Call ``work`` with the ledger inside a transaction and commit it, with those of others who wait.

        If it raises, it alone is undone. It may be called again where a commit failed. What need not
        be ``lasting`` outlives this process, and perhaps not a power cut: its commit waits for no disk.
        """
        written: T = self._in_group(work, lasting=lasting)
        return written

    def _commit(self, batch: Sequence[Operation]) -> None:
        with self._gate:
            try:
                if not self._try(batch) and not self._try(batch, apart=True):  # most often none fails
                    for operation in batch:  # the transaction broke: who broke it fails, the others do not
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
        """Commit a batch in one transaction; False where all of it was undone and is to be tried again."""
        if self._writer is None or self._ledger is None:
            self._writer = self._connect()
            self._ledger = self.ledger_on(self._writer.cursor())
        writer, ledger = self._writer, self._ledger
        self._choose_mode(batch)
        self._patiently(ledger.begin)
        alone, committing = len(batch) == 1, False
        try:
            if self._work_apart(batch, writer.cursor()) if apart else self._work_together(batch, ledger):
                committing = True
                ledger.commit()
            else:
                ledger.do("rollback")
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

    def _work_together(self, batch: Sequence[Operation], ledger: Ledger) -> bool:
        """Do what all of a batch want; False where one raised, and all is to be undone."""
        for operation in batch:
            operation.error = None
            try:
                operation.value = operation.item(ledger)
            except sqlite3.Error:
                raise
            except Exception as error:
                operation.error = error
                return False
        ledger.close()
        return True

    def _work_apart(self, batch: Sequence[Operation], cursor: sqlite3.Cursor) -> bool:
        """Do what all of a batch want, and undo what raises by itself."""
        for operation in batch:
            operation.error = None
            cursor.execute("savepoint neoq")
            try:
                ledger = self.ledger_on(cursor)
                ledger.open()
                operation.value = operation.item(ledger)
                ledger.close()
            except sqlite3.Error:
                raise
            except Exception as error:
                operation.error = error
                cursor.execute("rollback to neoq")
            cursor.execute("release neoq")
        return True

    def _choose_mode(self, batch: Sequence[Operation]) -> None:
        lasting = batch[0].lasting or any(operation.lasting for operation in batch)
        mode = self._synchronous if lasting or self._synchronous == "off" else "normal"
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
        """Never close what could not be closed before: it is the parent's."""
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


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("rollback")


class _Forks(threading.local):
    """The gates that this thread has closed, for each fork that it is in; several threads may fork."""

    def __init__(self) -> None:
        self.held: list[list[threading.RLock]] = []  # a signal handler may fork while its thread does


_open_files: dict[int, weakref.ref[SqliteFile]] = {}  # in one order for all threads, which wait for the gates
_forks = _Forks()


def _note_open(file: SqliteFile) -> None:
    key = id(file)
    _open_files[key] = weakref.ref(file, lambda _: _open_files.pop(key, None))


def _all_open() -> list[SqliteFile]:
    files = [reference() for reference in list(_open_files.values())]
    return [file for file in files if file is not None]


def _before_fork() -> None:
    held: list[threading.RLock] = []
    _forks.held.append(held)
    for file in _all_open():
        file.before_fork(held)


def _forked_in_parent() -> None:
    for gate in reversed(_forks.held.pop()):
        gate.release()


def _forked_in_child() -> None:
    """Every file is the parent's, also one that another thread has opened since this one began to fork."""
    _forks.held.clear()
    files = _all_open()
    _open_files.clear()
    for file in files:
        file.forked_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_forked_in_parent, after_in_child=_forked_in_child)
