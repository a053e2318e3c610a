"""manage.py neoq: workers and commands of a project, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import transaction
from shop import tasks
from shop.models import Order

PROJECT = Path(__file__).parents[1] / "project"


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(PROJECT / "manage.py"), *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=50)


@contextmanager
def worker(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command("neoq", "worker", *arguments), start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.02)


def test_a_worker_that_is_killed(store: Any) -> None:
    """Every job of a worker whose process is killed under load ends, with its effects in the database."""
    orders = [Order.objects.create(name=str(n)) for n in range(200)]
    with worker("--processes", "1"):
        for order in orders[:100]:
            tasks.mail.enqueue(order.pk)
        until(lambda: store.workers() and store.stats().succeeded > 5)
        os.kill(store.workers()[0].pid, signal.SIGKILL)
        for order in orders[100:]:
            with transaction.atomic():
                tasks.mail.enqueue(order.pk)
        until(lambda: store.stats().succeeded == 200)
    assert not Order.objects.filter(mails=0).exists()
    assert store.stats().dead == 0


def test_looking_at_jobs(store: Any) -> None:
    """The commands work on the project's jobs, wherever they are started, and pass exit codes on."""
    tasks.add.enqueue(1)
    listed = run("neoq", "jobs", "--json", "--settings=settings")
    assert json.loads(listed.stdout)["kind"] == "shop.tasks.add", listed.stderr
    wrong = run("neoq", "jbos")
    assert (wrong.returncode, "did you mean jobs" in wrong.stderr) == (2, True)
    unknown = run("neoq", "--alias", "unknown", "stats")
    assert unknown.returncode != 0
    assert "TASKS has no 'unknown'" in unknown.stderr
    assert store.stats().ready == 1


def test_other_commands_run_no_jobs(store: Any) -> None:
    """`migrate`, `check` and `shell` leave jobs alone, though they import the tasks."""
    tasks.add.enqueue(1)
    assert run("migrate").returncode == 0
    assert run("check").returncode == 0
    shell = run("shell", "-c", "from shop.tasks import add; print(add.enqueue(2).id)")
    assert shell.returncode == 0, shell.stderr
    assert store.stats().ready == 2
    assert store.workers() == []


def test_tests_of_a_project(store: Any) -> None:
    """`manage.py test` makes a database with neoq's tables, its tests enqueue, and it drops the database."""
    done = run("test", "shop.cases", "--noinput")
    assert done.returncode == 0, done.stderr
    assert store.jobs() == []
