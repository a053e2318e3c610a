"""The locks of workers where the system has no flock: on Windows, by the library filelock."""

from __future__ import annotations

from contextlib import suppress

from filelock import FileLock, Timeout

from neoq.errors import BackendUnavailable
from neoq.sqlite.alive import Sign, WorkerLocks, is_worker


class FileLocks(WorkerLocks):
    """As `WorkerLocks`. A file that is open cannot be removed on Windows, so it need not say which it is."""

    def __init__(self, database: str, worker: str) -> None:
        super().__init__(database, worker)
        self._own: FileLock | None = None
        self._died: set[str] = set()  # the library may remove a file that was free when it is asked

    @property
    def held(self) -> bool:
        """Whether this worker has taken its lock."""
        return self._own is not None

    def hold_still(self) -> None:
        """Take the lock; nobody can remove its file afterwards."""
        self.hold()

    def _take(self) -> None:
        own = self._lock_of(self.worker)
        try:
            self._directory.mkdir(exist_ok=True)
            own.acquire()
        except (OSError, Timeout) as error:
            raise BackendUnavailable(
                f"cannot lock a file in {self._directory}, which tells others that this worker lives: {error}"
            ) from error
        self._own = own

    def let_go(self) -> None:
        """Free the lock, and leave its file."""
        own, self._own = self._own, None
        if own is not None:
            own.release()

    def release(self) -> None:
        """Give the lock up and remove the file; the directory with it when it is empty."""
        if self._own is None:
            return
        self.let_go()
        self.forget(self.worker)
        with suppress(OSError):  # others work here
            self._directory.rmdir()

    def sign_of(self, worker: str) -> Sign:
        """What the lock of a worker says."""
        if worker == self.worker:
            return Sign.LIVES
        if worker in self._died:
            return Sign.DIED
        path = self._path(worker)
        if not is_worker(path.name) or not path.exists():
            return Sign.UNKNOWN
        lock = self._lock_of(worker)
        try:
            lock.acquire()
        except Timeout:
            return Sign.LIVES
        except OSError:
            return Sign.UNKNOWN
        self._died.add(worker)
        lock.release()
        return Sign.DIED

    def _sweep(self, worker: str) -> None:
        if self.sign_of(worker) is Sign.DIED:
            self.forget(worker)

    def _lock_of(self, worker: str) -> FileLock:
        return FileLock(self._path(worker), timeout=0, thread_local=False)
