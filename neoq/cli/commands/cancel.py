"""neoq cancel: cancel jobs."""

from __future__ import annotations

import argparse

from neoq.cli import changes
from neoq.cli.parser import Parser

HELP = "cancel jobs"
EXAMPLE = "neoq cancel 1042 1043"
GROUP = "Change"
DESCRIPTION = """Cancel jobs: one that waits at once, one that runs by an interrupt.
With a filter and without --status these are all that have not finished."""
VERB = changes.VERBS["cancel"]


def add_arguments(parser: Parser) -> None:
    """Ids or filters."""
    changes.add_arguments(parser, VERB)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    return changes.run(args, VERB)
