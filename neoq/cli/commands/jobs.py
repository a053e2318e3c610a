"""neoq jobs: list jobs."""

from __future__ import annotations

import argparse

from neoq.cli import output
from neoq.cli.filters import add_filters, filters_of, pages, say_if_unknown
from neoq.cli.listing import job_rows
from neoq.cli.parser import Parser, count
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

HELP = "list jobs, newest first"
EXAMPLE = "neoq jobs --queue emails --status dead --limit 20"
GROUP = "Look"
DESCRIPTION = "List jobs, newest first, with their error if they have one, else with their payload."


def add_arguments(parser: Parser) -> None:
    """Which jobs, and how many."""
    add_filters(parser)
    parser.add_argument("--oldest", action="store_true", help="oldest first")
    parser.add_argument("--limit", type=count(), default=50, metavar="N", help="at most (default: 50)")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    filters = filters_of(args) | {"brief": not args.json, "order": "oldest" if args.oldest else "newest"}
    with opened(args) as backend:
        if say_if_unknown(backend, args.queue):  # the store would look at every job
            return 0
        listed, last = 0, None
        found = []
        for page in pages(backend, filters, args.limit):
            listed, last = listed + len(page), page[-1].id
            if args.json:
                for job in page:
                    output.print_json(output.job_record(job))
            else:
                found += page
        if args.json:
            return 0
        if found:
            show("\n".join(output.table(*job_rows(found))))
        else:
            say("no job matches")
        if listed == args.limit:
            say(f"there may be more: --after {last}")
    return 0
