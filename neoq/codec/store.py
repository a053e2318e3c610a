"""CodedStore: a store whose jobs carry coded values, seen from above as one whose values are plain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from neoq.codec.codec import SEALED_TEXT, Codec, compares_payload
from neoq.errors import MissingKeyError
from neoq.filter import ALL, Filter
from neoq.held.group import BatchRules
from neoq.held.step import Step
from neoq.job import DuplicateJobError, Job
from neoq.outcome import Failure, Lease, Outcome, lease_of
from neoq.payload import CANNOT_OPEN, is_coded
from neoq.record import Status
from neoq.store import Claimed, Demand, Extended, Page, Reclaimed, Store, Tick
from neoq.times import later_and_later


def _passed(name: str) -> Any:
    """A method that is that of the store behind."""

    def call(self: CodedStore, *arguments: Any, **keywords: Any) -> Any:
        return getattr(self.behind, name)(*arguments, **keywords)

    return call


class CodedStore(Store):
    """A store in front of another one, which sees coded values only."""

    def __init__(self, behind: Store, codec: Codec) -> None:
        super().__init__(behind.config, behind.context)
        self.behind = behind
        self.features = behind.features  # type: ignore[misc]  # those of an instance
        self.announces = behind.announces  # type: ignore[misc]
        self._codec = codec
        self._told = False

    def __getattr__(self, name: str) -> Any:
        if name == "behind":  # not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.behind, name)

    open_store = _passed("open_store")
    close_store = _passed("close_store")
    migration = _passed("migration")
    stop_waiting = _passed("stop_waiting")
    stop_claiming = _passed("stop_claiming")
    new_token = _passed("new_token")
    last_tick = _passed("last_tick")
    list_schedules = _passed("list_schedules")
    schedules = _passed("schedules")
    open_ear = _passed("open_ear")
    ask = _passed("ask")
    announce = _passed("announce")
    prune = _passed("prune")
    beat = _passed("beat")
    workers = _passed("workers")
    counts = _passed("counts")
    waiting_kinds = _passed("waiting_kinds")
    change = _passed("change")
    set_paused = _passed("set_paused")
    add_audit = _passed("add_audit")
    audit = _passed("audit")
    add_series = _passed("add_series")
    series = _passed("series")
    seal = _passed("seal")
    group = _passed("group")
    tend = _passed("tend")
    limit = _passed("limit")
    limits = _passed("limits")
    lines = _passed("lines")

    # -- on the way in -----------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs with coded payloads."""
        coded = list(map(self._coded, jobs))
        with self._plain_duplicate():
            return self._plain_all(self.behind.add(coded, token=token, transaction=transaction))

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Store the job of a tick with a coded payload."""
        return self.behind.add_tick(cron, tick, self._coded(job))

    def open_batch(self, then: Job, rules: BatchRules, *, token: bytes, transaction: Any = None) -> Job:
        """Store the callback of a batch with a coded payload."""
        coded = self._coded(then)
        with self._plain_duplicate():
            return self._plain(self.behind.open_batch(coded, rules, token=token, transaction=transaction))

    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases, with coded words of progress."""
        return self.behind.extend([self._coded_lease(lease) for lease in leases])

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record outcomes with coded results, errors and steps."""
        coded = [self._coded_outcome(outcome) for outcome in outcomes]
        return self.behind.settle(coded, transaction=transaction)

    def record(self, records: Sequence[tuple[Lease, Sequence[Step]]], *, transaction: Any = None) -> set[int]:
        """Record coded steps."""
        coded = [
            (self._coded_lease(lease), [self._coded_step(step) for step in steps]) for lease, steps in records
        ]
        return self.behind.record(coded, transaction=transaction)

    def signal(self, to: int | tuple[str, str], step: Step, *, transaction: Any = None) -> bool:
        """Record a coded signal."""
        return self.behind.signal(to, self._coded_step(step), transaction=transaction)

    def _coded(self, job: Job) -> Job:
        coded = job.snapshot()
        coded.producer = job.producer
        if job.unique and compares_payload(job):
            self._codec.refuse_open_fingerprint(job)
            coded.own_fingerprint, coded.special = self._codec.fingerprint(job.fingerprint), True
        coded.body = self._codec.encode(job.body or b"{}")
        coded.parsed = None
        return coded

    def _coded_lease(self, lease: Lease) -> Lease:
        if lease.progress is None or not self._codec.seals:
            return lease
        fraction, words = lease.progress
        return lease._replace(progress=(fraction, self._codec.encode_text(words)))

    def _coded_step(self, step: Step) -> Step:
        return step._replace(data=self._codec.encode(step.data))

    def _coded_outcome(self, outcome: Outcome) -> Outcome:
        text, failure = self._codec.encode_text, outcome.failure
        return outcome._replace(
            lease=self._coded_lease(outcome.lease),
            result=None if outcome.result is None else self._codec.encode(outcome.result),
            failure=failure
            and Failure(failure.type, text(failure.message), failure.traceback and text(failure.traceback)),
            failed_attempts=self._each_attempt(outcome.failed_attempts, self._coded_error, text),
            follow=tuple(map(self._coded, outcome.follow)),
            steps=tuple(map(self._coded_step, outcome.steps)),
        )

    def _coded_error(self, error: str) -> str:
        """An error whose type may be read, and whose message is sealed: it is looked for by its type."""
        name, colon, message = error.partition(": ")
        return f"{name}{colon}{self._codec.encode_text(message)}"

    def _each_attempt(
        self, attempts: bytes | None, error: Callable[[str], str], trace: Callable[[str], str]
    ) -> bytes | None:
        """The lines of the failed attempts, with their texts changed: see `neoq.attempts`."""
        if not attempts or not self._codec.seals:
            return attempts
        lines = []
        for data in attempts.split(b"\n"):
            try:
                line = orjson.loads(data)
                line |= {"e": error(line["e"]), "t": line["t"] and trace(line["t"])}
            except (ValueError, LookupError, TypeError, AttributeError):  # somebody else wrote it
                lines.append(data)
            else:
                lines.append(orjson.dumps(line))
        return b"\n".join(lines)

    # -- on the way out ----------------------------------------------------------------------------------

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take jobs whose keys are there; the others are given back, to be tried later and later."""
        claimed = self.behind.claim(demand)
        jobs = self._plain_all(claimed.jobs)
        closed = [job for job in jobs if is_coded(job.body)]
        if not closed:
            return claimed._replace(jobs=jobs)
        now = self.clock.time()
        self.behind.settle(
            [Outcome(lease_of(job), Status.PENDING, later_and_later(job.created, now)) for job in closed]
        )
        self._tell(closed[0])
        return claimed._replace(jobs=[job for job in jobs if not is_coded(job.body)])

    def _tell(self, job: Job) -> None:
        if not self._told:
            self._told = True
            self.config.log.critical(
                "job %s of %s is sealed, and none of the keys of this process opens it; it is given back, as "
                "are others like it, and tried again later: give Codec(keys=[...]) the key that sealed it",
                job.id,
                job.queue,
            )

    def reclaim(self) -> Reclaimed:
        """Give back the jobs of workers that died."""
        returned, dead = self.behind.reclaim()
        return Reclaimed(self._plain_all(returned), self._plain_all(dead))

    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of jobs; what their payloads must have is looked for here."""
        page = self.behind.find(replace(wanted, payload=()), limit=limit, after=after, before=before)
        jobs = [job for job in self._plain_all(page.jobs) if wanted.matches_payload(job)]
        rest = _rest_of(page, limit, ascending=before is not None) if wanted.payload else page.rest
        return Page(jobs, rest)

    def find_brief(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """As `find`: the beginning of a sealed payload says nothing."""
        return self.find(wanted, limit=limit, after=after, before=before)

    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded, in plain."""
        return list(map(self._plain_step, self.behind.steps(job_id)))

    def _plain_step(self, step: Step) -> Step:
        """A step with its plain value, which stays coded where there is no key for it."""
        try:
            return step._replace(data=self._codec.decode(step.data))
        except MissingKeyError:
            return step

    @contextmanager
    def _plain_duplicate(self) -> Iterator[None]:
        """Let an error that tells of a job tell of its plain values."""
        try:
            yield
        except DuplicateJobError as error:
            error.job = self._plain(error.job.snapshot())
            raise

    def _plain_all(self, jobs: Iterable[Job]) -> list[Job]:
        return list(map(self._plain, jobs))

    def _plain(self, job: Job) -> Job:
        """A job with plain values; the payload and the result stay coded where there is no key for them."""
        if is_coded(job.body):
            try:
                job.body, job.parsed = self._codec.decode(job.body), None  # type: ignore[arg-type]
            except MissingKeyError:
                job.parsed = None
        if is_coded(job.result_body):
            try:
                job.result_body = self._codec.decode(job.result_body)  # type: ignore[arg-type]
            except MissingKeyError:
                pass
        if job.error is not None:
            job.error = self._plain_error(job.error)
        if job.traceback is not None:
            job.traceback = self._plain_text(job.traceback)
        if job.progress_report is not None:
            job.progress_report = job.progress_report[0], self._plain_text(job.progress_report[1])
        job.failed_attempts = self._each_attempt(job.failed_attempts, self._plain_error, self._plain_text)
        return job

    def _plain_error(self, error: str) -> str:
        name, colon, message = error.partition(": ")
        return f"{name}{colon}{self._plain_text(message)}"

    def _plain_text(self, text: str) -> str:
        if not text.startswith(SEALED_TEXT):
            return text
        try:
            return self._codec.decode_text(text)
        except MissingKeyError:
            return CANNOT_OPEN


def _rest_of(page: Page, limit: int, *, ascending: bool) -> int | None:
    """Where to go on, if jobs of a page were left out: at its end, unless it was the last one."""
    if page.rest is not None or len(page.jobs) < limit:
        return page.rest
    return (max if ascending else min)(job.id for job in page.jobs)
