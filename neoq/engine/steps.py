"""The steps of one attempt: what it has recorded already, what it records now, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import orjson

from neoq.batch import listed
from neoq.checks import checked_text
from neoq.engine.open_transaction import is_open
from neoq.engine.results import undone
from neoq.engine.search import pages
from neoq.errors import (
    InvalidJobError,
    JobCancelled,
    NeoqError,
    PayloadError,
    StaleLeaseError,
    Suspended,
    TooManyStepsError,
)
from neoq.filter import Filter
from neoq.held.children import ChildFailed, stand_ins
from neoq.held.group import BATCH, Group, group_in
from neoq.held.step import MOST_STEPS, SIGNAL, Step
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.payload import EXACT, encode_value
from neoq.record import JobOptions, Status
from neoq.threads.boundary import wall
from neoq.times import epoch_or_span, latest, to_seconds

if TYPE_CHECKING:
    from neoq.engine.holding import Holding
    from neoq.engine.interrupt import AttemptSlot

T = TypeVar("T")
MOST_CHILDREN = 10_000  # of one gather: they are added in one step, and returned in one list
TIMED_OUT = b"false"
KEEPING = frozenset({"save", "saved"})  # they work to the end of the handler, and in its ``finally``
ROUNDING = 0.001  # seconds: a store may keep times less exactly than a float


class Wait(NamedTuple):
    """What an attempt that was suspended waits for."""

    until: float | None = None
    holds: int | None = None
    awaits: str | None = None
    children: tuple[Job, ...] = ()
    steps: tuple[Step, ...] = ()


class AttemptSteps:
    """The steps of one attempt; all but `unsaved` is used by its handler's thread only."""

    def __init__(self, job: Job, slot: AttemptSlot, holding: Holding) -> None:
        self.job = job
        self.follow: list[Job] = []  # jobs to be added if the attempt succeeds
        self.wait: Wait | None = None  # the attempt was suspended
        self.unsaved: dict[str, Step] = {}  # saved values that are not recorded yet
        self._slot = slot
        self._holding = holding
        self._known: dict[str, Step] | None = None
        self._used: set[str] = set()
        self._open: tuple[str, Any] | None = None  # a step in the caller's transaction, and that

    # -- what a handler calls ----------------------------------------------------------------------------

    def step(
        self,
        name: str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        keywords: Mapping[str, Any],
        transaction: Any,
    ) -> T:
        """Call a function once; see `Job.step`."""
        self._enter("step")
        if not callable(function):
            raise InvalidJobError(
                f"the step {name!r} got {function!r:.80}; it takes a function and then its arguments: "
                "job.step(name, function, ...)",
                queue=self.job.queue,
            )
        key = self._key("step", name)
        found = self._recorded().get(key)
        if found is None:
            self._refuse_more()
            value = _call(function, arguments, keywords)
            if value is not None:
                _refuse_undone(value, self.job, name)
            found = Step(key, self._encoded(value, f"the result of step {name!r}"))
            self._record(found, transaction)
        result: T = orjson.loads(found.data)
        return result

    def gather(self, name: str, jobs: Iterable[Job]) -> list[Job]:
        """Run children; see `Job.gather`."""
        self._enter("gather")
        key, given = self._key("gather", name), _jobs_in(jobs, name)
        found = self._recorded().get(key)
        if found is None:
            self._refuse_more()
            children = self._children(given)
            if children:
                raise self._suspended(self._wait_for_children(key, children))
            found = Step(key, b"[0,0]")
            self._record(found)
        number, count = orjson.loads(found.data)
        return self._ended_children(number, count, given) if count else []

    def call(self, name: str, job: Job) -> Any:
        """Run one child; see `Job.call`."""
        ended = self.gather(name, [job])
        if not ended:
            raise NeoqError(f"job.call({name!r}) was left without a job by an enqueue middleware")
        if ended[0].status is not Status.SUCCEEDED:
            raise ChildFailed(ended[0])
        return ended[0].result

    def sleep(self, name: str, until: timedelta | float | datetime) -> None:
        """Go on later; see `Job.sleep`."""
        self._enter("sleep")
        key, now = self._key("sleep", name), self._holding.clock.time()
        found = self._recorded().get(key)
        if found is not None:
            wakes = orjson.loads(found.data)
            if not self._is_over(wakes):
                raise self._suspended(Wait(wakes))
            return
        self._refuse_more()
        at, span = epoch_or_span("sleep", until)
        wakes = latest(now + max(0.0, span or 0.0) if at is None else at)
        step = Step(key, EXACT % orjson.dumps(wakes))
        if wakes > now:
            raise self._suspended(Wait(wakes, steps=(self._progress(step),)))
        self._record(step)

    def wait_for(self, name: str, timeout: timedelta | float | None) -> dict[str, Any] | None:
        """Wait for a signal; see `Job.wait_for`."""
        self._enter("wait_for")
        checked_text("the name of a signal", name)
        key, signal = f"wait:{name}", SIGNAL + name
        waits = self._recorded().get(key)
        if waits is not None and waits.data == TIMED_OUT:
            return None
        found = self._recorded().get(signal)
        if found is None:  # it may have come since these were read
            self._read()
            found = self._recorded().get(signal)
        if found is not None:
            payload: dict[str, Any] = orjson.loads(found.data)
            return payload
        if waits is None:
            self._refuse_more()
            seconds = None if timeout is None else max(0.0, to_seconds("timeout", timeout))
            until = None if seconds is None else latest(self._holding.clock.time() + seconds)
            steps = [self._progress(Step(key, EXACT % orjson.dumps(until)))]
        else:
            until, steps = orjson.loads(waits.data), []
        if until is not None and self._is_over(until):
            self._record(Step(key, TIMED_OUT, lasting=False))
            return None
        raise self._suspended(Wait(until, awaits=signal, steps=tuple(steps)))

    def save(self, name: str, value: Any) -> None:
        """Keep a value; see `Job.save`."""
        self._enter("save")
        key = f"save:{checked_text('the name of a saved value', name)}"
        if key not in self.unsaved and key not in self._recorded():
            self._refuse_more()
        step = Step(key, self._encoded(value, f"the saved value {name!r}"), lasting=False)
        self.unsaved[key] = step
        self._recorded()[key] = step

    def saved(self, name: str, default: Any) -> Any:
        """Read a value that was kept."""
        self._enter("saved")
        found = self._recorded().get(f"save:{name}")
        return default if found is None else orjson.loads(found.data)

    def enqueue(self, queue: str | Job, payload: Any, options: JobOptions, *, batch: bool) -> None:
        """Add a job if the attempt succeeds; see `Job.enqueue`."""
        self._enter("enqueue")
        group = None
        if batch:
            own = group_in(self.job.group)
            if own is None or own.round != BATCH:
                raise InvalidJobError(f"job.enqueue(batch=True): job {self.job.id} is a member of no batch")
            group = Group(own.holder)
        self.follow += self._made_ready(self._holding.given(queue, payload, options), group)

    # -- how the attempt ends ----------------------------------------------------------------------------

    def suspended(self, started: float) -> Outcome:
        """The outcome of an attempt that was suspended."""
        wait, now = self.wait, self._holding.clock.time()
        assert wait is not None
        self._holding.note_enqueued(wait.children)
        return Outcome(
            lease_of(self.job),
            Status.PENDING,
            wait.until,
            False,
            started,
            now,
            follow=wait.children,
            holds=wait.holds,
            awaits=wait.awaits,
            steps=(*wait.steps, *self.unsaved.values()),
        )

    def followed(self, outcome: Outcome) -> Outcome:
        """The outcome of an attempt that has succeeded, with the jobs that follow it."""
        self._holding.note_enqueued(self.follow)
        return outcome._replace(follow=tuple(self.follow))

    def open_error(self) -> Exception | None:
        """The error of a handler that has returned while a step is in an open transaction."""
        try:
            self.refuse_open("the handler's return")
        except Exception as error:
            return error
        return None

    def with_saved(self, outcome: Outcome) -> Outcome:
        """An outcome that records the saved values, too."""
        if not self.unsaved or self.job.lease_lost:
            return outcome
        return outcome._replace(steps=(*outcome.steps, *self.unsaved.values()))

    def note_saved(self, recorded: Mapping[str, Step]) -> None:
        """Values were recorded; those that were saved again since are still to be."""
        for name, step in recorded.items():
            if self.unsaved.get(name) is step:
                self.unsaved.pop(name, None)

    def refuse_open(self, what: str) -> None:
        """Raise where a step is in a transaction that is still open; forget one that was rolled back."""
        if self._open is None:
            return
        key, transaction = self._open
        if any(step.name == key for step in self._holding.store.steps(self.job.id)):
            self._note(Step(key, self._recorded()[key].data))
            self._open = None
        elif is_open(transaction):
            raise NeoqError(
                f"{what} comes while the transaction of step {key.partition(':')[2]!r} is open; commit it "
                "first",
                queue=self.job.queue,
                job_id=self.job.id,
            )
        else:
            self._open = None
            self._recorded().pop(key, None)
            self._used.discard(key)

    # -- the rest ----------------------------------------------------------------------------------------

    def _enter(self, method: str) -> None:
        """Refuse what no later attempt could repeat in its order."""
        if self._slot.ident != get_ident():
            raise NeoqError(
                f"job.{method}() works in the handler's own thread only: let helpers return what they found",
                queue=self.job.queue,
                job_id=self.job.id,
            )
        if self._slot.abandoned:
            raise JobCancelled(f"this attempt of job {self.job.id} has ended: it did not heed its interrupt")
        if self.wait is not None and method not in KEEPING:  # the handler has swallowed it
            raise Suspended(f"job {self.job.id} is suspended: let neoq.Suspended pass")
        if self.job.completed and method not in KEEPING:
            raise NeoqError(
                f"job.{method}() comes after job.complete(), which has settled the attempt",
                queue=self.job.queue,
                job_id=self.job.id,
            )
        self.refuse_open(f"job.{method}()")

    def _key(self, sort: str, name: str) -> str:
        """The name of a step in the store: what is used again in one attempt is another step."""
        first = key = f"{sort}:{checked_text('the name of a step', name)}"
        number = 1
        while key in self._used:  # a name of the user's may end in "#2", too
            number += 1
            key = f"{first}#{number}"
        self._used.add(key)
        return key

    def _recorded(self) -> dict[str, Step]:
        if self._known is None:
            self._read()
        assert self._known is not None
        return self._known

    def _read(self) -> None:
        """Read what the store has; a job that had nothing when it was claimed may have signals since."""
        first = self._known is None
        unread = first and not self.job.steps
        found = () if unread else self._holding.store.steps(self.job.id)
        for step in found:
            step.refuse_sealed()
        self._known = {**{step.name: step for step in found}, **self.unsaved}
        if first:
            look_back(self.job, found)

    def _refuse_more(self) -> None:
        known = self._recorded()
        if len(known) < MOST_STEPS:  # as nearly always: these are not counted for each step
            return
        count = sum(not name.startswith(SIGNAL) for name in known)
        if count >= MOST_STEPS:
            raise TooManyStepsError(
                f"job {self.job.id} has recorded {MOST_STEPS:,} steps, and can have no more: split it, or "
                "let job.gather() run the parts",
                queue=self.job.queue,
                job_id=self.job.id,
            )

    def _encoded(self, value: Any, what: str) -> bytes:
        data, limit = encode_value(value, what), self._holding.config.max_payload
        if len(data) > limit:
            raise PayloadError(
                f"{what} is {len(data):,} bytes as JSON, more than max_payload ({limit:,}): store the bulk "
                "elsewhere, and record a reference to it"
            )
        return data

    def _progress(self, step: Step) -> Step:
        job = self.job
        return step._replace(retries=job.retries, crashes=job.crashes) if job.retries or job.crashes else step

    def _record(self, step: Step, transaction: Any = None) -> None:
        step, lease = self._progress(step), lease_of(self.job)
        self._slot.meet_interrupt()
        if transaction is None:
            current = self._holding.recorder.record(lease, [step], lambda: self._slot.asked_to_stop(self.job))
        else:
            current = self.job.id not in self._holding.store.record(
                [(lease, [step])], transaction=transaction
            )
        if not current:
            self._stop()
        if transaction is None:
            self._note(step)
        else:
            self._recorded()[step.name] = step
            self._open = step.name, transaction

    def _note(self, step: Step) -> None:
        self._recorded()[step.name] = step
        self.job.retries_before = self.job.retries

    def _stop(self) -> NoReturn:
        """End an attempt whose lease was lost: another worker may have the job."""
        self.job.lease_lost = self.job.cancel_asked = True
        self._slot.interrupt(self.job, JobCancelled)
        raise JobCancelled(
            f"job {self.job.id} is no longer ours: its lease was lost, and others may run it"
        ) from StaleLeaseError("the step was not recorded", queue=self.job.queue, job_id=self.job.id)

    def _is_over(self, until: float) -> bool:
        """Whether a time has come, by this process's clock or by the store's, which made the job due."""
        due = self.job.due or 0.0
        return self._holding.clock.time() >= until or due >= until - ROUNDING

    def _suspended(self, wait: Wait) -> Suspended:
        self.wait = wait
        return Suspended(f"job {self.job.id} waits; its handler is called again")

    def _children(self, given: list[Job]) -> list[Job]:
        self._holding.refuse_own_line(self.job, given)
        children = self._made_ready(given, Group(self.job.id))
        if len(children) > MOST_CHILDREN:
            raise InvalidJobError(
                f"job.gather() got {len(children):,} jobs, more than {MOST_CHILDREN:,}: use backend.batch()"
            )
        return children

    def _made_ready(self, given: list[Job], group: Group | None) -> list[Job]:
        """Jobs that are stored with the attempt's outcome, when the handler can catch no error any more."""
        ready = self._holding.made_ready(given, group)
        for job in ready:
            if job.unique and job.on_duplicate == "raise":
                raise InvalidJobError(
                    'on_duplicate="raise" is for enqueue() of a backend: this job is stored when the handler '
                    "has ended, and could raise nothing there; leave it out",
                    queue=job.queue,
                )
            if self._holding.config.codec is not None:
                self._holding.config.codec.refuse_open_fingerprint(job)
        return ready

    def _wait_for_children(self, key: str, children: list[Job]) -> Wait:
        number = 1 + max([self.job.holds or 0, *self._rounds()])
        for place, child in enumerate(children):
            child.group = str(Group(self.job.id, number, place))
        step = self._progress(Step(key, EXACT % orjson.dumps([number, len(children)])))
        return Wait(holds=number, children=tuple(children), steps=(step,))

    def _rounds(self) -> Iterator[int]:
        for name, step in self._recorded().items():
            if name.startswith("gather:"):
                yield orjson.loads(step.data)[0]

    def _ended_children(self, number: int, count: int, given: list[Job]) -> list[Job]:
        wanted = Filter(group=Group(self.job.id, number).name)
        found = {
            group.place: child
            for page in pages(self._holding.store, wanted)
            for child in page
            if (group := group_in(child.group)) is not None and group.place is not None
        }
        missing = [place for place in range(count) if place not in found]
        if missing:
            stored = self._holding.store.group(self.job.id, number)
            found |= stand_ins(missing, given, 0 if stored is None else count - stored.members)
        return [found[place] for place in range(count)]


def look_back(job: Job, steps: Iterable[Step]) -> None:
    """Let a job know how many retries it had when it got on for the last time.

    Steps that tell of more retries than it has are older than an operator's retry, which began anew.
    """
    job.retries_before = max((one.retries for one in steps if one.retries <= job.retries), default=0)
    job.looked_back = True


@wall
def _call(function: Callable[..., T], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> T:
    """Call a function of the handler's, which may be interrupted as the handler may."""
    return function(*arguments, **keywords)


def _refuse_undone(value: Any, job: Job, name: str) -> None:
    error = undone(value, job.queue, f"the function of step {name!r}")
    if error is not None:
        raise PayloadError(f"{error}; a step takes a plain function", queue=job.queue) from error


def _jobs_in(jobs: Iterable[Job], name: str) -> list[Job]:
    given = listed(jobs, f"the gather {name!r}")
    for job in given:
        if not isinstance(job, Job):
            raise InvalidJobError(
                f"the gather {name!r} got {job!r:.80}; it takes Job objects: Job(queue, payload)"
            )
    return given
