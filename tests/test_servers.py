"""Under gunicorn and Flask's reloader, which fork or import twice, each process runs its own jobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PROGRAMS, running
from tests.web_servers import PATIENCE, alive, answers, both_workers_serve, get, gunicorn, port_of, until

pytest.importorskip("flask")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the application notes each job that it ran."""
    path = tmp_path / "jobs.log"
    path.touch()
    return path


def names(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines() if not line.startswith("tick")]


@pytest.mark.parametrize("use", ["unused", "used"])
@pytest.mark.parametrize("options", [["--preload"], []], ids=["preload", "plain"])
def test_gunicorn_workers_each_run_their_own_jobs(log: Path, options: list[str], use: str) -> None:
    """With two workers, forked before or after the import, each job runs in its own process."""
    env = {"USE_BEFORE_FORK": "1"} if use == "used" else {}
    with gunicorn(log, "--workers", "2", *options, env=env) as (child, port):
        both_workers_serve(child, port)
        child.signal(signal.SIGTERM)
        assert child.exit_code() == 0
    assert len(names(log)) == len(set(names(log))) + names(log).count("at-import") - (
        "at-import" in names(log)
    )
    assert ("at-import" in names(log)) is (use == "used")


def test_gunicorn_threads_share_a_worker(log: Path) -> None:
    """With a threaded worker the request threads share one backend."""
    with gunicorn(log, "--threads", "4") as (_child, port):
        found = [get(port, f"/run/job{n}") for n in range(20)]
        assert len({answer["pid"] for answer in found}) == 1
        assert all(answer["ran"]["pid"] == answer["pid"] for answer in found)


@pytest.mark.parametrize("options", [["--preload"], []], ids=["preload", "plain"])
def test_gunicorn_stops_after_the_jobs_that_it_accepted(log: Path, options: list[str]) -> None:
    """A worker that is stopped runs the jobs that it accepted before it ends."""
    with gunicorn(log, *options) as (child, port):
        for n in range(6):
            get(port, f"/later/slow{n}/0.2")
        child.signal(signal.SIGTERM)
        assert child.exit_code() == 0
        assert {f"slow{n}" for n in range(6)} <= set(names(log))


def test_gunicorn_replaces_a_worker_that_was_killed(log: Path) -> None:
    """After kill -9 of a worker its successor runs jobs."""
    with gunicorn(log, "--preload") as (child, port):
        first = get(port, "/run/first")["pid"]
        os.kill(first, signal.SIGKILL)

        def successor() -> bool:
            found = answers(port, f"/run/second-{time.monotonic_ns()}")
            return found is not None and found["pid"] != first and found["ran"]["pid"] == found["pid"]

        until(successor, "another worker serves", child)


def test_gunicorn_reloads_at_sighup(log: Path) -> None:
    """SIGHUP replaces the workers; the new ones run jobs."""
    with gunicorn(log) as (child, port):
        first = get(port, "/run/first")["pid"]
        child.signal(signal.SIGHUP)

        def reloaded() -> bool:
            found = answers(port, f"/run/second-{time.monotonic_ns()}")
            return found is not None and found["pid"] != first and found["ran"]["pid"] == found["pid"]

        until(reloaded, "new workers serve", child)


def test_flasks_reloader_restarts_the_jobs_with_the_application(log: Path, tmp_path: Path) -> None:
    """The reloader imports the application twice; jobs run where requests are served, before and after."""
    application = tmp_path / "web_app.py"
    shutil.copy(PROGRAMS / "web_app.py", application)
    command = [sys.executable, "-m", "flask", "--app", str(application), "run", "--debug", "--port", "0"]
    env = {"JOBS_LOG": str(log), "PYTHONDONTWRITEBYTECODE": "1"}
    with running(command, env=env) as child:
        port = until(lambda: port_of(child), "it says its port", child)
        first = until(lambda: answers(port, "/run/first"), "it answers", child)
        assert first["ran"] == {"pid": first["pid"], "version": 1}
        application.write_text(application.read_text().replace("VERSION = 1", "VERSION = 2"))

        def reloaded() -> dict[str, Any] | None:
            found = answers(port, f"/run/second-{time.monotonic_ns()}")
            return found if found is not None and found["ran"]["version"] == 2 else None

        second = until(reloaded, "the new version answers", child)
        assert second["pid"] == second["ran"]["pid"] != first["pid"]
        assert not alive(first["pid"])
        assert names(log).count("first") == 1
        child.signal(signal.SIGINT)
        child.exit_code()


def test_the_reloader_ends_at_ctrl_c(log: Path) -> None:
    """Ctrl-C ends flask run with its reloader, jobs or not, and leaves no process behind."""
    command = [sys.executable, "-m", "flask", "--app", "web_app", "run", "--debug", "--port", "0"]
    with running(command, env={"JOBS_LOG": str(log)}) as child:
        port = until(lambda: port_of(child), "it says its port", child)
        served = until(lambda: answers(port, "/run/first"), "it answers", child)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        child.exit_code()
        until(lambda: not alive(served["pid"]), "the serving process is gone", child)


def test_importing_the_application_is_quiet(log: Path) -> None:
    """A process that imports the application and ends writes nothing and does not hang."""
    done = subprocess.run(
        [sys.executable, "-c", "import web_app"],
        cwd=PROGRAMS,
        env={**os.environ, "JOBS_LOG": str(log), "PYTHONPATH": str(PROGRAMS.parent.parent)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
