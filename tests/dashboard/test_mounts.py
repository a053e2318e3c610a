"""The dashboard in Flask, in Django, and in plain WSGI under any prefix."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import neoq
from neoq.backend import Backend
from neoq.dashboard import RIGHTS, Access, wsgi
from neoq.dashboard.changes import state_of
from neoq.errors import ConfigError
from neoq.flask import Neoq

PROGRAM = Path(__file__).parent / "in_django.py"
SAME = {"Sec-Fetch-Site": "same-origin"}
LINK = re.compile(r'(?:href|src|action|hx-get)="([^"]*)"')


def links_of(page: str) -> list[str]:
    return [link for link in LINK.findall(page) if not link.startswith("#")]


def form(job: neoq.Job, action: str) -> dict[str, str]:
    return {"action": action, "job": f"{job.id}.{state_of(job)}"}


def enqueued(backend: Any, queue: str = "mails") -> neoq.Job:
    """A job in memory that nobody runs, since nothing is started."""
    backend.listen(queue, print)
    job: neoq.Job = backend.enqueue(queue, {"n": 1})
    return job


def assert_is_below(page: str, url: str, mount: str) -> None:
    """Every link of a page leads below its mount, and is relative."""
    links = links_of(page)
    assert any("static/neoq.css" in link for link in links)
    for link in links:
        assert not re.match(r"/|[a-z]+:", link), link
        assert urljoin(f"http://host{url}", link).startswith(f"http://host{mount}/"), link


@pytest.fixture
def app() -> Iterator[flask.Flask]:
    app = flask.Flask("shop")
    app.secret_key = "x"
    app.config["NEOQ_AUTOSTART"] = False
    yield app
    if "neoq" in app.extensions:
        app.extensions["neoq"].backend_of(app).shutdown(0)


def test_flask_shows_the_dashboard_to_this_machine(app: flask.Flask) -> None:
    """`Neoq(app, dashboard=...)` shows the dashboard there; without access= to this machine only, to read."""
    queue = Neoq(app, dashboard="/jobs/")
    job = enqueued(queue.backend)
    client = app.test_client()
    page = client.get("/jobs/queues")
    assert page.status_code == 200
    assert_is_below(page.text, "/jobs/queues", "/jobs")
    assert client.get("/jobs").location == "http://localhost/jobs/"
    assert client.get("/jobs/static/neoq.css").status_code == 200
    assert client.get("/jobs/queues", environ_base={"REMOTE_ADDR": "10.0.0.7"}).status_code == 403
    refused = client.post("/jobs/act", data=form(job, "delete"), headers=SAME)
    assert refused.status_code == 403
    assert queue.backend.get(job.id)


def test_flask_asks_access_within_the_request(app: flask.Flask) -> None:
    """The access= function sees the application's session and may send a visitor to its login."""

    def access(environ: dict[str, Any]) -> Any:
        if "user" not in flask.session:
            return flask.redirect("/login")
        if flask.session["user"] == "eve":
            flask.abort(418)
        return Access(RIGHTS, flask.session["user"])

    Neoq(app, dashboard="/jobs", access=access, title="Shop & Co")
    client = app.test_client()
    assert client.get("/jobs/queues").location == "/login"
    for user, status in (("ada", 200), ("eve", 418)):
        with client.session_transaction() as session:
            session["user"] = user
        page = client.get("/jobs/queues", environ_base={"REMOTE_ADDR": "10.0.0.7"})
        assert page.status_code == status
        assert ("Shop &amp; Co" in page.text) is (status == 200)


def test_flask_may_have_read_the_form(app: flask.Flask) -> None:
    """A form reaches the dashboard also where the application has looked into it before."""
    app.before_request(lambda: flask.request.form.get("anything") and None)
    queue = Neoq(app, dashboard="/jobs", access=lambda _: RIGHTS)
    job = enqueued(queue.backend)
    answer = app.test_client().post("/jobs/act", data=form(job, "cancel"), headers=SAME)
    assert answer.status_code == 303, answer.text
    assert queue.backend.get(job.id).status is neoq.Status.CANCELLED


def test_flask_takes_the_place_from_its_configuration(app: flask.Flask) -> None:
    """NEOQ_DASHBOARD says where the dashboard is; a place that takes all paths is refused."""
    app.config["NEOQ_DASHBOARD"] = "/ops/jobs"
    Neoq(app)
    assert app.test_client().get("/ops/jobs/queues").status_code == 200
    other = flask.Flask("other")
    with pytest.raises(ConfigError, match='such as "/jobs"'):
        Neoq(other, dashboard="/")
    other.extensions["neoq"].backend_of(other).shutdown(0)


def test_a_prefix_is_kept_in_every_link(backend: Backend) -> None:
    """Under SCRIPT_NAME, and behind a proxy that takes a prefix off, every link is relative to the mount."""
    enqueued(backend, "a/b")
    pages = wsgi(backend, access=lambda _: RIGHTS, trusted_proxies=1)
    client = Client(DispatcherMiddleware(flask.Flask("x"), {"/tools/jobs": pages}))
    forwarded = {
        "X-Forwarded-For": "1.2.3.4",
        "X-Forwarded-Prefix": "/ops",
        "X-Forwarded-Host": "ops.example.com",
    }
    for path in ("queues", "jobs?queue=a%2Fb", "queue?name=a%2Fb", ""):
        page = client.get(f"/tools/jobs/{path}", headers=forwarded, follow_redirects=False)
        if page.status_code == 303:
            assert page.headers["Location"] == "queues"
            continue
        assert page.status_code == 200
        assert_is_below(page.text, f"/ops/tools/jobs/{path}", "/ops/tools/jobs")


def test_a_login_may_answer_in_plain_wsgi(backend: Backend) -> None:
    """An access= that returns a WSGI application lets that one answer, and nothing is done."""
    job = enqueued(backend)

    def login(environ: Any, start_response: Any) -> Any:
        start_response("302 Found", [("Location", "/login")])
        return [b""]

    client = Client(wsgi(backend, access=lambda _: login))
    for answer in (
        client.get("/queues"),
        client.post("/act", data=form(job, "delete"), headers=SAME),
    ):
        assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
    assert backend.get(job.id)


def test_django_shows_the_dashboard_to_its_staff(tmp_path: Path) -> None:
    """In Django visitors go to the login, staff have the rights of their permissions, and forms pass."""
    run = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "db.sqlite3")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    seen = json.loads(run.stdout)
    assert seen["visitor"] == [302, "/admin/login/?next=/ops/jobs/queues"]
    assert seen["visitor posts"] == [403, "pending"]
    assert seen["customer"] == seen["staff without permission"] == 403
    assert seen["reader"] == [200, 403]
    assert seen["reader's job"] == "pending"
    assert seen["editor"] == [200, 403, 303]
    assert seen["editor's job"] == "cancelled"
    assert seen["forged"] == 403
    assert seen["superuser"] == [200, 303]
    assert seen["superuser's job"] is None
    assert seen["other host"] == 400
    assert_is_below(seen["page"], "/ops/jobs/queues", "/ops/jobs")
