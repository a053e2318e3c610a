"""neoq audit: who did what to the jobs and queues of a store."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from neoq.cli import output
from neoq.cli.output import ago, plain
from neoq.cli.parser import Parser, count
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

HELP = "list who did what"
EXAMPLE = "neoq audit --app shop:backend --limit 20"
GROUP = "Look"
DESCRIPTION = """List what was done by commands, on the dashboard and inside acting_as(), newest first.
Entries are kept for 30 days."""


def add_arguments(parser: Parser) -> None:
    """How many, and where."""
    parser.add_argument("--before", type=count(), metavar="ID", help="older than this entry")
    parser.add_argument("--limit", type=count(), default=50, metavar="N", help="at most (default: 50)")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args) as backend:
        entries = backend.audit(args.limit, args.before)
    if args.json:
        for entry in entries:
            output.print_json(output.fields_of(entry))
        return 0
    if not entries:
        say("no entry")
        return 0
    now = datetime.now(UTC)
    head = ("id", "when", "user", "via", "action", "count", "queue", "what")
    rows = [
        (
            *(str(entry.id), ago(entry.at, now), plain(entry.user, 40), plain(entry.via, 20)),
            *(plain(entry.action, 20), entry.count, plain(entry.queue or "", 30), plain(entry.what, 80)),
        )
        for entry in entries
    ]
    show("\n".join(output.table(head, rows)))
    if len(entries) == args.limit:
        say(f"there may be more: --before {entries[-1].id}")
    return 0
