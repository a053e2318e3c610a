"""How workers on one SQLite file tell that another one died: each holds a lock on a file of its own.

The kernel frees the lock with the process, however that ended, so others need not wait for its leases. The
files are in a directory beside the database, ``jobs.db-workers``.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from neoq.errors import BackendUnavailable


class WorkerLocks:
    """The lock of this process's worker, and a look at those of others."""

    def __init__(self, database: str, worker: str) -> None:
        self._directory = Path(f"{database}-workers")
        self.worker = worker
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether this worker has ever said that it lives."""
        return self._descriptor is not None

    def hold(self) -> str:
        """Take the lock, once, before anything is claimed; return the worker's name."""
        if self._descriptor is None:
            with self._lock:
                self._hold()
        return self.worker

    def _hold(self) -> None:
        if self._descriptor is not None:
            return
        try:
            self._descriptor = self._locked()
        except OSError as error:
            raise BackendUnavailable(
                f"cannot lock a file in {self._directory}, which tells others that this worker lives: {error}"
            ) from error

    def _locked(self) -> int:
        path = self._path(self.worker)
        while True:
            self._directory.mkdir(exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                break
            except FileNotFoundError:  # the last of the others has just removed the directory
                continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else knows it yet
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _path(self, worker: str) -> Path:
        return self._directory / f"{worker}.lock"

    def is_dead(self, worker: str) -> bool:
        """Whether nobody holds the lock of a worker."""
        if worker == self.worker:
            return False
        try:
            descriptor = os.open(self._path(worker), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def forget(self, worker: str) -> None:
        """Remove the file of a worker that died."""
        self._path(worker).unlink(missing_ok=True)

    def let_go(self) -> None:
        """Close the file without a word, as the end of the process does: also in the child of a fork.

        The lock belongs to parent and child together, so it is closed there and not unlocked.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def release(self) -> None:
        """Give the lock up and remove the file; the directory with it when it is empty."""
        if self._descriptor is None:
            return
        self.forget(self.worker)
        self.let_go()
        try:
            self._directory.rmdir()
        except OSError:
            pass  # others work here
