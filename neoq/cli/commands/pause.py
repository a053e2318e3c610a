"""neoq pause: start no more jobs of a queue."""

from __future__ import annotations

import argparse

from neoq.cli.pausing import add_arguments, set_paused

__all__ = ["add_arguments"]

HELP = "start no more jobs of a queue"
EXAMPLE = "neoq pause emails"
GROUP = "Change"


def run(args: argparse.Namespace) -> int:
    """Do it."""
    return set_paused(args, paused=True)
