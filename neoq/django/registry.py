"""The backends of this process, one for each alias of TASKS.

Django makes an object of a task backend in each thread; the queues, threads and connections are here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.core.signals import setting_changed
from django.db import close_old_connections, connections, reset_queries

import neoq
from neoq.backend import Backend
from neoq.django.joining import Joined, joined
from neoq.django.options import Options, Place
from neoq.job import Job

_lock = threading.RLock()
_made: dict[str, tuple[Place, Joined]] = {}
_tasks: dict[str, dict[tuple[str, str], Any]] = {}  # by alias, then by kind and queue


def backend(alias: str = "default") -> Joined:
    """The neoq backend behind an alias of TASKS, one for the process.

    Jobs that are enqueued inside ``transaction.atomic()`` belong to the transaction. Ask for it where you
    need it rather than keep it: in tests the database is another one, and so is the backend.

    Raises ConfigError where TASKS is wrong.
    """
    options = Options.of(alias)
    place = options.place()
    present = _made.get(alias)
    if present is not None and present[0] == place and not present[1].closed:
        return present[1]
    with _lock:
        return _backend(alias, options, place)


def _backend(alias: str, options: Options, place: Place) -> Joined:
    present = _made.get(alias)
    if present is not None and present[0] == place and not present[1].closed:
        return present[1]
    made = make(options, place)
    for queue in sorted({*options.queues, *options.of_queues}):
        made.hold_tasks(queue)
    for task in list(_tasks.get(alias, {}).values()):
        _run(made, options, task)
    if present is not None:
        _shut_down(present[1])
        made.include(*present[1].included)
    if place.joins:
        _close_before_drop(options.database)
    _made[alias] = (place, made)
    return made


def make(options: Options, place: Place) -> Joined:
    """A new backend of an alias. Raises ConfigError."""
    settings: dict[str, Any] = {"autostart": not place.durable and not place.tests, **options.settings}
    made: Backend = (
        neoq.SqliteBackend(place.path, **settings) if place.path else neoq.connect(place.url, **settings)
    )
    for queue, of_queue in options.of_queues.items():
        given = {name: of_queue[name] for name in ("concurrency", "capacity") if name in of_queue}
        if given:
            made.queue(queue, **given)
    made.use(with_fresh_connections)
    return joined(made, options.database, joins=place.joins)


def know(alias: str, task: Any) -> None:
    """Let a task of Django be run in this process, if jobs are run here."""
    key = (task.module_path, task.queue_name)
    known = _tasks.setdefault(alias, {})
    if key in known:
        return
    with _lock:
        known[key] = task
        present = _made.get(alias)
        if present is not None and not present[1].closed:
            _run(present[1], Options.of(alias), task)


def _run(made: Joined, options: Options, task: Any) -> None:
    from neoq.django.running import RunnableTask

    kinds = {kind for kind, _ in _tasks[options.alias]}
    made.hold_tasks(task.queue_name)
    if task.module_path in kinds and task.module_path not in made.engine.routes.kinds:
        made.listen_tasks([RunnableTask(task, options)])  # type: ignore[list-item]


def forget() -> None:
    """Shut the backends down, and make them anew where they are asked for; for tests and changed settings."""
    with _lock:
        for _, made in _made.values():
            _shut_down(made)


def _shut_down(made: Joined) -> None:
    if not made.closed:
        made.shutdown(0)


def with_fresh_connections(job: Job, call_next: Callable[[Job], Any]) -> Any:
    """Middleware: treat the connections of Django around a job as a request does."""
    reset_queries()
    close_old_connections()
    try:
        return call_next(job)
    finally:
        close_old_connections()


def _close_before_drop(database: str) -> None:
    """Close our connections before Django's test runner drops its database."""
    creation = connections[database].creation
    drop = creation.destroy_test_db
    if getattr(drop, "closes_neoq", False):
        return

    def destroy_test_db(*args: Any, **kwargs: Any) -> Any:
        forget()
        return drop(*args, **kwargs)

    destroy_test_db.closes_neoq = True  # type: ignore[attr-defined]
    creation.destroy_test_db = destroy_test_db


def _settings_changed(*, setting: str, **_: Any) -> None:
    if setting in {"TASKS", "DATABASES"}:
        forget()


setting_changed.connect(_settings_changed)
