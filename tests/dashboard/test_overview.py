"""The first page: what needs a hand, the most urgent first, and what it says when all is well."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import Client

from neoq.backend import Backend
from neoq.dashboard import charts
from neoq.dashboard.attention import hands
from neoq.dashboard.failures import Fault, Group, groups_of
from neoq.store import QueueCounts, ThreadInfo, WorkerInfo
from tests.dashboard.conftest import client_of, text_of

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def groups(number: int) -> list[Group]:
    faults = [
        Fault(n, "mails", f"Error{n}", "a.py:1 in f", f"Error{n}: x", ago(minutes=n)) for n in range(number)
    ]
    return groups_of(faults, lambda queue: True)


def nothing(job: Any) -> None:
    pass


def test_what_does_harm_now_comes_first() -> None:
    """Queues without a worker come first, then unknown kinds, stuck threads, long waits and dead jobs."""
    counts = [
        QueueCounts("late", ready=4, oldest_due=ago(minutes=30)),
        QueueCounts("kinds", ready=1, unknown={"send": 3}, oldest_due=ago(seconds=1)),
        QueueCounts("unheard", ready=9, oldest_due=ago(hours=1)),
        QueueCounts("paused", ready=2, paused=True, oldest_due=ago(hours=2)),
        QueueCounts("done", succeeded=7),
    ]
    heard = {"late": 1, "kinds": 2, "paused": 1}
    worker = WorkerInfo(
        "w",
        "host",
        1,
        NOW,
        NOW,
        ("late",),
        threads=(ThreadInfo("late", 5, None, ago(hours=1), True),),
        abandoned=1,
    )
    found = hands(counts, heard, [worker], groups(7), NOW)
    assert [one.kind for one in found] == [
        "unheard",
        "unknown",
        "stuck",
        "paused",
        "wait",
        *["dead"] * 6,
    ]
    assert found[0].queue == "unheard"
    assert found[4].queue == "late"
    assert (found[-1].number, found[-1].others) == (2, 2)
    assert len({one.key for one in found}) == len(found)


def test_many_of_a_kind_are_said_in_one_line() -> None:
    """Of fifty queues without a worker five are named, and the others are counted."""
    counts = [QueueCounts(f"q{n}", ready=100 - n) for n in range(50)]
    found = hands(counts, {}, [], [], NOW)
    assert [one.queue for one in found] == ["q0", "q1", "q2", "q3", "q4", None]
    assert (found[-1].others, found[-1].number) == (45, sum(100 - n for n in range(5, 50)))


def test_the_overview_with_many_of_each_kind(backend: Backend, client: Client) -> None:
    """The overview counts the other queues, kinds and errors where there are many of each."""
    for n in range(8):
        backend.listen(f"q{n}", nothing)
        backend.enqueue(f"q{n}", {})
    page = text_of(client.get("/"))
    assert page.count("Nobody listens on") == 6
    assert "Nobody listens on 3 other queues, where 3 jobs wait" in page


def test_nothing_needs_a_hand_without_a_reason() -> None:
    """A queue that is served, one that is paused and empty, and one that has ended need no hand."""
    counts = [
        QueueCounts("served", ready=4, running=1, oldest_due=ago(seconds=20)),
        QueueCounts("paused", paused=True, succeeded=1),
        QueueCounts("ended", succeeded=3, dead=2),
    ]
    assert hands(counts, {"served": 1}, [], [], NOW) == []


def test_an_unheard_queue_that_has_time_is_no_harm_yet() -> None:
    """Jobs that are scheduled where nobody listens need a hand, but do no harm yet."""
    (one,) = hands([QueueCounts("later", scheduled=2)], {}, [], [], NOW)
    assert (one.kind, one.bad, one.number) == ("unheard", False, 2)


def test_the_overview_names_what_needs_a_hand(backend: Backend, client: Client) -> None:
    """A queue without a worker is named on the overview, with a link to its jobs, whatever its name."""
    backend.listen("a<b", nothing)
    backend.enqueue("a<b", {})
    page = text_of(client.get("/"))
    assert "Nobody listens on" in page
    assert "a&lt;b" in page
    assert 'href="jobs?queue=a%3Cb&amp;status=pending"' in page
    assert "All is well" not in page
    assert "All is well" in text_of(client_of(backend, {"other": "read"}).get("/"))


def test_the_dead_of_the_last_hour_are_named(backend: Backend) -> None:
    """Jobs that died within the hour are named with their error, and those that died before are not."""

    def fail(job: Any) -> None:
        raise ConnectionError("password=hunter2 <refused>")

    backend.listen("mails", fail, max_retries=0)
    backend.enqueue("mails", {})
    backend.start()
    assert backend.drain(20)
    page = text_of(client_of(backend).get("/"))
    assert "1 job died in the last hour of" in page
    assert "ConnectionError" in page
    assert "&lt;refused&gt;" in page
    assert "hunter2" not in page


def test_the_region_of_the_overview_stands_alone(client: Client) -> None:
    """The region that is refreshed is answered alone, and with 304 while nothing has happened."""
    asked = {"HX-Request": "true", "HX-Target": "overview"}
    region = client.get("/", headers=asked)
    assert "All is well" in text_of(region)
    again = client.get("/", headers={**asked, "If-None-Match": region.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/", "/failures", "/schedules", "/workers", "/actions"])
def test_every_page_is_in_the_navigation(client: Client, path: str) -> None:
    """Each page marks its own place in the navigation."""
    page = text_of(client.get(path))
    assert page.count('aria-current="page"') == 1
    assert f'href="{path.strip("/") or "./"}" aria-current="page"' in page


def test_rates_and_charts_stand_beside_the_levels(backend: Backend, client: Client) -> None:
    """Jobs that have ended are in the rates and charts of the overview and of their queue."""
    backend.listen("mails", nothing)
    for n in range(3):
        backend.enqueue("mails", {"n": n})
    backend.start()
    assert backend.drain(20)
    backend.listen("idle", nothing)
    for path in ("/", "/?span=day", "/queue?name=mails", "/queue?name=mails&span=day"):
        page = text_of(client.get(path))
        assert "3 in 1 h" in page
        assert 'aria-label="Attempts per ' in page
        assert "succeeded <b>3</b>" in page
        assert ("per ten minutes" in page) == ("day" in path)
        assert page.count('aria-current="true"') == 1
    assert "3 well, 0 failed in the last hour" in text_of(client.get("/queues"))
    other = text_of(client_of(backend, {"idle": "read"}).get("/"))
    assert "No attempt has ended" in other


def test_the_charts_are_a_region_of_their_own(client: Client) -> None:
    """Charts are refreshed apart from what needs a hand, and less often."""
    asked = {"HX-Request": "true", "HX-Target": "charts"}
    region = text_of(client.get("/", headers=asked))
    assert "All is well" not in region
    assert "No attempt has ended" in region
    assert 'data-every="10"' in region
    now = text_of(client.get("/", headers={**asked, "HX-Target": "overview"}))
    assert "<figure" not in now


def test_while_dead_jobs_are_counted_the_overview_is_there(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first look at many dead jobs holds the overview up for no longer than its patience."""
    release = threading.Event()
    monkeypatch.setattr("neoq.dashboard.pages.overview.PATIENCE", 0.01)
    monkeypatch.setattr(backend, "jobs", lambda **_: [None][: not release.wait(30)])
    page = text_of(client.get("/"))
    release.set()
    assert "dead jobs are being looked at" in page
    assert "All is well" not in page


def test_a_drawing_is_made_once_for_all_who_look_at_it(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the answer of the store is the same, each chart is drawn once for all requests."""
    drawn: list[str] = []
    real = charts.outcomes
    monkeypatch.setattr(
        charts, "outcomes", lambda slots, name, key: drawn.append(name) or real(slots, name, key)
    )
    backend.listen("mails", nothing)
    backend.enqueue("mails", {"n": 1})
    backend.start()
    assert backend.drain(20)
    for _ in range(3):
        assert "succeeded <b>1</b>" in text_of(client.get("/"))
    assert len(drawn) == 1
    client.get("/?span=day")
    assert drawn == ["Attempts per minute", "Attempts per ten minutes"]
