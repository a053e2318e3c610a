"""neoq signal: send a signal to a job that waits for it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from neoq.cli import output
from neoq.cli.changes import job_named
from neoq.cli.exits import CommandError, Exit
from neoq.cli.parser import Parser
from neoq.cli.payloads import payload_in
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

if TYPE_CHECKING:
    from neoq.job import Job

HELP = "send a signal to a job that waits for it"
EXAMPLE = """neoq signal 1042 approval '{"by": "ada"}'"""
GROUP = "Change"
DESCRIPTION = """Send a signal to a job that waits for it by job.wait_for(), or will.

With --queue orders the job is the unfinished one of orders that has this fingerprint.
The first signal of a name counts."""


def add_arguments(parser: Parser) -> None:
    """To which job, and what."""
    parser.add_argument(
        "job", metavar="JOB", help="the job: its id, or its uid; with --queue its fingerprint"
    )
    parser.add_argument("name", metavar="NAME", help="the name of the signal")
    parser.add_argument(
        "payload", nargs="?", default="{}", metavar="JSON", help="its payload; - reads it from stdin"
    )
    parser.add_argument("--queue", metavar="QUEUE", help="the queue of the job of that fingerprint")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Send it."""
    payload = payload_in(args.payload)
    with opened(args) as backend:
        if args.queue is not None:
            return _tell(args, backend.signal((args.queue, args.job), args.name, payload))
        job = job_named(backend, args.job)
        if job is None:
            raise CommandError(
                f"there is no job {args.job}; finished ones are forgotten after the retention; --queue QUEUE "
                "takes a fingerprint"
            )
        return _tell(args, backend.signal(job.id, args.name, payload), job)


def _tell(args: argparse.Namespace, taken: bool, job: Job | None = None) -> int:
    """Report whether the signal was taken, by this job or by that of a fingerprint."""
    signal = output.plain(args.name)
    if args.json:
        to = {"queue": args.queue, "fingerprint": args.job} if job is None else {"id": job.id}
        output.print_json({**to, "signal": args.name, "taken": taken})
    elif job is not None and taken:
        show(f"job {job.id} has the signal {signal}")
    elif job is not None:
        say(
            f"job {job.id}, which is {job.status}, did not take the signal {signal}: it has "
            "one of that name already, or it is over"
        )
    else:
        whose = f"the job of {output.plain(args.queue)} with the fingerprint {output.plain(args.job)}"
        if taken:
            show(f"{whose} has the signal {signal}")
        else:
            say(
                f"{whose} did not take the signal {signal}: it has one of that name already, or there is no "
                "such job that is unfinished"
            )
    return Exit.OK if taken else Exit.FAILED
