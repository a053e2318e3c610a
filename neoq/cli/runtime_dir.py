"""Where a worker has its socket for `neoq health`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from neoq.cli.exits import CommandError, Exit

LONGEST = 100  # bytes of a socket's path; the system takes 107


def socket_of(name: str) -> Path:
    """The socket of the worker of that name.

    In $NEOQ_RUNTIME_DIR, else in $XDG_RUNTIME_DIR, else in a directory of this user's own.
    """
    for variable in ("NEOQ_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        if folder := os.environ.get(variable):
            break
    else:
        folder = f"{os.environ.get('TMPDIR', '/tmp')}/neoq-{os.getuid()}"  # noqa: S108  # tempfile is slow to import
    path = Path(folder) / f"neoq-{name}.sock"
    if len(os.fsencode(path)) > LONGEST:
        raise CommandError(f"the path {path} is too long for a socket: set NEOQ_RUNTIME_DIR", Exit.USAGE)
    return path


def make_folder(path: Path) -> None:
    """Make the directory of a socket, and refuse one in which others could put theirs."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.parent.stat()
    if found.st_uid not in {os.getuid(), 0} or stat.S_IMODE(found.st_mode) & stat.S_IWOTH:
        raise PermissionError(f"{path.parent} belongs to others, or all may write there")
