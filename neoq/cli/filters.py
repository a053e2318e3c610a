"""Which jobs a command is about: the filters that ``jobs``, ``retry``, ``cancel`` and ``delete`` share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from neoq.cli.parser import Parser, count, did_you_mean, moment
from neoq.cli.streams import say

if TYPE_CHECKING:
    from neoq.backend import Backend

PAGE = 500
STATUSES = ("pending", "running", "retrying", "succeeded", "dead", "cancelled")
TIMES = ("created", "due", "finished")
FILTERS = ("queue", "status", "kind", "key", "since", "until", "time", "error", "after")


def add_filters(parser: Parser) -> None:
    """Let a command be about some jobs only."""
    group = parser.add_argument_group(
        "which jobs",
        "TIME is ISO 8601, or a span ago (2h, 7d): when a job ended, or was made if it has not ended,\n"
        "or what --time says.",
    )
    add = group.add_argument
    parser.known += [
        add("--queue", metavar="NAME", help="of this queue"),
        add("--status", choices=STATUSES, metavar="STATUS", help=", ".join(STATUSES)),
        add("--kind", metavar="NAME", help="of this task"),
        add("--key", metavar="TEXT", help="with this key"),
        add("--since", type=moment, metavar="TIME", help="not before"),
        add("--until", type=moment, metavar="TIME", help="before"),
        add(
            "--time",
            choices=TIMES,
            metavar="WHICH",
            help="that --since and --until mean: created, due, finished (ended jobs only)",
        ),
        add("--error", metavar="TEXT", help="with this in their error"),
        add(
            "--payload",
            dest="paths",
            action="append",
            type=_path,
            metavar="PATH=VALUE",
            help="with this in their payload: user.id=7; may be repeated",
        ),
        add("--after", type=count(), metavar="ID", help="after this one in the list"),
    ]


def _path(text: str) -> tuple[str, Any]:
    """A path into a payload, and the value there: JSON, or else a text."""
    import orjson

    path, equals, value = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH=VALUE, such as user.id=7")
    try:
        return path, orjson.loads(value)
    except ValueError:
        return path, value


def filters_of(args: argparse.Namespace) -> dict[str, Any]:
    """The filters that were given, as the keywords of ``Backend.jobs``."""
    given = {name: value for name in FILTERS if (value := getattr(args, name)) is not None}
    if args.paths:
        given["payload"] = dict(args.paths)
    for name in ("since", "until"):
        if isinstance(given.get(name), timedelta):  # a fixed time: a page later means the same jobs
            given[name] = datetime.now(UTC) - given[name]
    return given


def pages(backend: Backend, filters: dict[str, Any], limit: int | None = None) -> Iterator[list[Any]]:
    """The jobs that match, or lines of them if the filters have ``brief``, in pages of some hundreds."""
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
