"""neoq workers: the processes that run jobs."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.listing import worker_rows
from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

HELP = "list the processes that run jobs"
EXAMPLE = "neoq workers --app shop:backend"
GROUP = "Look"


def add_arguments(parser: Parser) -> None:
    """Only where, and how to print."""
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args) as backend:
        workers = backend.workers()
    if args.json:
        for worker in workers:
            output.print_json(output.fields_of(worker))
    elif workers:
        show("\n".join(output.table(*worker_rows(workers))))
    else:
        say("no worker is alive")
    return 0
