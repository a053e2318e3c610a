"""Where a SQLite file is: what may be there, and whether the same file still is.

SQLite opens a file once and asks nobody again. If that file is removed or another is put in its place, it
goes on with one that nobody else can find.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from neoq.errors import BackendError, BackendUnavailable, ConfigError

Identity = tuple[int, int]  # device and inode


def wrong_with(path: str) -> str | None:
    """What keeps a name from being that of a database; None where nothing does."""
    if path == ":memory:" or path.startswith("file:"):
        return "jobs are kept in a plain file. In memory they need no SQLite: memory://"
    if "\0" in path:
        return "the name of a file has no NUL character in it"
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        return f"this system cannot write that name: {error}"
    if path.startswith("~") and os.path.dirname(path):  # noqa: PTH120  # a Path would lose the ./ of ./~
        return "~ is not replaced by a home directory; write that out, or ./~ for a directory of that name"
    return None


class Place:
    """The path of a database."""

    def __init__(self, path: str) -> None:
        try:
            self.path = os.path.realpath(path)  # a later chdir must not matter, nor which link leads to it
        except OSError as error:
            problem = "relative to a working directory that is gone or closed to us; name the whole path"
            raise ConfigError([f"path is {path!r}, {problem} ({error.strerror})"]) from error

    def check(self, *, make_with: int | None = None) -> None:
        """Raise if no database can be there; make the file if it must have certain permissions."""
        try:
            self._check_directory()
            try:
                there = Path(self.path).stat()
            except FileNotFoundError:
                if make_with is not None:
                    self._make(make_with)
                return
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BackendUnavailable(f"cannot open {self.path}: {reason}") from error
        if stat.S_ISDIR(there.st_mode):
            raise BackendUnavailable(f"cannot open {self.path}: it is a directory; name a file in it")
        if not stat.S_ISREG(there.st_mode):
            raise BackendError(f"cannot use {self.path}: it is a device, a pipe or a socket; name a file")
        if there.st_nlink > 1:
            # By each of its names SQLite would keep another log, and workers would look for others elsewhere.
            raise BackendError(
                f"cannot use {self.path}: the file has a second name (a hard link), and used by two names it "
                "is damaged; remove one of them, and make a symbolic link where two are needed"
            )

    def _check_directory(self) -> None:
        directory = Path(self.path).parent
        try:
            there = directory.stat()
        except FileNotFoundError:
            raise BackendUnavailable(
                f"cannot open {self.path}: the directory {directory} does not exist"
            ) from None
        if not stat.S_ISDIR(there.st_mode):
            raise BackendUnavailable(f"cannot open {self.path}: {directory} is no directory")

    def _make(self, mode: int) -> None:
        """Make an empty file, without opening it where that can be: to close it would free SQLite's locks."""
        try:
            try:
                os.mknod(self.path, stat.S_IFREG | mode)
            except (AttributeError, PermissionError):
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            Path(self.path).chmod(mode)  # whatever the umask
        except FileExistsError:
            pass  # another process was faster

    def identity(self) -> Identity | None:
        """Which file is there; None where there is none."""
        try:
            there = os.stat(self.path)  # noqa: PTH116  # a Path takes three times as long, at each commit
        except (FileNotFoundError, NotADirectoryError):
            return None
        return there.st_dev, there.st_ino

    def must_be(self, identity: Identity) -> bool:
        """Whether a file is still the one that is there; BackendUnavailable where there is none."""
        try:
            there = os.stat(self.path)  # noqa: PTH116  # as in `identity`, which would cost one call more
        except (FileNotFoundError, NotADirectoryError):
            raise self.removed() from None
        except OSError:
            return True  # we may not look any more, and the connection is still good
        return (there.st_dev, there.st_ino) == identity

    def removed(self) -> BackendUnavailable:
        """The error for a file that was removed while it was open: nobody could find what is written."""
        return BackendUnavailable(
            f"cannot use {self.path}: it was removed or renamed while this process had it open, so nothing "
            "is written any more; put it back, or restart this process to begin with a new file"
        )
