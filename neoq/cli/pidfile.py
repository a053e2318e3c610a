"""The file with the pid of a worker, which another worker of the same file finds locked."""

from __future__ import annotations

import fcntl
import os
from typing import IO

from neoq.cli.exits import CommandError, Exit


def pidfile(path: str) -> IO[str]:
    """Write our pid into a file that is locked as long as we live; refuse one that another has locked."""
    try:
        file = open(path, "a+", encoding="ascii")  # noqa: PTH123, SIM115
    except OSError as error:
        raise CommandError(f"--pidfile {path}: {error.strerror}", Exit.USAGE) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        pid = file.read().strip()
        file.close()
        raise CommandError(f"--pidfile {path}: a worker runs already, process {pid}", Exit.USAGE) from None
    file.truncate(0)
    print(os.getpid(), file=file, flush=True)
    return file
