"""neoq lines: the keys of a queue whose jobs form lines, those that stand still first."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.output import plain
from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

HELP = "list the lines of a queue, by key"
EXAMPLE = "neoq lines webhooks"
GROUP = "Look"
DESCRIPTION = """List the lines of a queue whose jobs of one key run in order, or only so many at once.

A line stands still behind a head that is dead or waits for its next attempt."""


def add_arguments(parser: Parser) -> None:
    """Which queue."""
    parser.add_argument("queue", metavar="QUEUE", help="its lines")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args) as backend:
        lines = backend.lines(args.queue, limit=args.limit)
    if args.json:
        for line in lines:
            output.print_json(output.fields_of(line))
    elif lines:
        rows = [
            (plain(line.key, 60), line.state, "-" if line.head is None else str(line.head), line.waiting)
            for line in lines
        ]
        show("\n".join(output.table(("key", "state", "head", "waiting"), rows)))
    else:
        say(f"no job of {plain(args.queue)} waits in a line")
    return 0
