"""Five minutes of load with a kill -9 every four seconds, on each store that survives its processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import neoq
from tests.faults.accounting import load
from tests.faults.servers import SERVERS
from tests.processes import Child

SECONDS = float(os.environ.get("NEOQ_TEST_SOAK_SECONDS", "300"))
GROWTH = 8 << 20  # bytes that a worker may grow by from the first third to the end: arenas, not jobs


@contextmanager
def place(store: str, directory: Path) -> Iterator[str]:
    """The URL of a store of the test's own."""
    if store == "sqlite":
        yield f"sqlite:///{directory}/jobs.db?max_crashes=1000"
        return
    with SERVERS[store]() as server:
        yield server.url(lease="3", heartbeat="0.5", max_crashes="1000")


def memory(child: Child) -> int:
    """The bytes that a process has in memory now."""
    pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.faults
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc/PID/statm")
@pytest.mark.parametrize("store", ["sqlite", "postgres", "redis"])
def test_a_soak_with_kills(tmp_path: Path, store: str) -> None:
    """Every accepted job ends, no job is left leased or ready, and a worker that lives does not grow."""
    with place(store, tmp_path) as url, load(tmp_path, url) as jobs:
        steady = jobs.worker()
        jobs.worker()
        jobs.producer()
        began, early = time.monotonic(), 0
        while (gone := time.monotonic() - began) < SECONDS:
            time.sleep(4.0)
            if not early and gone > SECONDS / 3:
                early = memory(steady)
            jobs.kill(jobs.workers[1])
            jobs.worker()
        late = memory(steady)
        accounting = jobs.account()
        print(f"{store}: {len(jobs.killed)} kills, {early >> 10} KiB, then {late >> 10} KiB in memory")
        accounting.check()
        assert late - early < GROWTH
        with neoq.connect(url, autostart=False) as backend:
            assert [queue.unfinished for queue in backend.queues()] == [0]
