"""A handler that is defined again, in an interactive session and elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import neoq

PATIENCE = 20.0
ANOTHER = "another backend of this process still takes jobs"


@pytest.fixture
def at_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


def defined(version: str) -> Callable[[neoq.Job], str]:
    """A handler with the same name each time, as a cell of a notebook makes it."""

    def handler(_job: neoq.Job) -> str:
        return version

    return handler


def results(backend: neoq.Backend, jobs: int) -> set[Any]:
    ids = [backend.enqueue("q", {"n": n}).id for n in range(jobs)]
    return {backend.wait(job_id or 0, timeout=PATIENCE).result for job_id in ids}


@pytest.mark.usefixtures("at_a_prompt")
def test_a_handler_defined_again_at_a_prompt_replaces_the_one_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At a prompt the new handler runs, with its options and the middleware, as often as it is defined."""
    seen = []

    def middleware(job: neoq.Job, call_next: Any) -> Any:
        seen.append(job.queue)
        return call_next(job)

    with caplog.at_level(logging.INFO, "neoq"), neoq.MemBackend(unique=False) as backend:
        backend.use(middleware)
        backend.listen("q", defined("1"), concurrency=1)
        assert results(backend, 2) == {"1"}
        backend.listen("q", defined("2"), concurrency=2)
        assert results(backend, 2) == {"2"}
        backend.listen("q", defined("3"), concurrency=3, unique=True)
        assert results(backend, 2) == {"3"}
        assert seen == ["q"] * 6
        with pytest.raises(neoq.ListenerExistsError):
            backend.listen("q", print)
    assert [record.message for record in caplog.records].count(
        "the handler of queue q was defined again: the new one is used"
    ) == 2


@pytest.mark.usefixtures("at_a_prompt")
def test_a_periodic_handler_defined_again_at_a_prompt_keeps_one_schedule() -> None:
    """At a prompt a cron that is registered again has its new spec, and no second one."""
    with neoq.MemBackend() as backend:
        backend.listen_cron("@every 1h", defined("1"), queue="q")
        backend.listen_cron("@every 2h", defined("2"), queue="q")
        assert [cron.schedule.spec for cron in backend.engine.crons] == ["@every 2h"]
        with pytest.raises(neoq.ListenerExistsError):
            backend.listen("q", defined("3"))


def test_a_program_is_told_how_to_replace_a_handler() -> None:
    """Outside of a session a handler of the same name is refused, and the error says what to do."""
    with neoq.MemBackend() as backend:
        backend.listen("q", defined("1"))
        with pytest.raises(neoq.ListenerExistsError, match=r"shutdown\(\)"):
            backend.listen("q", defined("2"))
        assert results(backend, 1) == {"1"}


@pytest.mark.usefixtures("at_a_prompt")
def test_an_older_backend_runs_the_new_handler_at_a_prompt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At a prompt no job runs the old code of a backend that was made before, and one line tells of it."""
    path = str(tmp_path / "jobs.db")
    with neoq.SqliteBackend(path) as old, neoq.SqliteBackend(path) as new:
        old.listen("q", defined("old"))
        assert results(old, 1) == {"old"}
        new.listen("q", defined("new"))
        assert results(new, 20) == {"new"}
    assert [record.message.startswith(ANOTHER) for record in caplog.records] == [True]


def test_a_program_is_warned_of_an_older_backend(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Elsewhere one line warns of the older backend, which keeps its handler."""
    path = str(tmp_path / "jobs.db")
    with neoq.SqliteBackend(path) as old, neoq.SqliteBackend(path) as new:
        old.listen("q", defined("old"))
        new.listen("q", defined("new"))
        assert [record.message.startswith(ANOTHER) for record in caplog.records] == [True]
        assert old.engine.listeners["q"].call is not new.engine.listeners["q"].call


def test_other_backends_are_no_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of another store or handler, the same function, or a backend that was shut down."""
    handler = defined("both")
    path = str(tmp_path / "jobs.db")
    with neoq.SqliteBackend(path) as gone:
        gone.listen("q", defined("gone"))
    with (
        neoq.SqliteBackend(path) as one,
        neoq.SqliteBackend(path) as two,
        neoq.SqliteBackend(str(tmp_path / "other.db")) as other,
        neoq.MemBackend() as first,
        neoq.MemBackend() as second,
    ):
        one.listen("q", handler)
        two.listen("q", handler)
        two.listen("r", defined("r"))
        one.listen("r", print)
        for backend in (other, first, second):
            backend.listen("q", defined("elsewhere"))
    assert not caplog.records
