"""The logger of the package: it cannot fail a job, and no text of a user can look like another line of it."""

from __future__ import annotations

import logging
import sys
from typing import Any

from neoq.wording.bounds import MAX_TRACEBACK, cut, shortened


class SafeLogger(logging.LoggerAdapter[Any]):
    """A logger that ignores the exceptions of its handlers, so that logging cannot fail a job.

    Unprintable characters in an argument (an error, a queue's name) are escaped, so that a user's text cannot
    look like another log line. A very long text, also that of an exception, is cut, so that it cannot fill
    the disk.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message; an exception of a handler is dropped."""
        try:
            _switch_on(self.logger)
            if self.logger.isEnabledFor(level):
                if kwargs.get("exc_info"):
                    kwargs["exc_info"] = _bounded(kwargs["exc_info"])
                self.logger.log(level, msg, *map(_on_one_line, args), **{"stacklevel": 2, **kwargs})
        except Exception:  # noqa: S110  # there is nowhere to report it
            pass


class Lines(str):
    """A text of neoq's that may have several lines, such as a stack."""

    __slots__ = ()


def _on_one_line(value: object) -> object:
    if value is None or isinstance(value, (int, float, Lines)):
        return value
    try:
        text = str(value)
    except Exception:  # an exception's own code may do anything
        text = f"<{type(value).__name__}>"
    text = cut(text, MAX_TRACEBACK)
    return text if text.isprintable() else "".join(map(_printable, text))


def _bounded(exc_info: Any) -> Any:
    """The ``exc_info`` of a log call, with the exception's text cut if it is too long."""
    if exc_info is True:
        exc_info = sys.exc_info()
    elif isinstance(exc_info, BaseException):
        exc_info = type(exc_info), exc_info, exc_info.__traceback__
    _, error, trace = exc_info
    if error is None:
        return exc_info
    error = shortened(error)
    return type(error), error, trace


def _printable(sign: str) -> str:
    return sign if sign.isprintable() else repr(sign)[1:-1]


def _switch_on(logger: Any) -> None:
    """Enable a logger that logging.config has disabled: jobs would fail in silence."""
    while isinstance(logger, logging.LoggerAdapter):
        logger = logger.logger
    if logger.disabled and logger.name.partition(".")[0] == "neoq":
        logger.disabled = False
        logger.warning(
            "the logger %s was disabled, and is enabled again: logging.config disables each logger that it "
            "does not name. Set disable_existing_loggers=False there; to silence neoq, set a level",
            logger.name,
        )
