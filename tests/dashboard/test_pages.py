"""The pages of schedules, workers and actions, in a browser without JavaScript."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import Client

from neoq import audit
from neoq.backend import Backend
from neoq.store import ThreadInfo, WorkerInfo
from tests.dashboard.conftest import client_of, text_of

NOW = datetime.now(UTC)


def nothing(job: Any) -> None:
    pass


def test_schedules_tell_when_they_tick(backend: Backend, client: Client) -> None:
    """A schedule is listed with its words, its zone, its queue and its next five ticks."""
    backend.listen_cron("*/5 * * * *", nothing)
    backend.start()
    page = text_of(client.get("/schedules"))
    assert "Every 5 minutes" in page
    assert "*/5 * * * *" in page
    assert "every_5_minutes" in page
    assert page.count("data-exact") == 5
    assert "never yet" in page
    assert "every_5_minutes" not in text_of(client_of(backend, {"other": "read"}).get("/schedules"))


def test_workers_tell_what_they_run(backend: Backend, client: Client) -> None:
    """A worker is listed with its threads; the job that one runs is named, with its queue and its kind."""
    begun, release = threading.Event(), threading.Event()

    def wait(job: Any) -> None:
        begun.set()
        release.wait(30)

    backend.listen("slow", wait)
    job = backend.enqueue("slow", {})
    backend.start()
    assert begun.wait(20)
    try:
        page = text_of(client.get("/workers"))
        assert "What runs now" in page
        assert f'href="job?id={job.id}"' in page
        assert "slow" not in text_of(client_of(backend, {"other": "read"}).get("/workers"))
    finally:
        release.set()


def test_a_stuck_thread_comes_first(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abandoned threads stand before those that run, and versions that differ are named."""
    threads = (
        ThreadInfo("mails", 7, "send", NOW - timedelta(days=1)),
        ThreadInfo("mails", 8, "send", NOW, abandoned=True),
        ThreadInfo("mails"),
    )
    workers = [
        WorkerInfo(
            "a",
            "host-1",
            11,
            NOW,
            NOW,
            ("mails",),
            1,
            version="1.0",
            threads=threads,
            memory=52_000_000,
            abandoned=1,
        ),
        WorkerInfo("b", "host-2", 12, NOW, NOW, ("mails",), 0, version="1.1"),
    ]
    monkeypatch.setattr(backend, "workers", lambda: workers)
    page = text_of(client_of(backend).get("/workers"))
    assert page.index("thread-8-stuck") < page.index('id="thread-7"')
    assert "52.0 MB" in page
    assert "2 versions of neoq" in page
    assert "1 stuck" in page


def test_without_anything_pages_say_what_would_be_there(client: Client) -> None:
    """Pages without rows say why, and what would be listed."""
    assert "There is no schedule" in text_of(client.get("/schedules"))
    assert "No worker is alive" in text_of(client.get("/workers"))
    assert "Nobody has changed anything" in text_of(client.get("/actions"))


def test_actions_are_listed_a_page_at_a_time(backend: Backend, client: Client) -> None:
    """Who paused which queue is listed, newest first, 50 on a page, with a link to the older ones."""
    with audit.acting_as("ada <x>", via="test"):
        for n in range(60):
            backend.pause(f"queue-{n}")
    page = text_of(client.get("/actions"))
    assert "ada &lt;x&gt;" in page
    assert "queue-59" in page
    assert "queue-9<" not in page
    assert "Older" in page
    older = text_of(client.get("/actions?before=11"))
    assert "queue-9<" in older
    assert "queue-10" not in older
    assert "Newest" in older
    only = text_of(client_of(backend, {"queue-3": "read"}).get("/actions"))
    assert "queue-3<" in only
    assert "queue-4" not in only
    assert client.get("/actions?before=x").status_code == 400
    assert client.get(f"/actions?before={10**30}").status_code == 400
