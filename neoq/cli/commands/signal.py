"""neoq signal: send a signal to a job that waits for it."""

from __future__ import annotations

import argparse
import sys

from neoq.cli import output
from neoq.cli.changes import job_named
from neoq.cli.exits import CommandError, Exit
from neoq.cli.parser import Parser
from neoq.cli.payloads import payload_in
from neoq.cli.target import add_store, opened

HELP = "send a signal to a job that waits for it"
EXAMPLE = """neoq signal 1042 approval '{"by": "ada"}'"""
GROUP = "Change"
DESCRIPTION = """Send a signal to a job that waits for it by job.wait_for(), or will.

The first signal of a name counts."""


def add_arguments(parser: Parser) -> None:
    """To which job, and what."""
    parser.add_argument("id", metavar="ID", help="the job: its id, or its uid")
    parser.add_argument("name", metavar="NAME", help="the name of the signal")
    parser.add_argument(
        "payload", nargs="?", default="{}", metavar="JSON", help="its payload; - reads it from stdin"
    )
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Send it."""
    payload = payload_in(sys.stdin.read() if args.payload == "-" else args.payload)
    with opened(args) as backend:
        job = job_named(backend, args.id)
        if job is None:
            raise CommandError(f"there is no job {args.id}; finished ones are forgotten after the retention")
        taken = backend.signal(job.id, args.name, payload)
    if args.json:
        output.print_json({"id": job.id, "signal": args.name, "taken": taken})
    elif taken:
        print(f"job {job.id} has the signal {output.plain(args.name)}")
    else:
        output.say(
            f"job {job.id}, which is {job.status}, did not take the signal {output.plain(args.name)}: it has "
            "one of that name already, or it is over"
        )
    return Exit.OK if taken else Exit.FAILED
