"""neoq purge: forget jobs that ended long ago."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from neoq.cli import changes
from neoq.cli.parser import Parser, seconds

HELP = "forget jobs that ended long ago"
EXAMPLE = "neoq purge --older-than 7d --status dead --yes"
GROUP = "Change"
DESCRIPTION = """Forget jobs that ended long ago: without --status those that succeeded or were cancelled.
Workers forget them after the retention of their backend; dead jobs stay until somebody asks."""
VERB = changes.VERBS["purge"]


def add_arguments(parser: Parser) -> None:
    """How long ago, and which of them."""
    parser.add_argument(
        "--older-than",
        type=seconds,
        required=True,
        metavar="SPAN",
        help="that ended longer ago: 12h, 7d, 4w",
    )
    ended = sorted(VERB.possible)
    parser.add_argument("--status", choices=ended, metavar="STATUS", help=", ".join(ended))
    parser.add_argument("--queue", metavar="NAME", help="of this queue")
    changes.add_consent(parser, VERB)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    filters = {"until": datetime.now(UTC) - timedelta(seconds=args.older_than)}
    filters |= {name: value for name in ("status", "queue") if (value := getattr(args, name)) is not None}
    return changes.by_filter(VERB, filters, args)
