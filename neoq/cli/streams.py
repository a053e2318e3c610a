"""Standard output and standard error of the command, whose readers may go away early, as `head` does.

Output that nobody reads any more ends a command. What it says on standard error is no output: without a
reader it is dropped. A worker outlives the readers of both.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


def fill_closed() -> None:
    """Open what is closed of the descriptors 0 to 2, or a file or a socket would take the place.

    Then what a handler prints, or a log line, would go to the store.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class OutputError(Exception):
    """What a command was asked for cannot be written; ``unread``: nobody reads it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output cannot be written: {error.strerror or error}")
        self.unread = isinstance(error, BrokenPipeError)


def show(text: str, end: str = "\n", *, flush: bool = False) -> None:
    """Print what the command was asked for: all output goes this way. Raises OutputError."""
    try:
        print(text, end=end, flush=flush)
    except OSError as error:
        raise OutputError(error) from error


def say(text: str, end: str = "\n") -> None:
    """Tell a person something that is no part of the output, if there is somebody to hear it."""
    if sys.stderr is None:  # print would take standard output
        return
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        pass


def drop_unwritten() -> None:
    """Forget what cannot be written, or Python would complain of it at its end, and end with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            _close_to(stream)
        except ValueError:  # the program has closed it
            pass


def _close_to(stream: TextIO) -> None:
    """Let a stream write to nobody."""
    try:
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, stream.fileno())
        os.close(nobody)
    except OSError:  # it has no descriptor
        pass


def outlive_readers() -> None:
    """From now on, what is printed while nobody reads it is dropped; a job that prints goes on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _outliving(stream))


def _outliving(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = _Outliving(stream.fileno(), "wb", closefd=False)
    raw.name = stream.name
    unbuffered = stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=unbuffered,
    )


class _Outliving(io.FileIO):
    """A descriptor whose reader may go away. Another may come, as to a pipe that has a name."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
