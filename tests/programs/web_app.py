"""A web application that does its work in background jobs, served by gunicorn or by Flask's own server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import flask

import neoq

VERSION = 1  # a test edits this line
app = flask.Flask(__name__)
backend = neoq.MemBackend(concurrency=2, shutdown_timeout=5)
log = Path(os.environ["JOBS_LOG"])


@backend.listen("work")
def work(job: neoq.Job) -> dict[str, Any]:
    time.sleep(job.payload.get("seconds", 0))
    with log.open("a") as file:
        file.write(f"{job.payload['name']} {os.getpid()}\n")
    return {"pid": os.getpid(), "version": VERSION}


@backend.listen_cron("@every 1s", queue="ticks")
def tick(job: neoq.Job) -> None:
    with log.open("a") as file:
        file.write(f"tick {os.getpid()}\n")


@app.get("/run/<name>")
def run(name: str) -> Any:
    """Enqueue a job, wait for it, and say who served and who ran."""
    job = backend.enqueue("work", {"name": name})
    assert job.id is not None
    return {"pid": os.getpid(), "ran": backend.wait(job.id, 10).result}


@app.get("/later/<name>/<float:seconds>")
def later(name: str, seconds: float) -> Any:
    """Enqueue a job that takes some time, and answer at once."""
    backend.enqueue("work", {"name": name, "seconds": seconds})
    return {"pid": os.getpid()}


if "USE_BEFORE_FORK" in os.environ:
    backend.enqueue("work", {"name": "at-import"})
