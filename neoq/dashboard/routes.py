"""Routes: which path is answered by which page, and what it takes to ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from neoq.dashboard.board import Board
from neoq.dashboard.pages import (
    act,
    actions,
    confirm,
    failures,
    job,
    jobs,
    metrics,
    overview,
    queue,
    queues,
    schedules,
    sweep,
    workers,
)
from neoq.dashboard.request import Request
from neoq.dashboard.response import Answer


class Route(NamedTuple):
    """A page. ``queue`` is the field of the query that names a queue, which the request must be let into."""

    path: str
    page: Callable[[Request, Board], Answer]
    method: str = "GET"
    queue: str | None = None
    title: str | None = None  # in the navigation, if it is there


ROUTES = (
    Route("", overview.page, title="Overview"),
    Route("queues", queues.page, title="Queues"),
    Route("queue", queue.page, queue="name"),
    Route("jobs", jobs.page, queue="queue", title="Jobs"),
    Route("job", job.page),
    Route("download", job.download),
    Route("confirm", confirm.page, queue="queue"),
    Route("sweep", sweep.page),
    Route("failures", failures.page, title="Failures"),
    Route("schedules", schedules.page, title="Schedules"),
    Route("workers", workers.page, title="Workers"),
    Route("actions", actions.page, title="Actions"),
    Route("metrics", metrics.page),
    Route("act", act.page, "POST"),
)
BY_PATH = {(route.method, route.path): route for route in ROUTES}
NAVIGATION = tuple(route for route in ROUTES if route.title)


def methods_of(path: str) -> list[str]:
    """The methods that a path is answered for."""
    return sorted({route.method for route in ROUTES if route.path == path})
