"""Which jobs a command is about: the filters that ``jobs``, ``retry``, ``cancel`` and ``delete`` share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from neoq.cli.output import say
from neoq.cli.parser import Parser, count, did_you_mean

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.job import Job

PAGE = 500
STATUSES = ("pending", "running", "retrying", "succeeded", "dead", "cancelled")
FILTERS = ("queue", "status", "after")


def add_filters(parser: Parser) -> None:
    """Let a command be about some jobs only."""
    group = parser.add_argument_group("which jobs")
    parser.known += [
        group.add_argument("--queue", metavar="NAME", help="of this queue"),
        group.add_argument("--status", choices=STATUSES, metavar="STATUS", help=", ".join(STATUSES)),
        group.add_argument("--after", type=count(), metavar="ID", help="older than this one"),
    ]


def filters_of(args: argparse.Namespace) -> dict[str, Any]:
    """The filters that were given, as the keywords of ``Backend.jobs``."""
    from neoq.record import Status

    given = {name: value for name in FILTERS if (value := getattr(args, name)) is not None}
    if "status" in given:
        given["status"] = Status(given["status"])
    return given


def pages(backend: Backend, filters: dict[str, Any], limit: int | None = None) -> Iterator[list[Job]]:
    """The jobs that match, newest first, some hundreds at a time."""
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = backend.jobs(**filters, limit=size)
        if page:
            yield page
        if len(page) < size:
            return
        filters = filters | {"after": page[-1].id}
        left = None if left is None else left - size


def say_if_unknown(backend: Backend, queue: str | None) -> bool:
    """Tell a person about a queue that nobody has heard of; return whether it is one."""
    if queue is None:
        return False
    known = {one.queue for one in backend.queues()}
    known |= {name for worker in backend.workers() for name in worker.queues}
    if queue in known:
        return False
    say(f"no job and no worker of a queue {queue} is known{did_you_mean(queue, known)}")
    return True
