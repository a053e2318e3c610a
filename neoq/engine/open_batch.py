"""An open batch: the block inside which the members of a batch are added."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from neoq.checks import checked_text
from neoq.engine.engine import Engine
from neoq.errors import BatchClosedError, ConfigError, InvalidJobError, JobInterrupted, NeoqError
from neoq.held.group import BatchRules, Group
from neoq.job import Job
from neoq.record import JobOptions
from neoq.threads.boundary import entrances

WaitFor = Literal["ended", "succeeded"]


@entrances()
class OpenBatch:
    """A batch that takes members; see `Backend.batch`.

    At the end of its block the batch is sealed. If the block is left by an exception, the batch is cancelled:
    but for a named one that an interrupt has left, whose block another attempt may open again, and for one
    that takes no more members, as after a dead one, whose callback is to run.
    """

    def __init__(
        self,
        engine: Engine,
        then: Job,
        *,
        name: str | None,
        wait_for: WaitFor,
        stop_on_dead: bool,
        transaction: Any,
        outer: OpenBatch | None = None,
    ) -> None:
        if not isinstance(then, Job):
            raise InvalidJobError(
                f"then is {then!r:.80}; it takes the job to run when all members have ended"
            )
        _check(name, wait_for, stop_on_dead)
        if name is not None and then.own_fingerprint is not None:
            raise InvalidJobError(
                "the callback of a named batch has its name as its fingerprint; leave one out"
            )
        self._engine = engine
        self._then = then
        producer = 1 + int.from_bytes(os.urandom(6), "big")
        self._rules = BatchRules(producer, wait_for == "succeeded", stop_on_dead, name is not None)
        self._name = name
        self._transaction = transaction
        self._outer = outer
        self._callback: Job | None = None
        self._over = False

    @property
    def id(self) -> int:
        """The id of the callback, by which the batch is looked at, waited for and cancelled."""
        return self.callback.id

    @property
    def callback(self) -> Job:
        """A snapshot of the callback, as it was when the batch was opened."""
        if self._callback is None:
            raise NeoqError("a batch is opened by its block: with backend.batch(then=...) as batch: ...")
        return self._callback

    def __enter__(self) -> Self:
        if self._callback is not None:
            raise NeoqError("this batch was opened already; call backend.batch() again")
        self._engine.ensure_open_or_in_handler()
        then = self._then.fresh()
        then.unique, then.says_unique, then.special = self._name is not None, True, True
        if self._name is not None:
            then.own_fingerprint = self._name
        outer = self._outer
        group, producer = (None, 0) if outer is None else (Group(outer.id), outer.producer)
        ready = self._engine.holding.made_ready([then], group, producer)
        if not ready:
            raise NeoqError("an enqueue middleware has left out the callback of a batch")
        store = self._engine.store
        self._callback = store.open_batch(
            ready[0], self._rules, token=store.new_token(), transaction=self._transaction
        )
        if not self._callback.duplicate:
            self._engine.note_added([self._callback])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if error is None:
            self._seal()
        elif isinstance(error, BatchClosedError) and error.job_id == self.id:
            with suppress(BatchClosedError):  # another block has it, or it was cancelled
                self._seal()
        elif self._transaction is None and not (self._rules.named and isinstance(error, JobInterrupted)):
            self._cancel()

    def _seal(self) -> None:
        self._engine.store.seal(self.id, self._rules.producer, transaction=self._transaction)

    @property
    def producer(self) -> int:
        """The number by which the store tells this block from others of the same batch."""
        return self._rules.producer

    def enqueue(
        self,
        queue: str | Job,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Add a member; it takes what `Backend.enqueue` takes, and may run before the block ends.

        Members are not unique unless they say so. In a named batch a job whose fingerprint a member has is
        returned with ``duplicate=True``, whether that has ended or not. Raises BatchClosedError where the
        batch was stopped, or another block has opened it by its name.
        """
        return self._add(self._engine.holding.given(queue, payload, options))[0]

    def enqueue_many(self, jobs: Iterable[Job]) -> list[Job]:
        """Add several members, all or none; it takes what `Backend.enqueue_many` takes."""
        return self._add(jobs)

    def batch(
        self,
        then: Job,
        *,
        name: str | None = None,
        wait_for: WaitFor = "ended",
        stop_on_dead: bool = False,
    ) -> OpenBatch:
        """A batch whose callback is a member of this one."""
        return OpenBatch(
            self._engine,
            then,
            name=name,
            wait_for=wait_for,
            stop_on_dead=stop_on_dead,
            transaction=self._transaction,
            outer=self,
        )

    def _add(self, jobs: Iterable[Job]) -> list[Job]:
        group = Group(self.id)
        if self._over:
            raise BatchClosedError(f"the block of batch {self.id} has ended", job_id=self.id)
        self._engine.ensure_open_or_in_handler()
        ready: Sequence[Job] = self._engine.holding.made_ready(jobs, group, self._rules.producer)
        if not ready:
            return []
        store = self._engine.store
        added = store.add(ready, token=store.new_token(), transaction=self._transaction)
        self._engine.note_added(added)
        return added

    def _cancel(self) -> None:
        """Cancel the batch while another exception is on its way, which is the one to be raised."""
        try:
            changed = self._engine.store.change([self.id], "cancel")
            self._engine.note_cancelled(changed)
        except NeoqError as error:
            self._engine.config.log.warning("batch %s could not be cancelled: %s", self.id, error)


def _check(name: Any, wait_for: Any, stop_on_dead: Any) -> None:
    problems = []
    if name is not None:
        checked_text("the name of a batch", name)
    if wait_for not in {"ended", "succeeded"}:
        problems.append(f'batch: wait_for is {wait_for!r:.80}; it takes "ended" or "succeeded"')
    if not isinstance(stop_on_dead, bool):
        problems.append(f"batch: stop_on_dead is {stop_on_dead!r:.80}; it takes True or False")
    elif stop_on_dead and wait_for == "succeeded":
        problems.append(
            'batch: stop_on_dead and wait_for="succeeded" contradict each other, since the callback would '
            "wait for a dead member for ever; leave one out"
        )
    if problems:
        raise ConfigError(problems)
