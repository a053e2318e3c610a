"""How workers on one SQLite file tell that another one died: each holds a lock on a file of its own.

The kernel frees the lock with the process, however that ended, so others need not wait for its leases. The
files are in a directory beside the database, ``jobs.db-workers``, and have its rights.

A free lock proves a death only if the file is the very one that the worker has locked, so each file holds
its own inode. A missing file (a cleaner may have removed it), a copy from a restore, or a file that we may
not open proves nothing: then the leases and the heartbeats decide.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from neoq.errors import BackendUnavailable

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

T = TypeVar("T")

TRIES = 100  # to make a file that nobody else has locked for a moment, to look at it
is_worker = re.compile(r"[0-9a-f]{32}\.lock").fullmatch


class Sign(Enum):
    """What the lock of a worker says of it."""

    LIVES = "it is held"
    DIED = "it is free"
    UNKNOWN = "there is none to ask"


class Seen(Generic[T]):
    """What does not change while we watch, by the monotonic clock: the wall clock may have been set."""

    def __init__(self) -> None:
        self._since: dict[T, float] = {}

    def unchanged(self, there: Iterable[T], now: float, seconds: float) -> set[T]:
        """Those of the items that have been there for longer than so many seconds."""
        self._since = {one: self._since.get(one, now) for one in there}
        return {one for one, since in self._since.items() if now - since > seconds}


class WorkerLocks:
    """The lock of this process's worker, and a look at those of others."""

    def __init__(self, database: str, worker: str) -> None:
        self._database = Path(database)
        self._directory = Path(f"{database}-workers")
        self.worker = worker
        self._descriptor: int | None = None
        self._making: int | None = None  # before it is locked
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether this worker has taken its lock."""
        return self._descriptor is not None

    # -- our own ----------------------------------------------------------------------------------------

    def hold(self) -> str:
        """Take the lock, once, before anything is claimed; return the worker's name."""
        if not self.held:
            with self._lock:
                if not self.held:
                    self._take()
        return self.worker

    def hold_still(self) -> None:
        """Take the lock again if its file was removed or replaced."""
        if self._descriptor is None:
            self.hold()
        elif not self._is_at_its_place(self._descriptor):
            with self._lock:
                self._take()

    def _take(self) -> None:
        try:
            self._make_directory()
            before, self._descriptor = self._descriptor, self._locked()
        except OSError as error:
            raise BackendUnavailable(
                f"cannot lock a file in {self._directory}, which tells others that this worker lives: {error}"
            ) from error
        if before is not None:
            os.close(before)

    def _make_directory(self) -> None:
        """Make it for all users of the database, and follow no link that an attacker may have put there."""
        with suppress(FileExistsError):
            self._directory.mkdir(0o700)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                rights = self._rights()
                os.fchmod(directory, 0o700 | rights | (rights & 0o444) >> 2)
                self._give_to_all(directory)
            finally:
                os.close(directory)
        if self._directory.is_symlink() or (self._directory.exists() and not self._directory.is_dir()):
            raise NotADirectoryError(errno.ENOTDIR, "it must be a directory, and no link to one")

    def _rights(self) -> int:
        return stat.S_IMODE(self._database.stat().st_mode) & 0o666

    def _give_to_all(self, descriptor: int) -> None:
        """Give a file the group of the database; what root makes gets the owner of the database, too."""
        with suppress(OSError):
            owner = self._database.stat()
            os.chown(descriptor, -1 if os.geteuid() else owner.st_uid, owner.st_gid)

    def _locked(self) -> int:
        """Make and lock our file. One of its name that is there already is not ours: it is not locked."""
        path, rights = self._path(self.worker), self._rights()
        for _ in range(TRIES):
            path.unlink(missing_ok=True)
            try:
                self._making = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # the last of the others has just removed the directory
                self._make_directory()
                continue
            except FileExistsError:
                continue
            descriptor = self._making
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(descriptor, _name_of(descriptor))
                os.fchmod(descriptor, rights)
                self._give_to_all(descriptor)
            except BlockingIOError:  # another worker looks at all files, and has it for a moment
                os.close(descriptor)
                continue
            except BaseException:
                os.close(descriptor)
                raise
            finally:
                self._making = None
            return descriptor
        raise FileExistsError(errno.EEXIST, "somebody makes it over and over", str(path))

    def _is_at_its_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path(self.worker)))
        except OSError:
            return False

    def let_go(self) -> None:
        """Close the file as the end of the process does: also in the child of a fork.

        The lock belongs to parent and child together, so it is closed there and not unlocked.
        """
        descriptors = self._descriptor, self._making
        self._descriptor = self._making = None
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)

    def release(self) -> None:
        """Give the lock up and remove the file; the directory with it when it is empty."""
        if self._descriptor is None:
            return
        self.forget(self.worker)
        self.let_go()
        with suppress(OSError):  # others work here
            self._directory.rmdir()

    # -- those of others --------------------------------------------------------------------------------

    def sign_of(self, worker: str) -> Sign:
        """What the lock of a worker says."""
        if worker == self.worker:
            return Sign.LIVES
        if not is_worker(f"{worker}.lock"):
            return Sign.UNKNOWN
        try:
            descriptor = os.open(self._path(worker), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return Sign.UNKNOWN
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return Sign.DIED if os.read(descriptor, 100) == _name_of(descriptor) else Sign.UNKNOWN
        except BlockingIOError:
            return Sign.LIVES
        except OSError:
            return Sign.UNKNOWN
        finally:
            os.close(descriptor)

    def is_dead(self, worker: str) -> bool:
        """Whether the lock of a worker proves that it died."""
        return self.sign_of(worker) is Sign.DIED

    def forget(self, worker: str) -> None:
        """Remove the file of a worker that died, if we may."""
        with suppress(OSError):
            self._path(worker).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Remove the unlocked files that belong to no known worker."""
        with suppress(OSError):
            for path in self._directory.iterdir():
                if is_worker(path.name) and path.stem not in known and path.stem != self.worker:
                    self._sweep(path.stem)

    def _sweep(self, worker: str) -> None:
        with suppress(OSError):
            descriptor = os.open(self._path(worker), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.forget(worker)
            finally:
                os.close(descriptor)

    def _path(self, worker: str) -> Path:
        return self._directory / f"{worker}.lock"


def has_flock() -> bool:
    """Whether this system has the locks of `WorkerLocks`."""
    return fcntl is not None


def _name_of(descriptor: int) -> bytes:
    """The inode of the file; a copy has another one."""
    return b"%d" % os.fstat(descriptor).st_ino
