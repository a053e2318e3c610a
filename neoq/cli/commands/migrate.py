"""neoq migrate: make or update the tables of a store."""

from __future__ import annotations

import argparse

from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

HELP = "make or update the tables of a store"
EXAMPLE = "neoq migrate --url postgresql://app@db/shop --sql"
GROUP = "Change"
DESCRIPTION = "Make or update the tables of a store, as backends do at their first use unless migrate=False."


def add_arguments(parser: Parser) -> None:
    """Where, and whether to do it."""
    parser.add_argument("--sql", action="store_true", help="print what it would run, and end")
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, or print it."""
    with opened(args, make=True) as backend:
        statements = backend.store.migration()
        if args.sql:
            for statement in statements:
                show(f"{statement.strip().rstrip(';')};")
            return 0
        backend.queues()
    say("the tables were made or updated" if statements else "there was nothing to do")
    return 0
