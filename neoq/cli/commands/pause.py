"""neoq pause: start no more jobs of a queue."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.filters import say_if_unknown
from neoq.cli.parser import Parser
from neoq.cli.target import add_store, opened

HELP = "start no more jobs of a queue"
EXAMPLE = "neoq pause emails"
GROUP = "Change"


def add_arguments(parser: Parser) -> None:
    """Which queues."""
    parser.add_argument("queues", nargs="+", metavar="QUEUE", help="these queues")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with opened(args) as backend:
        for queue in args.queues:
            say_if_unknown(backend, queue)
            backend.pause(queue)
            if args.json:
                output.print_json({"queue": queue, "paused": True})
            else:
                print(f"{output.plain(queue)} is paused")
    return 0
