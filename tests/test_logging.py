"""What neoq logs: each line is one line, and none is lost because logging was configured later."""

from __future__ import annotations

import io
import logging
import logging.config
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import neoq
from neoq.testing.cases.suite import eventually
from neoq.wording.safe_logger import SafeLogger

HOSTILE = "x\n2026-01-01 CRITICAL all is lost\r\x1b[31m\x00\x85\u2028\u202e\ud800"


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """The messages of the logger that neoq uses, as a file would have them, without tracebacks."""
    lines: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, ear = logging.getLogger("neoq"), Ear()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(ear)
    yield lines
    logger.removeHandler(ear)
    logger.setLevel(before)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What neoq logs."""
    caught: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            caught.append(record)

    logger, ear = logging.getLogger("neoq"), Ear()
    logger.addHandler(ear)
    yield caught
    logger.removeHandler(ear)


class Chatty(Exception):
    """It says very much."""


def chattering(job: neoq.Job) -> None:
    try:
        raise Chatty("cause" * 4_000_000)
    except Chatty as cause:
        raise Chatty("text" * 5_000_000) from cause


def failing_too(job: neoq.Job, error: BaseException) -> None:
    chattering(job)


def test_what_exceptions_say_is_bounded_in_the_log(records: list[logging.LogRecord]) -> None:
    """An exception of 20 MB is logged with its class, its traceback and its cause, and a part of its text."""
    with neoq.MemBackend(max_retries=0) as backend:
        backend.listen("q", chattering, on_error=failing_too)
        backend.enqueue("q")
        assert backend.drain(20)
    failed, of_on_error = [logging.Formatter().format(record) for record in records if record.exc_info]
    for text in (failed, of_on_error):
        assert len(text) < 100_000
        assert text.count("in chattering") == 2
        assert text.count("test_logging.Chatty: ") == 2
        assert "direct cause" in text
        assert "20,000,000 bytes in all" in text


def test_an_exception_of_usual_size_is_logged_as_it_is(records: list[logging.LogRecord]) -> None:
    """What reads the log's records, as Sentry does, gets the very exception, its notes and causes with it."""
    error = ValueError("it is wrong")
    error.__cause__ = KeyError("why")
    SafeLogger(logging.getLogger("neoq")).error("failed", exc_info=error)
    [record] = records
    assert record.exc_info == (ValueError, error, None)
    SafeLogger(logging.getLogger("neoq")).error("%s", "x" * 10_000_000)
    assert len(records[-1].getMessage()) < 100_000


class Forger(Exception):
    """Its text, its class and its notes are lines of a log."""

    def __str__(self) -> str:
        return HOSTILE


def forging(job: neoq.Job) -> None:
    if job.payload.get("discard"):
        raise neoq.Discard(HOSTILE)
    raise type(f"Forger{HOSTILE}", (Forger,), {})


def test_no_text_of_a_user_begins_a_line(heard: list[str]) -> None:
    """The text of an exception, its class and the reason of a Discard stay on the line that tells of them."""
    with neoq.MemBackend(max_retries=1) as backend:
        backend.listen("q", forging, retry=neoq.RetryPolicy(delay=0))
        jobs = [backend.enqueue("q"), backend.enqueue("q", {"discard": True})]
        for job in jobs:
            assert backend.wait(job.id, timeout=20).status is neoq.Status.DEAD  # type: ignore[arg-type]
    assert any("all is lost" in line for line in heard)
    for line in heard:
        assert line.isprintable(), line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain é €", "plain é €"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u2028\u202e\x85", r"\u2028\u202e\x85"),
        ("a\\nb", "a\\nb"),
        (ValueError("a\nb"), r"a\nb"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_an_argument_stays_on_its_line(heard: list[str], value: Any, shown: str) -> None:
    """What is not printable in an argument is escaped; all else is as it was."""
    SafeLogger(logging.getLogger("neoq")).warning("it says %s", value)
    assert heard == [f"it says {shown}"]


def test_the_stack_of_a_handler_that_hangs_has_a_line_for_each_frame(heard: list[str]) -> None:
    """A stack of ours keeps its lines in the log, so that people can read it."""
    gate = threading.Event()
    with neoq.MemBackend(max_retries=0, shutdown_timeout=1) as backend:

        @backend.listen("q", timeout=0.05)
        def handler(job: neoq.Job) -> None:
            gate.wait(20)

        backend.wait(backend.enqueue("q").id, 20)
        eventually(lambda: any("hangs at:" in text for text in heard), "it is logged")
        gate.set()
    [text] = [text for text in heard if "hangs at:" in text]
    assert "in handler" in text
    assert len(text.splitlines()) > 5


def test_a_value_that_cannot_be_shown_loses_no_line(heard: list[str]) -> None:
    """A line is logged though the text of an argument cannot be had."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    SafeLogger(logging.getLogger("neoq")).warning("it says %s", Silent())
    assert heard == ["it says <Silent>"]


def test_numbers_stay_numbers(heard: list[str]) -> None:
    """A message that formats numbers gets numbers."""
    SafeLogger(logging.getLogger("neoq")).info("%d jobs in %.1f s", 3, 0.25)
    assert heard == ["3 jobs in 0.2 s"]


class Configured:
    """Logging as a program configures it after its backend was made; undone at the end."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
        self._before = [(logger, logger.disabled) for logger in loggers]
        self._handlers, self._level = logging.root.handlers[:], logging.root.level

    def undo(self) -> None:
        for logger, disabled in self._before:
            logger.disabled = disabled
        logging.root.handlers[:] = self._handlers
        logging.root.setLevel(self._level)


@pytest.fixture
def configured() -> Iterator[Configured]:
    """Logging before it is configured."""
    state = Configured()
    yield state
    state.undo()


def by_dict(state: Configured, tmp_path: Any) -> None:
    handler = {"class": "logging.StreamHandler", "stream": state.out}
    root = {"handlers": ["h"], "level": "INFO"}
    logging.config.dictConfig({"version": 1, "handlers": {"h": handler}, "root": root})


def by_file(state: Configured, tmp_path: Any) -> None:
    file = tmp_path / "logging.ini"
    file.write_text(
        textwrap.dedent("""
        [loggers]
        keys=root
        [handlers]
        keys=h
        [formatters]
        keys=
        [logger_root]
        level=INFO
        handlers=h
        [handler_h]
        class=StreamHandler
        args=()
        """)
    )
    logging.config.fileConfig(file)
    logging.root.handlers[0].setStream(state.out)  # type: ignore[attr-defined]


@pytest.mark.parametrize("configure", [by_dict, by_file])
@pytest.mark.parametrize("name", ["neoq", "neoq.jobs"])
def test_logging_that_is_configured_later(
    configured: Configured, configure: Any, name: str, tmp_path: Any
) -> None:
    """A failed job is seen though logging.config has switched off the loggers that it does not name."""
    with neoq.MemBackend(logger=name) as backend:
        backend.listen("q", lambda job: 1 / 0, max_retries=0)
        configure(configured, tmp_path)
        assert logging.getLogger(name).disabled
        job = backend.enqueue("q")
        assert backend.wait(job.id, timeout=20).status is neoq.Status.DEAD  # type: ignore[arg-type]
    said = configured.out.getvalue()
    assert "ZeroDivisionError" in said
    assert said.count("disable_existing_loggers=False") == 1


def test_a_logger_of_the_users_own_stays_off(configured: Configured) -> None:
    """A logger that is not neoq's is its owner's to switch on and off, and a level silences neoq's."""
    mine = logging.getLogger("mine.of_test_logging")
    mine.disabled = True
    SafeLogger(mine).error("not heard")
    assert mine.disabled
    mine.disabled = False
