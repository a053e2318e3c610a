"""How queues are paused and resumed from the command line."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.filters import say_if_unknown
from neoq.cli.parser import Parser
from neoq.cli.streams import show
from neoq.cli.target import add_store, opened


def add_arguments(parser: Parser) -> None:
    """Which queues."""
    parser.add_argument("queues", nargs="+", metavar="QUEUE", help="these queues")
    output.add_json(parser)
    add_store(parser)


def set_paused(args: argparse.Namespace, *, paused: bool) -> int:
    """Pause the queues of a command line, or let them go on; the exit code."""
    with opened(args) as backend:
        change = backend.pause if paused else backend.resume
        for queue in args.queues:
            say_if_unknown(backend, queue)
            change(queue)
            if args.json:
                output.print_json({"queue": queue, "paused": paused})
            else:
                show(f"{output.plain(queue)} is {'paused' if paused else 'resumed'}")
    return 0
