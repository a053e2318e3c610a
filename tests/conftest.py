"""What holds for every test: no settings from outside, no threads left behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.servers import SHARED

pytest_plugins = [
    "tests.postgres_server",
    "tests.pgbouncer",
    "tests.redis_server",
    "tests.newest_django",
    "tests.killing",
]
PATIENCE = 5.0
LONG = (
    "tests/conformance/test_state_machine.py",
    "tests/django/",
    "tests/faults/",
    "tests/test_benchmarks.py",
    "tests/test_demo.py",
    "tests/test_packaging.py",
    "tests/test_shops.py",
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores Ctrl-C in what it runs in the background, and the tests' programs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all processes of this session share; whoever runs as another user can read it."""
    if not hasattr(config, "workerinput"):
        folder = Path(tempfile.mkdtemp(prefix="neoq-tests-"))
        folder.chmod(0o755)
        os.environ[SHARED] = str(folder)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are found, nor ever in what was made then: it lives to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Make no thousands of tests of a suite of which none would run: each worker would make them."""
    if collector.config.option.markexpr == "not faults" and isinstance(obj, type):
        marks = [mark.name for mark in getattr(obj, "pytestmark", ())]
        return [] if "faults" in marks else None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest: a worker that began one late would keep the others waiting."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the NEOQ_* variables of the shell that runs the tests; NEOQ_TEST_* steer the tests themselves."""
    for name in list(os.environ):
        if name.startswith("NEOQ_") and not name.startswith("NEOQ_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_stacks_of_long_tests(request: pytest.FixtureRequest) -> None:
    """Print no stacks of a test that has more time: printing those of running threads crashed Python 3.13."""
    mark = request.node.get_closest_marker("timeout")
    if mark is not None and mark.args[0] > float(request.config.getini("faulthandler_timeout")):
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def autostart(no_settings_from_outside: None) -> Iterator[None]:
    """Run jobs of durable stores as soon as a test listens; a patch of its own, which no test undoes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEOQ_AUTOSTART", "1")
        yield


@pytest.fixture(autouse=True)
def no_threads_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread of neoq, or one that would keep the interpreter alive."""
    before = set(threading.enumerate())
    yield
    if request.node.get_closest_marker("leaves_threads"):
        return
    left = [thread for thread in threading.enumerate() if thread not in before and must_end(thread)]
    give_up = time.monotonic() + PATIENCE
    for thread in left:
        while thread.ident is None and time.monotonic() < give_up:  # it is only being started
            time.sleep(0.001)
        thread.join(max(0.0, give_up - time.monotonic()))
    alive = sorted(thread.name for thread in left if thread.is_alive())
    if alive:
        pytest.fail(f"threads left running: {', '.join(alive)}", pytrace=False)


def must_end(thread: threading.Thread) -> bool:
    if thread is threading.current_thread():
        return False
    return thread.name.startswith("neoq-") or not thread.daemon


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in what was captured: a report travels between processes, they do not."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


_skipped: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count why tests are skipped."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what was shared, and say in the last line which tests did not run here, and why."""
    if hasattr(config, "workerinput"):
        return
    shutil.rmtree(os.environ.pop(SHARED, ""), ignore_errors=True)
    if _skipped:
        print("not tested here:", "; ".join(f"{why} ({count})" for why, count in _skipped.items()))
