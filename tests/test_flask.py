"""Neoq in Flask: configuration, contexts, several applications, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest

import neoq
from neoq.flask import Neoq


@pytest.fixture
def app() -> Iterator[flask.Flask]:
    app = flask.Flask("shop")
    app.config["GREETING"] = "hello"
    yield app
    if "neoq" in app.extensions:
        app.extensions["neoq"].backend_of(app).shutdown()


def test_a_task_made_before_its_application_runs_in_its_context(app: flask.Flask) -> None:
    """A module-level task sees the application that it was initialised with later."""
    queue = Neoq()

    @queue.task(name="greet")
    def greet(name: str) -> str:
        return f"{flask.current_app.config['GREETING']} {name}"

    queue.init_app(app)
    assert greet.enqueue("ada").get(timeout=10) == "hello ada"


def test_a_handler_made_before_its_application_runs_in_its_context(app: flask.Flask) -> None:
    """Listen works before any application exists."""
    queue = Neoq()
    seen: list[str] = []
    done = threading.Event()

    @queue.listen("mail")
    def handle(job: neoq.Job) -> None:
        seen.append(flask.current_app.name)
        done.set()

    queue.init_app(app)
    queue.backend.enqueue("mail", {"to": "ada"})
    assert done.wait(10)
    assert seen == ["shop"]


def test_a_request_enqueues(app: flask.Flask) -> None:
    """A view enqueues in its application."""
    queue = Neoq(app)

    @queue.task(name="double")
    def double(n: int) -> int:
        return 2 * n

    @app.post("/double/<int:n>")
    def view(n: int) -> dict[str, int]:
        return {"id": double.enqueue(n).id}

    answer = app.test_client().post("/double/21")
    assert queue.backend.wait(answer.json["id"], timeout=10).result == 42  # type: ignore[index]


def test_settings_come_from_the_configuration(app: flask.Flask, tmp_path: Path) -> None:
    """NEOQ_ keys are settings; a web process on a durable store runs no jobs by itself."""
    app.config.update(NEOQ_URL=f"sqlite:///{tmp_path}/jobs.db", NEOQ_CONCURRENCY=3)
    queue = Neoq(app, timeout=7)
    assert queue.backend.config.concurrency == 3
    assert queue.backend.config.timeout == 7
    assert queue.backend.config.autostart is False


def test_an_unknown_setting_is_refused(app: flask.Flask) -> None:
    """A misspelt key of the configuration is an error that says what was meant."""
    app.config["NEOQ_CONCURENCY"] = 3
    with pytest.raises(neoq.ConfigError, match="did you mean concurrency"):
        Neoq(app)


def test_no_secret_is_shown(app: flask.Flask) -> None:
    """The password of the store is in no repr of the extension or its backend."""
    app.config["NEOQ_URL"] = "redis://user:hunter2@localhost:1/0"
    queue = Neoq(app)
    assert "hunter2" not in repr(queue) + repr(queue.backend)


def test_several_applications_share_one_object() -> None:
    """Each application has its own backend; outside of a context an enqueue is Flask's RuntimeError."""
    queue = Neoq()

    @queue.task(name="name")
    def name() -> str:
        return flask.current_app.name

    apps = [flask.Flask("one"), flask.Flask("two")]
    for app in apps:
        queue.init_app(app)
    try:
        for app in apps:
            with app.app_context():
                assert name.enqueue().get(timeout=10) == app.name
        with pytest.raises(RuntimeError, match="application context"):
            name.enqueue()
    finally:
        for app in apps:
            queue.backend_of(app).shutdown()


def test_an_application_without_neoq_is_told(app: flask.Flask) -> None:
    """Without init_app the error says what to call."""
    queue = Neoq()
    with pytest.raises(neoq.NeoqError, match="init_app"):
        queue.backend.enqueue("q", {})
    with app.app_context(), pytest.raises(neoq.NeoqError, match="init_app"):
        queue.backend.enqueue("q", {})


def test_an_application_is_initialised_once(app: flask.Flask) -> None:
    """A second init_app would give it two backends, so it is refused."""
    queue = Neoq(app)
    with pytest.raises(neoq.NeoqError, match="once"):
        queue.init_app(app)


def test_the_reloader_runs_no_jobs(app: flask.Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two processes of flask run --debug, the one that watches files does not start."""
    app.debug = True
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    monkeypatch.setattr(sys, "argv", ["flask", "run", "--debug"])
    assert Neoq(app).backend.config.autostart is False


def test_uwsgi_without_threads_is_refused(app: flask.Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uWSGI lets no thread run, jobs in memory would never run: the error says what to configure."""
    uwsgi: Any = types.ModuleType("uwsgi")
    uwsgi.opt = {"http": b":8000"}
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    with pytest.raises(neoq.ConfigError, match="enable-threads"):
        Neoq(app)
    uwsgi.opt = {"enable-threads": True}
    Neoq(app)


SHOP = """
import flask
from neoq.flask import Neoq

queue = Neoq()

@queue.task(queue="emails")
def send(to: str) -> str:
    with open(flask.current_app.config["SENT"], "a") as file:
        file.write(to + "\\n")
    return to

def create_app() -> flask.Flask:
    app = flask.Flask(__name__)
    app.config["NEOQ_URL"] = "sqlite:///jobs.db"
    app.config["SENT"] = "sent.txt"
    queue.init_app(app)

    @app.post("/send/<to>")
    def view(to: str) -> dict:
        return {"id": send.enqueue(to).id}

    return app
"""


def test_flask_neoq_is_the_command(tmp_path: Path) -> None:
    """The command flask neoq runs what web processes enqueued, and looks at it."""
    (tmp_path / "shop.py").write_text(SHOP)
    environ = {**os.environ, "FLASK_APP": "shop:create_app()"}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "flask", "neoq", *arguments]
        return subprocess.run(
            call, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    web = "import shop; client = shop.create_app().test_client(); print(client.post('/send/ada').json)"
    subprocess.run([sys.executable, "-c", web], cwd=tmp_path, check=True, timeout=60)
    assert not (tmp_path / "sent.txt").exists()
    waiting = command("queues", "--json")
    assert json.loads(waiting.stdout)["ready"] == 1, waiting.stderr
    worker = command("worker", "--drain")
    assert worker.returncode == 0, worker.stderr
    assert (tmp_path / "sent.txt").read_text() == "ada\n"
    assert json.loads(command("queues", "--json").stdout)["succeeded"] == 1
    assert "worker" in command("--help").stdout
    assert command("wroker").returncode == 2
