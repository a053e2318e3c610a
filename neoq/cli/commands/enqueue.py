"""neoq enqueue: store a job."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from neoq.cli import output
from neoq.cli.parser import Parser, moment
from neoq.cli.payloads import payload_in
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.job import Job

HELP = "store a job"
EXAMPLE = """neoq enqueue emails '{"to": "ada@example.com"}' --run-after 2h"""
GROUP = "Change"
OPTIONS = ("kind", "uid", "run_after", "priority", "key")


def add_arguments(parser: Parser) -> None:
    """The job."""
    parser.add_argument("queue", metavar="QUEUE", help="where it goes")
    parser.add_argument(
        "payload", nargs="?", default="{}", metavar="JSON", help="its payload; - reads it from stdin"
    )
    parser.add_argument("--kind", metavar="NAME", help="the task that runs it, such as shop.mail.send")
    parser.add_argument(
        "--uid", metavar="TEXT", help="a name of your own, unique among the jobs that are kept"
    )
    parser.add_argument("--run-after", type=moment, metavar="TIME", help="not before; 2h, 7d or ISO 8601")
    parser.add_argument("--priority", type=int, metavar="N", help="-100 to 100; the highest goes first")
    parser.add_argument("--key", metavar="TEXT", help="a name to find it by")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Store it."""
    payload = payload_in(args.payload)
    options = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    with opened(args) as backend:
        job = backend.enqueue(args.queue, payload, **options)
        if args.json:
            output.print_json(output.job_record(job) | {"duplicate": job.duplicate})
        else:
            _tell(backend, job)
    return 0


def _tell(backend: Backend, job: Job) -> None:
    queue = output.plain(job.queue)
    if job.duplicate:
        show(f"job {job.id} of {queue} is equal and {job.status}: nothing was stored")
        return
    show(f"job {job.id} of {queue} is stored")
    listening = [worker for worker in backend.workers() if job.queue in worker.queues]
    kinds = [worker.kinds.get(job.queue) for worker in listening]
    if not listening:
        say(f"no live worker listens on {queue}")
    elif not any(known is None or job.kind in known for known in kinds):
        what = "a job without a kind" if job.kind is None else f"the kind {output.plain(job.kind)}"
        say(f"no live worker of {queue} runs {what}")
