"""A Flask application with neoq's extension, served by gunicorn or by Flask's own server."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import flask

from neoq.flask import Neoq

VERSION = 1  # a test edits this line
LOG = Path(os.environ["JOBS_LOG"])
queue = Neoq()


@queue.task(name="work", queue="work")
def work(name: str, seconds: float = 0) -> dict[str, Any]:
    time.sleep(seconds)
    with LOG.open("a") as file:
        file.write(f"{name} {os.getpid()} {flask.current_app.name}\n")
    return {"pid": os.getpid(), "version": VERSION}


@queue.task(name="tick", queue="ticks", cron="@every 1s")
def tick() -> None:
    with LOG.open("a") as file:
        file.write(f"tick {os.getpid()}\n")


def create_app() -> flask.Flask:
    app = flask.Flask("shop")
    app.config["NEOQ_URL"] = os.environ.get("SHOP_URL")
    app.config["NEOQ_SHUTDOWN_TIMEOUT"] = 5
    queue.init_app(app)
    if "USE_BEFORE_FORK" in os.environ:
        work.enqueue("at-import")

    @app.get("/run/<name>")
    def run(name: str) -> Any:
        """Enqueue a job, wait for it, and say who served and who ran."""
        return {"pid": os.getpid(), "ran": work.enqueue(name).get(timeout=10)}

    @app.get("/later/<name>/<float:seconds>")
    def later(name: str, seconds: float) -> Any:
        """Enqueue a job that takes some time, and answer at once."""
        return {"pid": os.getpid(), "id": work.enqueue(name, seconds).id}

    @app.get("/fails/<name>")
    def fails(name: str) -> Any:
        work.enqueue(name)
        raise RuntimeError("this view fails")

    @app.get("/fails-in-transaction/<name>")
    def fails_in_transaction(name: str) -> Any:
        connection = sqlite3.connect(os.environ["SHOP_URL"].removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("begin immediate")
        try:
            work.using(transaction=connection).enqueue(name)
            raise RuntimeError("this view fails")
        finally:
            connection.rollback()
            connection.close()

    return app
