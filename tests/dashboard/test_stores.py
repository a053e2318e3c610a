"""The dashboard on each durable store, and what it shows while the store is away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.backend import Backend
from neoq.dashboard import board
from tests.dashboard.conftest import client_of, text_of
from tests.dashboard.test_act import act, all_of, seen
from tests.dashboard.test_jobs import fail, ids_in, nothing
from tests.servers import PostgresServer, running_server


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A backend on each durable store."""
    options: dict[str, Any] = {"autostart": False, "shutdown_timeout": 5}
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.db'}"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
        name = "schema" if request.param == "postgres" else "prefix"
        options[name] = request.getfixturevalue({"schema": "new_schema", "prefix": "redis_prefix"}[name])
        if callable(options[name]):
            options[name] = options[name]()
    backend = neoq.connect(url, **options)
    yield backend
    backend.shutdown(0)


def test_jobs_are_shown_and_changed_on_every_store(durable: Backend) -> None:
    """Jobs of each store are listed, filtered, shown with their attempts, and changed: one, and all."""
    client = client_of(durable)
    assert "There is no queue yet" in text_of(client.get("/queues"))
    durable.listen("mails", fail, max_retries=0)
    durable.listen("later", nothing)
    died = durable.enqueue("mails", {"user": {"id": 7}, "password": "hunter2"}).id
    waiting = [
        job.id
        for job in durable.enqueue_many([neoq.Job("later", {"n": n}, run_after=3600) for n in range(60)])
    ]
    durable.start(["mails"])
    durable.wait(died, 20)
    client.application.board.changed()
    assert re.search(r"status=dead\">1</a>", text_of(client.get("/queues")))
    assert ids_in(text_of(client.get("/jobs?status=dead&payload=user.id=7&error=no+luck&since=1h"))) == [died]
    assert ids_in(text_of(client.get("/jobs?queue=later"))) == waiting[:9:-1]
    page = text_of(client.get(f"/job?id={died}"))
    assert "Attempt 1 failed" in page
    assert "hunter2" not in page
    form = {"action": "delete", "job": seen(durable, died), "back": "jobs"}
    assert "1 job deleted." in text_of(act(client, **form))
    assert f"job {died} is gone" in text_of(act(client, **form))
    confirm = text_of(client.get("/confirm?action=cancel&queue=later"))
    assert "60 jobs" in confirm
    act(client, **all_of(client, confirm, action="cancel"))
    (sweep,) = client.application.board.sweeps.known()
    assert sweep.wait(20)
    assert "60 cancelled" in text_of(client.get(f"/sweep?id={sweep.id}"))
    assert durable.count(queue="later", status="cancelled") == 60
    assert [entry.count for entry in durable.audit()] == [60, 1]


def away_postgres(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], None]]]:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    yield server.url, server.stop


def away_redis(_: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], None]]]:
    with running_server() as server:
        yield server.url, server.kill


@pytest.mark.parametrize("serve", [away_postgres, away_redis], ids=["postgres", "redis"])
def test_a_server_that_has_gone_leaves_plain_pages(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    """Once the server is gone the counts come with their age, and other pages say plainly what is wrong."""
    for url, stop in serve(request):
        backend = neoq.connect(url, autostart=False)
        try:
            job = backend.enqueue("mails", {"n": 1})
            client = client_of(backend)
            assert "mails" in text_of(client.get("/queues"))
            stop()
            monkeypatch.setattr(board, "FIRST_PATIENCE", 0.3)
            monkeypatch.setattr(board, "PATIENCE", 0.3)
            client.application.board.changed()
            page = text_of(client.get("/queues"))
            assert "mails" in page
            assert "The store does not answer" in page
            for path in ("/jobs", f"/job?id={job.id}", "/confirm?action=cancel&queue=mails"):
                page = text_of(client.get(path), 503)
                assert "The store is away" in page
                assert "Traceback" not in page
        finally:
            backend.shutdown(0)
