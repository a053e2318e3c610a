"""A real Chromium for the tests of the dashboard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visits import Visits

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("NEOQ_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
# Nothing but the pages of a test is asked for. There is no sandbox for root, and /dev/shm may be small.
FLAGS = (
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage --disable-gpu "
    "--disable-quic --disable-sync --no-first-run"
).split() + ["--no-sandbox"] * (os.getuid() == 0)
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests where there is no browser."""
    if CHROMIUM is None:
        skip = pytest.mark.skip(reason="this system has no chromium; apt install chromium")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)


# Of the package, not of the session: while Playwright runs, its event loop counts as running in this thread,
# and tests of other folders start loops of their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser that all tests of this folder share."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visits]:
    """Open pages; what the browser complains about there fails the test at its end."""
    visits = Visits(browser)
    yield visits
    visits.end()
    assert not visits.complaints, "the browser complained:\n" + "\n".join(visits.complaints)
