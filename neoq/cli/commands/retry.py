"""neoq retry: run dead or waiting jobs now."""

from __future__ import annotations

import argparse

from neoq.cli import changes
from neoq.cli.parser import Parser

HELP = "run dead or waiting jobs now"
EXAMPLE = "neoq retry --queue emails --dry-run"
GROUP = "Change"
DESCRIPTION = """Run jobs now. A dead one begins again with no retries behind it.
With a filter and without --status these are the dead ones and those that wait for a retry."""
VERB = changes.VERBS["retry"]


def add_arguments(parser: Parser) -> None:
    """Ids or filters."""
    changes.add_arguments(parser, VERB)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    return changes.run(args, VERB)
