"""What a backend offers for held jobs: batches, signals and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from neoq.audit import recorded
from neoq.checks import check_queue, checked_id, checked_text
from neoq.engine.engine import Engine
from neoq.engine.open_batch import OpenBatch, WaitFor
from neoq.errors import InvalidJobError
from neoq.held.limit_options import NO_LIMITS, LimitOptions, limits_of, refuse_unknown_limits, words_for
from neoq.held.limits import Limits, Line
from neoq.held.step import SIGNAL, Step
from neoq.job import Job
from neoq.payload import encode_payload, refuse_size
from neoq.store import Store
from neoq.threads.boundary import entrances

_NOT_GIVEN: Any = object()


@entrances()
class HeldOperations:
    """How jobs that wait for others, or for a signal, are steered from outside; see `Backend`."""

    engine: Engine
    store: Store

    def batch(
        self,
        then: Job,
        *,
        name: str | None = None,
        wait_for: WaitFor = "ended",
        stop_on_dead: bool = False,
        transaction: Any = None,
    ) -> OpenBatch:
        """A block whose jobs are the members of a batch; ``then`` runs when all of them have ended.

        The block's ``enqueue``, ``enqueue_many`` and ``batch`` add members, which may run at once. ``then``
        waits until the block has ended, and all members are SUCCEEDED, DEAD, CANCELLED or deleted.
        With ``wait_for="succeeded"`` it waits for a dead member, too, until that is retried well, deleted or
        cancelled. With ``stop_on_dead`` the first dead member cancels the others.

        A block that is left by an exception cancels the batch. One whose process dies leaves it open; with a
        ``name``, the same block opens it again, and takes it over from any other: members whose fingerprints
        it has already are not added twice. The block joins a ``transaction`` of yours whole (backends that
        share one); one that is left by an exception there is to be rolled back.

        The callback has the counts as ``job.batch``, and the members by ``job.batch.results()``.
        """
        return OpenBatch(
            self.engine,
            then,
            name=name,
            wait_for=wait_for,
            stop_on_dead=stop_on_dead,
            transaction=transaction,
        )

    def signal(
        self,
        to: int | Job | tuple[str, str],
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        transaction: Any = None,
    ) -> bool:
        """Send a signal, with a dict of JSON, to a job that waits for it, or will; whether it was taken.

        ``to`` is a job, its id, or its queue and its fingerprint. The first signal of a name wins: a second
        one is not taken, nor is one to a job that has ended or is dead, or to none. ``transaction`` is a
        connection of yours whose commit the signal waits for (backends that share one).
        """
        step = Step(SIGNAL + checked_text("the name of a signal", name), encode_payload(payload, "signal"))
        if len(step.data) > self.engine.config.max_payload:
            refuse_size(step.data, self.engine.config.max_payload, "signal")
        address = _address(to)
        self.engine.ensure_open_or_in_handler()
        return self.store.signal(address, step, transaction=transaction)

    def steps(self, job: int | Job) -> list[Step]:
        """What a job has recorded, in that order, and the signals to it; see `Job.step`.

        Their names say what each is: "step:charge", "gather:pick", "sleep:cool off", "wait:approval",
        "signal:approval", "save:row". They are kept until the job has succeeded or was cancelled.
        """
        self.engine.ensure_readable()
        return self.store.steps(job.id if isinstance(job, Job) else checked_id(job))

    def limit(
        self, queue: str, limits: Limits | None = _NOT_GIVEN, **options: Unpack[LimitOptions]
    ) -> Limits | None:
        """Change the limits of a queue in all processes, now; return those that hold.

        The keywords are those of `listen`; limits that are not named stay. They override what listeners give,
        also those that start later, until ``limit(queue, None)`` takes them back. Lower ones let running jobs
        end.
        """
        check_queue(queue)
        self.engine.ensure_open_or_in_handler()
        if limits is not _NOT_GIVEN and (limits is not None or options):
            raise InvalidJobError(
                "limit() takes None alone, or limits by their names: limit(queue, per_key=5)"
            )
        if limits is _NOT_GIVEN and not options:
            raise InvalidJobError("limit() needs limits by their names, or None: limit(queue, per_key=5)")
        holding = self.engine.holding
        new = None
        if options:
            refuse_unknown_limits(options)
            now = self.store.limits().get(queue, NO_LIMITS)
            new = limits_of(options, queue, now) or NO_LIMITS
            holding.refuse_limits(new, queue)
        with recorded(self.store, "limit", queue=queue, what=words_for(new)) as deed:
            self.store.limit(queue, new, by_listener=False)
            deed.count = 1
        holding.refresh_limits()
        return self.store.limits().get(queue)

    def limits(self) -> Mapping[str, Limits]:
        """The limits that hold now, of each queue that has any."""
        self.engine.ensure_readable()
        return self.store.limits()

    def lines(self, queue: str, *, limit: int = 1000) -> list[Line]:
        """The lines of a queue in which jobs wait, one for each key: those that stand still first.

        A line stands still behind a job that waits for its next attempt, or in an ordered queue behind a dead
        one: `retry` or `delete` that.
        """
        check_queue(queue)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidJobError(f"limit is {limit!r}; it takes an int >= 1")
        self.engine.ensure_readable()
        return self.store.lines(queue, limit=limit)


def _address(to: Any) -> int | tuple[str, str]:
    if isinstance(to, Job):
        return to.id
    if not isinstance(to, tuple):
        return checked_id(to)
    if len(to) != 2:
        raise InvalidJobError(f"a signal to {to!r:.80}; it takes a job, its id, or (queue, fingerprint)")
    check_queue(to[0])
    return to[0], checked_text("a fingerprint", to[1])
