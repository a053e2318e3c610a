"""Web servers that a test runs: gunicorn and Flask's own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Child, running

PATIENCE = 25.0


def until(holds: Callable[[], Any], what: str, child: Child) -> Any:
    give_up = time.monotonic() + PATIENCE
    while not (found := holds()):
        if time.monotonic() > give_up:
            raise child.failed(f"waited in vain until {what}")
        time.sleep(0.02)
    return found


def get(port: int, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=15) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def answers(port: int, path: str) -> dict[str, Any] | None:
    """What the server says, or None while it does not."""
    try:
        return get(port, path)
    except (
        OSError,
        ValueError,
        http.client.HTTPException,
    ):  # it is away, or goes in the middle of its answer
        return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def gunicorn(
    log: Path,
    *options: str,
    app: str = "web_app:app",
    ready: str = "/run/hello",
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[Child, int]]:
    """Run gunicorn on a port of its own."""
    pytest.importorskip("gunicorn")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "8"]
    with running([*command, *options, app], env={"JOBS_LOG": str(log), **(env or {})}) as child:
        until(lambda: answers(port, ready), "gunicorn answers", child)
        yield child, port


def port_of(child: Child) -> int | None:
    _, found, rest = child.errors.partition("Running on http://127.0.0.1:")
    return int(rest.split()[0]) if found else None


def both_workers_serve(child: Child, port: int) -> None:
    """Ask until two workers, neither of them the first process, have each run a job of their own."""
    served = set()

    def both_served() -> bool:
        found = get(port, f"/run/job{len(served)}-{time.monotonic_ns()}")
        assert found["ran"]["pid"] == found["pid"]
        served.add(found["pid"])
        return len(served) == 2

    until(both_served, "both workers have served", child)
    assert child.pid not in served


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
