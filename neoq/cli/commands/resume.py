"""neoq resume: let a paused queue go on."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.filters import say_if_unknown
from neoq.cli.parser import Parser
from neoq.cli.target import add_store, opened

HELP = "let a paused queue go on"
EXAMPLE = "neoq resume emails"
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
            backend.resume(queue)
            if args.json:
                output.print_json({"queue": queue, "paused": False})
            else:
                print(f"{output.plain(queue)} is resumed")
    return 0
