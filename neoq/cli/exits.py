"""The exit codes of the command, which scripts and supervisors rely on, and the error that carries one."""

from __future__ import annotations

import os
from enum import IntEnum


class Exit(IntEnum):
    """How the command ended."""

    OK = 0  # done; of a worker: it was asked to stop, and interrupted nothing
    FAILED = 1
    USAGE = 2
    NOT_IMPORTED = 3  # the application cannot be imported
    UNREACHABLE = 4  # the store cannot be reached, or is none
    INTERRUPTED = 5  # stopped, and jobs were interrupted
    UNREAD = 141  # the reader of its output is gone; as of a program that SIGPIPE has ended


class CommandError(Exception):
    """Ends the command with a message for its user, and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def refuse_elsewhere(command: str) -> None:
    """Refuse a command that needs the signals and sockets of POSIX. Raises CommandError."""
    if os.name != "posix":
        raise CommandError(
            f"{command} needs Linux or another POSIX system; call backend.run() in a program of your own",
            Exit.USAGE,
        )
