"""``retry``, ``cancel`` and ``delete``: jobs by their ids, or by the filters of ``jobs``, in pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neoq.cli import output
from neoq.cli.exits import CommandError, Exit
from neoq.cli.filters import PAGE, add_filters, filters_of, pages, say_if_unknown
from neoq.cli.output import many
from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

if TYPE_CHECKING:
    from neoq.audit import Deed
    from neoq.backend import Backend
    from neoq.job import Job
    from neoq.line import JobLine

SAMPLE = 5  # jobs that are shown before a change
REASONS = 10  # jobs of a page-wise change of which the report says why they were left
GONE = "there is no such job; finished ones are forgotten after the retention"
COUNTED = 10_000  # jobs that are counted one by one
_COUNTED_AS = {
    "pending": ("ready", "scheduled"), "retrying": ("retrying",), "running": ("running",),
    "succeeded": ("succeeded",), "dead": ("dead",), "cancelled": ("cancelled",),
}  # fmt: skip


@dataclass(frozen=True)
class Verb:
    """One of the changes: what it is called, and which jobs a filter without --status means."""

    name: str
    past: str
    method: str  # of the backend
    statuses: tuple[str, ...]
    possible: frozenset[str]  # statuses of jobs that it can change

    def apply(self, backend: Backend, ids: list[int]) -> set[int]:
        """Change jobs; those that it changed."""
        changed: set[int] = getattr(backend, self.method)(ids)
        return changed


@dataclass
class Report:
    """What a change by filter has done."""

    matched: int = 0
    changed: int = 0
    left: list[int] = field(default_factory=list)  # that matched and were not changed


def add_arguments(parser: Parser, verb: Verb) -> None:
    """Ids or filters, and whether to do it at once."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="these jobs, by their ids or uids")
    add_filters(parser)
    add_consent(parser, verb)


def add_consent(parser: Parser, verb: Verb) -> None:
    """Whether to do it at once, and where."""
    parser.add_argument("--dry-run", action="store_true", help=f"show what it would {verb.name}, and end")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace, verb: Verb) -> int:
    """Change jobs."""
    filters = filters_of(args)
    if bool(args.ids) == bool(filters):
        many_ways = "give ids or filters, not both" if filters else "give ids, or a filter such as --queue"
        raise CommandError(f"which jobs? {many_ways}", Exit.USAGE)
    if filters:
        return by_filter(verb, filters, args)
    with opened(args) as backend:
        return _by_ids(backend, verb, list(dict.fromkeys(args.ids)), args)


def by_filter(verb: Verb, filters: dict[str, Any], args: argparse.Namespace) -> int:
    """Change the jobs that filters take, once they were shown and somebody has agreed."""
    if not (args.yes or args.dry_run or (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr))):
        raise CommandError(
            f"{verb.name} by filter changes many jobs, and there is no terminal to ask at: look "
            "with --dry-run, then say --yes",
            Exit.USAGE,
        )
    with opened(args) as backend:
        return _by_filter(backend, verb, filters, args)


# -- by ids --------------------------------------------------------------------------------------------------


def _by_ids(backend: Backend, verb: Verb, names: list[str], args: argparse.Namespace) -> int:
    from neoq.audit import Deed, ids_text, recorded

    backend.engine.ensure_readable()
    if args.dry_run:
        return _each(backend, verb, names, args, Deed(verb.name))
    with recorded(backend.store, verb.name, what=ids_text(names)) as deed:
        return _each(backend, verb, names, args, deed)


def _each(backend: Backend, verb: Verb, names: list[str], args: argparse.Namespace, deed: Deed) -> int:
    failed = False
    for start in range(0, len(names), PAGE):
        page = dict.fromkeys(_id_of(backend, name) for name in names[start : start + PAGE])
        ids = [one for one in page if isinstance(one, int)]
        changed = set() if args.dry_run else verb.apply(backend, ids)
        deed.count += len(changed)
        for one in page:
            if isinstance(one, str):
                reason: str | None = GONE
            else:
                reason = None if one in changed else why_not(backend, verb, one, dry=args.dry_run)
                deed.count += reason is None and one not in changed
            failed = failed or reason is not None
            _tell(verb, one, reason, args)
    return Exit.FAILED if failed else Exit.OK


def _id_of(backend: Backend, name: str) -> int | str:
    """The id of a job, or the name that no job has."""
    job = job_named(backend, name)
    return name if job is None else job.id


def job_named(backend: Backend, name: str) -> Job | None:
    """The job of an id, or else of a uid."""
    job = backend.get(int(name)) if name.isdecimal() and len(name) < 20 else None
    return backend.get(uid=name) if job is None else job


def _tell(verb: Verb, name: int | str, reason: str | None, args: argparse.Namespace) -> None:
    if args.json:
        changed = reason is None and not args.dry_run
        output.print_json({"id": name, "changed": changed, "reason": reason})
    elif reason is None:
        show(f"job {name}: {'would be ' if args.dry_run else ''}{verb.past}")
    else:
        say(f"job {output.plain(str(name))} was not {verb.past}: {output.plain(reason)}")


def why_not(backend: Backend, verb: Verb, job_id: int, *, dry: bool = False) -> str | None:
    """Why a job cannot be changed; None where it can be, and unless it is ``dry`` it is changed now."""
    from neoq.errors import NeoqError

    job = backend.get(job_id)
    if job is None:
        return GONE
    status = str(job.status)
    if status not in verb.possible:
        hint = {"delete": "; cancel it first", "retry": ""}.get(verb.name, "")
        return f"it is running{hint}" if status == "running" else f"it has finished already: {status}"
    if dry:
        return None
    try:
        return None if getattr(backend, verb.method)(job_id) else "it has changed in the meantime; try again"
    except NeoqError as error:  # a retry meets an unfinished job that is equal
        return str(error)


# -- by filter -----------------------------------------------------------------------------------------------


def _by_filter(backend: Backend, verb: Verb, filters: dict[str, Any], args: argparse.Namespace) -> int:
    if args.status is not None and args.status not in verb.possible:
        raise CommandError(f"{verb.name} does nothing to jobs that are {args.status}", Exit.USAGE)
    asks = not (args.yes or args.dry_run)
    total = 0 if say_if_unknown(backend, args.queue) else _matching(backend, verb, filters, args.yes)
    if args.dry_run and args.json:
        output.print_json({"matched": COUNTED if total is None else total, "exact": total is not None})
        return Exit.OK
    if total == 0:
        say("no job matches")
    elif asks or args.dry_run:
        shown = f"more than {many(COUNTED)}" if total is None else many(total)
        for line in sample_lines(next(_matches(backend, verb, filters, SAMPLE), [])):
            say(line) if asks else show(line)
        if args.dry_run:
            show(f"would {verb.name} {shown}")
        elif not _agreed(f"{verb.name} {shown}? [y/N] "):
            say("nothing was changed")
            return Exit.FAILED
    if args.dry_run:
        return Exit.OK
    return change(backend, verb, filters, total, json=args.json)


def _agreed(question: str) -> bool:
    say(question, end="")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def change(backend: Backend, verb: Verb, filters: dict[str, Any], total: int | None, *, json: bool) -> int:
    """Change what matches, page by page, and report; also where it is interrupted."""
    from neoq.audit import recorded

    report = Report()
    backend.engine.ensure_readable()
    with recorded(backend.store, verb.name, queue=filters.get("queue"), what=_what(verb, filters)) as deed:
        try:
            return _change(backend, verb, filters, total, report, json=json)
        finally:
            deed.count = report.changed


def _what(verb: Verb, filters: dict[str, Any]) -> str:
    """A filter, as the audit tells it."""
    from time import time

    from neoq.audit import filter_text
    from neoq.filter import filter_of
    from neoq.record import Status

    wanted = filter_of({name: value for name, value in filters.items() if name != "after"}, time())
    if wanted.statuses is None:
        wanted = replace(wanted, statuses=frozenset(map(Status, verb.statuses)))
    after = f" after={filters['after']}" if "after" in filters else ""
    return filter_text(wanted) + after


def _change(
    backend: Backend, verb: Verb, filters: dict[str, Any], total: int | None, report: Report, *, json: bool
) -> int:
    reasons: list[str] = []
    try:
        for page in _matches(backend, verb, filters) if total != 0 else ():
            changed = verb.apply(backend, [job.id for job in page])
            report.matched += len(page)
            report.changed += len(changed)
            report.left += [job.id for job in page if job.id not in changed]
            if output.is_terminal(sys.stderr):
                of = "" if total is None else f" of {total:,}"
                say(f"\r{verb.past} {report.changed:,}{of}", end="")
        for job_id in report.left[:REASONS]:
            reason = why_not(backend, verb, job_id)
            report.changed += reason is None
            reasons += [] if reason is None else [f"job {job_id} was not {verb.past}: {output.plain(reason)}"]
    finally:
        _tell_all(verb, report, reasons, json=json)
    return Exit.OK


def _tell_all(verb: Verb, report: Report, reasons: list[str], *, json: bool) -> None:
    if report.matched and output.is_terminal(sys.stderr):
        say("")
    if json:
        output.print_json({"matched": report.matched, "changed": report.changed})
    else:
        show(f"{verb.past} {many(report.changed)}", flush=True)
    for reason in reasons:
        say(reason)
    if (more := report.matched - report.changed - len(reasons)) > 0:
        say(f"{many(more)}{' more' if reasons else ''} matched and were not {verb.past}")


def _matches(
    backend: Backend, verb: Verb, filters: dict[str, Any], limit: int | None = None
) -> Iterator[list[JobLine]]:
    """The jobs that match and can be changed, in pages of lines."""
    filters = filters | {"brief": True}
    if "status" in filters:
        yield from pages(backend, filters, limit)
        return
    for status in verb.statuses:
        yield from pages(backend, filters | {"status": status}, limit)


def _matching(backend: Backend, verb: Verb, filters: dict[str, Any], quickly: bool) -> int | None:
    """How many jobs match; None where that takes too long to count, or ``quickly`` any time."""
    if set(filters) <= {"queue", "status"}:
        statuses = [filters["status"]] if "status" in filters else verb.statuses
        names = [name for status in statuses for name in _COUNTED_AS[status]]
        queues = [one for one in backend.queues() if filters.get("queue", one.queue) == one.queue]
        return sum(int(getattr(queue, name)) for queue in queues for name in names)
    if quickly:
        return None
    total = 0
    for page in _matches(backend, verb, filters):
        total += len(page)
        if total > COUNTED:
            return None
    return total


def sample_lines(jobs: list[JobLine]) -> list[str]:
    """Some jobs as a table."""
    from neoq.cli.listing import job_rows

    return output.table(*job_rows(jobs))


_WAITING = ("pending", "retrying")
_ENDED = ("succeeded", "dead", "cancelled")
VERBS: Mapping[str, Verb] = {
    "retry": Verb("retry", "retried", "retry", ("dead", "retrying"), frozenset({"dead", *_WAITING})),
    "cancel": Verb(
        "cancel", "cancelled", "cancel", (*_WAITING, "running"), frozenset({"running", *_WAITING})
    ),
    "delete": Verb("delete", "deleted", "delete", (*_WAITING, *_ENDED), frozenset({*_WAITING, *_ENDED})),
    "purge": Verb("purge", "purged", "delete", ("succeeded", "cancelled"), frozenset(_ENDED)),
}
