"""Sets the project up: a database, migrated by `manage.py migrate`, with no jobs at each test's begin."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1] / "project"
sys.path.insert(0, str(PROJECT))
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402

from neoq.django.registry import backend, forget  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def migrated() -> None:
    call_command("migrate", verbosity=0)


@pytest.fixture(autouse=True)
def store() -> Iterator[Any]:
    """The backend of the default alias, which runs no jobs; empty."""
    from shop.models import Order

    Order.objects.all().delete()
    jobs = backend()
    for job in jobs.jobs(limit=1000):
        jobs.cancel(job.id)
        jobs.delete(job.id)
    yield jobs
    forget()
    from django.db import connections

    connections.close_all()


@pytest.fixture
def running(store: Any) -> Any:
    """The same, which runs jobs."""
    store.start()
    return store


def until(condition: Callable[[], Any], patience: float = 20.0) -> Any:
    give_up = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.01)
    return found


@pytest.fixture
def finished() -> Callable[[Any], Any]:
    def finished(result: Any) -> Any:
        def is_finished() -> bool:
            result.refresh()
            return bool(result.is_finished)

        until(is_finished)
        return result

    return finished
