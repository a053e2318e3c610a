"""Where a worker has its socket for `neoq health`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from neoq.cli.exits import CommandError, Exit

LONGEST = 100  # bytes of a socket's path; the system takes 107
_TMP = "/tmp"  # noqa: S108  # the directory in it is this user's own


def socket_of(name: str) -> Path:
    """The socket of the worker of that name.

    In $NEOQ_RUNTIME_DIR, else in $XDG_RUNTIME_DIR, else in a directory of this user's own under $TMPDIR, or
    under /tmp where that is too long for a socket.
    """
    for variable in ("NEOQ_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        if folder := os.environ.get(variable):
            folders = [folder]
            break
    else:  # tempfile is slow to import
        folders = [f"{root}/neoq-{os.getuid()}" for root in (os.environ.get("TMPDIR", _TMP), _TMP)]
    paths = [Path(folder) / f"neoq-{name}.sock" for folder in folders]
    for path in paths:
        if len(os.fsencode(path)) <= LONGEST:
            return path
    raise CommandError(f"the path {paths[0]} is too long for a socket: set NEOQ_RUNTIME_DIR", Exit.USAGE)


def make_folder(path: Path) -> None:
    """Make the directory of a socket, and refuse one in which others could put theirs."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.parent.stat()
    if found.st_uid not in {os.getuid(), 0} or stat.S_IMODE(found.st_mode) & stat.S_IWOTH:
        raise PermissionError(f"{path.parent} belongs to others, or all may write there")
