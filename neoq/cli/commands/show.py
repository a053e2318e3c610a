"""neoq show: everything about one job."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING, Any

from neoq.cli import output
from neoq.cli.changes import job_named
from neoq.cli.exits import CommandError, Exit
from neoq.cli.output import compact, plain, span, when
from neoq.cli.parser import Parser
from neoq.cli.streams import show
from neoq.cli.target import add_store, opened
from neoq.payload import CANNOT_OPEN, is_coded
from neoq.times import to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from neoq.attempts import Attempt
    from neoq.backend import Backend
    from neoq.held.step import Step
    from neoq.job import Job

HELP = "show everything about a job"
EXAMPLE = "neoq show 1042 --follow"
GROUP = "Look"
WAITS_FOR = {
    "batch": "the members of its batch",
    "children": "its children",
    "signal": "a signal",
    "line": "its turn in the line of its key",
}
DESCRIPTION = "Show everything that the store knows about a job, with its last error and traceback."


def add_arguments(parser: Parser) -> None:
    """Which job."""
    parser.add_argument("id", metavar="ID", help="the job: its id, or its uid")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="print each change until it has finished; end with 0 if it succeeded, else with 1",
    )
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    with opened(args) as backend:
        job = _find(backend, args.id)
        if args.follow:
            return _follow(backend, job.id, args)
        attempts = backend.attempts(job.id)
        steps = backend.steps(job.id) if "steps" in backend.features else []
    if args.json:
        output.print_json(
            output.job_record(job)
            | {"attempts": list(map(output.fields_of, attempts)), "steps": list(map(_step_record, steps))}
            | {"held": job.held, "batch": _batch_record(job)}
        )
    else:
        show("\n".join(described(job, attempts, steps)))
    return 0


def _find(backend: Backend, name: str) -> Job:
    job = job_named(backend, name)
    if job is None:
        raise CommandError(f"there is no job {name}; finished ones are forgotten after the retention")
    return job


def _follow(backend: Backend, job_id: int, args: argparse.Namespace) -> int:
    for job in backend.watch(job_id):
        if args.json:
            output.print_json(output.job_record(job))
        else:
            now = datetime.now().astimezone().isoformat(" ", "milliseconds")
            facts = (f"attempt {job.attempt}", _progress(job.progress()), plain(job.error or "", 100))
            show("  ".join([now, f"{job.status:<9}", *filter(None, facts)]), flush=True)
    return Exit.OK if job.status == "succeeded" else Exit.FAILED


def described(job: Job, attempts: Sequence[Attempt], steps: Sequence[Step] = ()) -> list[str]:
    """The lines that show a job."""
    pairs = [(name, text) for name, text in _facts(job) if text not in {"-", ""}]
    width = max(len(name) for name, _ in pairs)
    lines = [f"{name:<{width}}  {text}" for name, text in pairs]
    if attempts:
        lines += [
            "",
            *output.table(("attempt", "started", "took", "worker", "ended with"), map(_row, attempts)),
        ]
    if steps:
        lines += ["", *output.table(("step", "recorded", "value"), map(_step_row, steps))]
    if job.traceback:
        lines += ["", *output.lines_of(job.traceback)]
    return lines


def _step_row(step: Step) -> Sequence[object]:
    at = to_datetime(step.at)
    value = CANNOT_OPEN if is_coded(step.data) else compact(step.value, 80)
    return plain(step.name, 60), "-" if at is None else at.isoformat(timespec="milliseconds"), value


def _step_record(step: Step) -> dict[str, Any]:
    value = None if is_coded(step.data) else step.value
    return {"name": step.name, "value": value, "at": to_datetime(step.at)}


def _batch_record(job: Job) -> dict[str, Any] | None:
    batch = job.batch
    names = ("members", "succeeded", "dead", "cancelled", "open", "stopped")
    return None if batch is None else {name: getattr(batch, name) for name in names}


def _batch(job: Job) -> str:
    """The counts of the batch whose callback a job is."""
    batch = job.batch
    if batch is None:
        return ""
    ended = f"{batch.succeeded} succeeded, {batch.dead} dead, {batch.cancelled} cancelled"
    state = "".join([", open" if batch.open else "", ", stopped" if batch.stopped else ""])
    return f"{batch.members} members: {ended}{state}"


def _row(attempt: Attempt) -> Sequence[object]:
    started, finished = attempt.started_at, attempt.finished_at
    took = None if started is None or finished is None else span((finished - started).total_seconds())
    began = None if started is None else started.isoformat(timespec="milliseconds")
    return attempt.number, began, took, plain(attempt.worker, 12), plain(attempt.error or "success", 80)


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    yield "job", f"{job.id} of {plain(job.queue)}"
    yield "uid", plain(job.uid)
    yield "kind", plain(job.kind)
    yield "status", f"{job.status}{', asked to stop' if job.cancelled and not job.finished else ''}"
    yield "waits for", WAITS_FOR.get(job.held or "", "")
    yield "batch", _batch(job)
    yield "attempt", f"{job.attempt}{'' if job.max_retries is None else f' of {job.max_retries + 1}'}"
    yield "crashes", str(job.crashes or "")
    yield "priority", str(job.priority or "")
    yield "created", when(job.created_at)
    yield "run after", when(job.run_after)
    yield "scheduled", when(job.scheduled_at)
    yield "started", when(job.ran_at)
    yield "finished", when(job.finished_at)
    yield "deadline", when(job.deadline)
    yield "timeout", "" if job.timeout is None else f"{job.timeout:g} s"
    yield "worker", plain(job.worker)
    yield "progress", _progress(job.progress())
    yield "key", plain(job.key)
    yield "unique", "" if job.unique is True else str(job.unique)
    yield "fingerprint", plain(job.fingerprint)
    yield "meta", compact(dict(job.meta)) if job.meta else ""
    yield "payload", CANNOT_OPEN if is_coded(job.body) else compact(job.payload)
    if job.status == "succeeded":
        yield "result", CANNOT_OPEN if is_coded(job.result_body) else compact(job.result)
    yield "error", plain(job.error)


def _progress(progress: Any) -> str:
    return "" if progress is None else f"{progress[0]:.0%} {plain(progress[1])}".rstrip()
