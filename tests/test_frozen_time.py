"""Test suites that freeze the time around code that uses neoq: what is ready runs, and nothing is alarmed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import neoq

pytestmark = pytest.mark.usefixtures("autostart")

WHENS = [1577836800.0, 1893456000.0]  # 2020 and 2030


@contextmanager
def frozen(when: float) -> Iterator[None]:
    """Stand in for the clocks of Python as freezegun does: in every module that has them."""
    real = {id(time.time): time.time, id(time.monotonic): time.monotonic, id(time.time_ns): time.time_ns}
    fakes: dict[int, Any] = {
        id(time.time): lambda: when,
        id(time.monotonic): lambda: when,
        id(time.time_ns): lambda: int(when * 1e9),
    }
    changed: list[tuple[Any, str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name == __name__ or name.partition(".")[0] not in {
            "neoq",
            "time",
            "psycopg",
            "redis",
            "apscheduler",
        }:
            continue
        for attribute, value in list(vars(module).items()):
            if id(value) in fakes and value is real[id(value)]:
                changed.append((module, attribute, value))
                setattr(module, attribute, fakes[id(value)])
    try:
        yield
    finally:
        for module, attribute, value in changed:
            setattr(module, attribute, value)


def check(url: str, when: float, caplog: pytest.LogCaptureFixture) -> None:
    starts: list[int] = []
    with frozen(when):
        assert time.time() == when
        with neoq.connect(url, shutdown_timeout=3, lease=2, heartbeat=0.2) as backend:

            def work(job: neoq.Job) -> float:
                starts.append(job.attempt)
                threading.Event().wait(0.3)
                return when

            backend.listen("q", work)
            job = backend.enqueue("q")
            assert job.id is not None
            assert backend.wait(job.id, timeout=20).result == when
    assert starts == [1]
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_ready_jobs_run_while_the_time_is_frozen(
    url: str, when: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the clocks frozen in the past or the future a job runs at once, and once, without alarms."""
    check(f"sqlite:///{tmp_path}/jobs.db" if url == "sqlite" else url, when, caplog)


@pytest.mark.parametrize("when", WHENS)
def test_ready_jobs_run_on_postgres(postgres_url: str, when: float, caplog: pytest.LogCaptureFixture) -> None:
    """So does one in PostgreSQL."""
    check(postgres_url, when, caplog)


@pytest.mark.parametrize("when", WHENS)
def test_ready_jobs_run_on_redis(redis_url: str, when: float, caplog: pytest.LogCaptureFixture) -> None:
    """So does one in Redis."""
    check(redis_url, when, caplog)


def test_neoq_imported_while_the_time_is_frozen() -> None:
    """An import of neoq while the clocks are frozen takes those of the machine all the same."""
    program = """
import time
real = time.time(), time.monotonic()
time.time = time.monotonic = lambda: 0.0
from neoq.clock import machine
assert 0 <= machine.time() - real[0] < 60
assert 0 <= machine.monotonic() - real[1] < 60
"""
    subprocess.run([sys.executable, "-c", program], check=True)
