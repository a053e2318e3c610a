"""neoq queues: what each queue has."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.listing import listeners_of, notes_on, queue_rows
from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

HELP = "count the jobs of each queue"
EXAMPLE = "neoq queues --url sqlite:///jobs.db"
GROUP = "Look"
DESCRIPTION = "Count the jobs of each queue by where they are, and say on which nobody listens."


def add_arguments(parser: Parser) -> None:
    """Only where, and how to print."""
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args) as backend:
        queues = backend.queues()
        if args.json:
            for queue in queues:
                output.print_json(output.fields_of(queue))
            return 0
        listeners = listeners_of(backend.workers())
    if queues:
        show("\n".join(output.table(*queue_rows(queues, listeners))))
    else:
        say("the store has no queue yet")
    for note in notes_on(queues, listeners):
        say(note)
    return 0
