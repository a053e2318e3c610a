"""neoq resume: let a paused queue go on."""

from __future__ import annotations

import argparse

from neoq.cli.pausing import add_arguments, set_paused

__all__ = ["add_arguments"]

HELP = "let a paused queue go on"
EXAMPLE = "neoq resume emails"
GROUP = "Change"


def run(args: argparse.Namespace) -> int:
    """Do it."""
    return set_paused(args, paused=False)
