"""What a running job offers beside its payload: recorded steps, children, waits and saved values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, Unpack

from neoq.errors import NeoqError
from neoq.record import JobOptions, Record
from neoq.threads.boundary import entrance, entrances

T = TypeVar("T")


class Members(Protocol):
    """The members of a batch, counted: see `neoq.Batch`."""

    @property
    def members(self) -> int:
        """How many were added."""

    @property
    def succeeded(self) -> int:
        """How many have succeeded."""

    @property
    def dead(self) -> int:
        """How many are dead."""

    @property
    def cancelled(self) -> int:
        """How many were cancelled or deleted."""

    @property
    def ended(self) -> int:
        """How many have ended."""

    @property
    def open(self) -> bool:
        """Whether more may be added."""

    @property
    def stopped(self) -> bool:
        """Whether it was cancelled, or stopped at a dead member."""

    def results(self) -> Iterator[Any]:
        """The members, oldest first, in pages."""


class Steps(Protocol):
    """The steps of one attempt; see `neoq.engine.steps`."""

    def step(
        self,
        name: str,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        keywords: Mapping[str, Any],
        transaction: Any,
    ) -> T:
        """Call a function once."""

    def gather(self, name: str, jobs: Iterable[Any]) -> list[Any]:
        """Run children, and return them when all have ended."""

    def call(self, name: str, job: Any) -> Any:
        """Run one child, and return its result."""

    def sleep(self, name: str, until: timedelta | float | datetime) -> None:
        """Go on later."""

    def wait_for(self, name: str, timeout: timedelta | float | None) -> dict[str, Any] | None:
        """Go on when a signal has come."""

    def save(self, name: str, value: Any) -> None:
        """Keep a value."""

    def saved(self, name: str, default: Any) -> Any:
        """Read a value that was kept."""

    def enqueue(self, queue: Any, payload: Any, options: JobOptions, *, batch: bool) -> None:
        """Add a job if and when the attempt succeeds."""


class RunningAttempt(Protocol):
    """What a running job asks of the thread that runs it."""

    job: Any
    max_progress: int
    on_report: Callable[[], object]

    def asked_to_stop(self, job: Any) -> bool:
        """Whether the attempt is to end soon."""

    def remaining(self) -> float:
        """Seconds until the timeout or the deadline; infinity without either."""

    def shield(self, job: Any) -> AbstractContextManager[None]:
        """Keep interrupts out of a block."""

    def complete(self, job: Any, connection: Any, result: Any) -> None:
        """Settle the job as succeeded in a transaction of the handler's."""

    def fail(self, job: Any, error: BaseException) -> None:
        """Let one job of a call of many fail."""

    def steps_of(self, job: Any, method: str) -> Steps:
        """The steps of this attempt, which are asked for by a method of the job."""

    def members(self, job: Any) -> Members | None:
        """The members of the batch whose callback the job is."""

    def look_back(self, job: Any) -> None:
        """Learn how many retries the job had when it got on for the last time."""


@entrances()
class Stepwise:
    """The part of `Job` by which a handler is durable in steps."""

    __slots__ = ()

    if TYPE_CHECKING:
        id: int
        queue: str
        slot: Any
        steps: int
        retries: int
        retries_before: int

    def step(
        self, name: str, function: Callable[..., T], *args: Any, transaction: Any = None, **kwargs: Any
    ) -> T:
        """Call ``function(*args, **kwargs)`` and record what it returns; later attempts read that back.

        A step runs again only if the attempt ended before it was recorded: then its effect may happen twice.
        ``transaction`` is a connection of yours to the database that has the jobs, in whose commit the step
        is recorded: there effect and record are both done, or neither is. Commit before the next step.

        What it returns must be JSON, and is returned as it is read back: a tuple as a list. An exception
        fails the attempt, and nothing is recorded. A name that is used again in one attempt is another step.
        Raises PayloadError for a value that is no JSON or too large, TooManyStepsError beyond 1,000 steps.
        """
        return self._steps("step").step(name, function, args, kwargs, transaction)

    def gather(self, name: str, jobs: Iterable[Record]) -> list[Self]:
        """Run jobs, its children, and return them in their order when all have ended.

        The attempt ends here: it raises `Suspended`, and no thread waits. When the last child has ended the
        handler is called again, and reads back what it has recorded. Children are SUCCEEDED, with
        ``result``, or DEAD or CANCELLED, with ``error``. They are not unique unless they say so.
        """
        return self._steps("gather").gather(name, jobs)

    def call(self, name: str, job: Record) -> Any:
        """Run one job as `gather` does, and return its result.

        Raises ChildFailed where it is DEAD or CANCELLED.
        """
        return self._steps("call").call(name, job)

    def sleep(self, name: str, until: timedelta | float | datetime) -> None:
        """Go on after a timedelta, after seconds, or at a datetime; it ends the attempt as `gather` does."""
        self._steps("sleep").sleep(name, until)

    def wait_for(self, name: str, timeout: timedelta | float | None = None) -> dict[str, Any] | None:
        """Wait for a signal of a name, and return its payload; it ends the attempt as `gather` does.

        Returns None where ``timeout`` comes first, and then always. `Backend.signal` sends it; it may come
        before the job waits.
        """
        return self._steps("wait_for").wait_for(name, timeout)

    def save(self, name: str, value: Any) -> None:
        """Keep a value that the next attempt reads by `saved`: how far this one has come.

        It is written with the next heartbeat and with the end of the attempt, so a process that is killed
        loses the last seconds.
        """
        self._steps("save").save(name, value)

    def saved(self, name: str, default: Any = None) -> Any:
        """A value that was kept by `save`, in this attempt or in an earlier one."""
        return self._steps("saved").saved(name, default)

    def enqueue(
        self,
        queue: str | Record,
        payload: Mapping[str, Any] | None = None,
        *,
        batch: bool = False,
        **options: Unpack[JobOptions],
    ) -> None:
        """Enqueue a job if and when this attempt succeeds, once.

        It takes what `Backend.enqueue` takes. With ``batch`` the job is added to the batch that this one is
        a member of.
        """
        self._steps("enqueue").enqueue(queue, payload, options, batch=batch)

    @property
    @entrance
    def batch(self) -> Members | None:
        """The members of the batch whose callback this is, counted; None for any other job.

        A running callback has it, and a job of `Backend.get`.
        """
        if self.slot is not None and self.slot.job is self:
            batch: Members | None = self.slot.members(self)
            return batch
        found: Members | None = self.__dict__.get("members")
        return found

    @property
    @entrance
    def attempt(self) -> int:
        """The number of this attempt, from 1. It begins again when a step is recorded."""
        if self.steps and self.slot is not None:
            self.slot.look_back(self)
        return self.retries - self.retries_before + 1

    def _steps(self, method: str) -> Steps:
        slot: Any = self._running_slot(method)
        steps: Steps = slot.steps_of(self, method)
        return steps

    def _running_slot(self, method: str) -> RunningAttempt:
        slot: RunningAttempt | None = self.slot
        if slot is None or slot.job is not self:
            raise NeoqError(
                f"job.{method}() works only while its handler runs; this is a snapshot of job {self.id}",
                queue=self.queue,
                job_id=self.id,
            )
        return slot
