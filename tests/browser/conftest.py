"""A real Chromium for the tests of the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Response

import neoq
from neoq.dashboard import Access, wsgi
from tests.browser.chromium import CHROMIUM, FLAGS
from tests.browser.serving import serving
from tests.browser.shop import Shop, shop
from tests.browser.visits import PATIENCE, Visits

# Breaks out of a text, an attribute with either quote, a comment, a script and a template.
HOSTILE = (
    "\"'--></title></script></textarea><b id=ran><img src=x onerror=alert(1)>"
    "<script>alert(2)</script>{{7*191}}"
)
HERE = Path(__file__).parent

expect.set_options(timeout=PATIENCE)


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


class Shown(NamedTuple):
    """A shop, and where its dashboard is."""

    shop: Shop
    address: str


RIGHTS = frozenset("retry cancel delete run pause limit reveal".split())


def everything(environ: dict[str, Any]) -> Access:
    """The access of somebody who may do all."""
    return Access(RIGHTS, user="ada")


@contextmanager
def shown_of(backend: neoq.Backend, text: str = "", mount: str = "") -> Iterator[Shown]:
    """A shop in a backend, and its dashboard, which may be mounted in another application."""
    app: Any = wsgi(backend, access=everything, title="The shop")
    if mount:
        app = DispatcherMiddleware(Response("Nothing is here.", status=404), {mount: app})
    with shop(backend, text) as filled, serving(app) as address:
        yield Shown(filled, address + f"{mount}/".removeprefix("/"))


@pytest.fixture(scope="package")
def shown() -> Iterator[Shown]:
    """A shop that tests only look at."""
    with shown_of(neoq.MemBackend()) as found:
        yield found


@pytest.fixture(scope="package")
def hostile() -> Iterator[Shown]:
    """A shop whose every text tries to run a script."""
    with shown_of(neoq.MemBackend(), HOSTILE) as found:
        yield found


@pytest.fixture
def in_memory(visit: Visits) -> Iterator[Shown]:
    """A shop of the test's own, in memory."""
    with shown_of(neoq.MemBackend()) as found:
        yield found
        visit.end()


@pytest.fixture
def in_a_file(visit: Visits, tmp_path: Path) -> Iterator[Shown]:
    """A shop of the test's own, in a file of SQLite, whose dashboard is a part of another application."""
    backend = neoq.connect(f"sqlite:///{tmp_path}/jobs.db", autostart=False, heartbeat=0.5)
    with shown_of(backend, mount="/ops/jobs") as found:
        yield found
        visit.end()
