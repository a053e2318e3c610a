"""neoq delete: forget jobs that are not running."""

from __future__ import annotations

import argparse

from neoq.cli import changes
from neoq.cli.parser import Parser

HELP = "forget jobs that are not running"
EXAMPLE = "neoq delete --status dead --queue emails --dry-run"
GROUP = "Change"
DESCRIPTION = """Forget jobs.
With a filter and without --status these are all that are not running."""
VERB = changes.VERBS["delete"]


def add_arguments(parser: Parser) -> None:
    """Ids or filters."""
    changes.add_arguments(parser, VERB)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    return changes.run(args, VERB)
