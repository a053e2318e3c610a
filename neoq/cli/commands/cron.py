"""neoq cron: the schedules of a store, and when they fire next."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from neoq.cli import output
from neoq.cli.output import ago, plain
from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

if TYPE_CHECKING:
    from neoq.schedules import ScheduleInfo

HELP = "list the schedules and their next times"
EXAMPLE = "neoq cron --app shop:backend"
GROUP = "Look"
DESCRIPTION = "List the schedules to which some worker listens, or did within the last day."


def add_arguments(parser: Parser) -> None:
    """Only where, and how to print."""
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args) as backend:
        schedules = backend.schedules()
    if args.json:
        for schedule in schedules:
            output.print_json(output.fields_of(schedule))
    elif schedules:
        head = ("name", "spec", "timezone", "queue", "last", "job", "skipped", "next", "description")
        show("\n".join(output.table(head, map(_row, schedules))))
    else:
        say("the store knows no schedule")
    return 0


def _row(schedule: ScheduleInfo) -> tuple[object, ...]:
    now = datetime.now(UTC)
    following = schedule.next_ticks[0] if schedule.next_ticks else None
    return (
        plain(schedule.name, 40),
        plain(schedule.spec, 30),
        plain(schedule.timezone),
        plain(schedule.queue, 30),
        ago(schedule.last_tick, now),
        "-" if schedule.last_job_id is None else str(schedule.last_job_id),
        schedule.skipped,
        ago(following, now),
        plain(schedule.description, 60),
    )
