"""Every error that neoq raises, in one tree.

::

    NeoqError
    ├─ ConfigError(ValueError)        a setting is wrong; every problem found, one per line
    ├─ InvalidJobError(ValueError)    a bad argument of enqueue or listen
    │   └─ PayloadError               the payload is not JSON, or too large
    ├─ CronError(ValueError)          a cron spec is wrong: names the field and what it accepts
    ├─ ArgumentsError                 the stored arguments of a job do not fit its task: the job is DEAD
    ├─ TooManyStepsError              a job has recorded as many steps as it may: it is DEAD
    ├─ JobFailed                      (neoq.tasks) the job of a task ended dead or cancelled
    ├─ MissingKeyError                a stored value is sealed, and no key of this process opens it
    ├─ NoListenerError                memory only: nothing in this process listens on that queue
    ├─ ListenerExistsError            that queue has a handler already
    ├─ DuplicateJobError              (neoq.job) on_duplicate="raise", or retry() of a taken fingerprint
    ├─ QueueFullError                 capacity reached and enqueue_timeout ran out
    ├─ BackendClosedError             used after shutdown
    ├─ BatchClosedError               a batch takes no more members: it was ended, stopped or taken over
    ├─ ChildFailed                    (neoq.held.children) the job of a job.call() ended dead or cancelled
    └─ BackendError                   the store failed
        ├─ BackendUnavailable         it cannot be reached
        ├─ LookTimeoutError           a look at many jobs took too long, and was broken off
        ├─ StaleLeaseError            the lease was lost; another worker may have the job
        └─ UnsupportedError           this backend cannot do that

    Signal(Exception)                 raised by a handler to control its job; not an error
    ├─ Retry · Snooze · Discard

    JobInterrupted(BaseException)     raised inside a handler; ``except Exception`` does not catch it
    └─ JobTimeout · DeadlineExceeded · ShutdownRequested · JobCancelled · Suspended
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any


def _travel(error: BaseException) -> tuple[Any, ...]:
    """Pickle an exception so that another process can rebuild it without calling its ``__init__``.

    By default Python calls the class with ``args`` alone. If that fails, a process pool waits for ever.
    """
    return _made_again, (type(error), error.args, error.__dict__)


def _made_again(cls: type[BaseException], args: tuple[Any, ...], fields: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class NeoqError(Exception):
    """The root of every error of neoq.

    ``queue`` and ``job_id`` say what it is about, if that is known.
    """

    def __init__(self, message: str, *, queue: str | None = None, job_id: int | None = None) -> None:
        super().__init__(message)
        self.queue = queue
        self.job_id = job_id

    __reduce__ = _travel


class ConfigError(NeoqError, ValueError):
    """A setting is unknown or out of range; ``problems`` lists every one found."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidJobError(NeoqError, ValueError):
    """An argument of ``enqueue``, ``listen`` or ``Job`` is wrong; the message names it and the fix."""


class PayloadError(InvalidJobError):
    """The payload is not JSON or is too large; ``path`` is the place in it, such as ``user.tags[2]``."""

    def __init__(self, message: str, *, path: str = "", queue: str | None = None) -> None:
        super().__init__(message, queue=queue)
        self.path = path


class CronError(NeoqError, ValueError):
    """A cron spec is wrong; ``spec`` is the whole spec, ``field`` the name of the wrong field."""

    def __init__(self, message: str, *, spec: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.spec = spec
        self.field = field


class ArgumentsError(NeoqError):
    """The stored arguments of a job do not fit the task that is to run it. The job is DEAD at once."""


class MissingKeyError(NeoqError):
    """A stored value is sealed, and no key of this process opens it; or it is damaged."""


class TooManyStepsError(NeoqError):
    """A job has recorded as many steps as one job can have. The job is DEAD at once."""


class NoListenerError(NeoqError):
    """Nothing in this process listens on that queue, and in memory no other process can."""


class ListenerExistsError(NeoqError):
    """That queue has a handler already."""


class QueueFullError(NeoqError):
    """The queue's capacity was reached and no room came in time."""


class BackendClosedError(NeoqError):
    """The backend was used after its shutdown."""


class BatchClosedError(NeoqError):
    """A batch takes no more members: its block has ended, it was stopped, or another process took it over."""


class BackendError(NeoqError):
    """The store failed; the driver's own exception is chained."""


class BackendUnavailable(BackendError):
    """The store cannot be reached.

    ``outcome_unknown`` is True if the operation may have happened all the same.
    Repeating an enqueue is safe: its token makes it idempotent.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False, queue: str | None = None) -> None:
        super().__init__(message, queue=queue)
        self.outcome_unknown = outcome_unknown


class LookTimeoutError(BackendError):
    """A look at the jobs of a store took longer than it may, and was broken off: nothing was changed."""


class StaleLeaseError(BackendError):
    """The job's lease was lost: another worker may have the job, and this outcome is dropped."""


class UnsupportedError(BackendError):
    """This backend cannot do that; the message says which one can, or what to do instead."""


class Signal(Exception):
    """What a handler raises to control its job: control flow, not an error."""

    __reduce__ = _travel


class Retry(Signal):
    """Fail this attempt and try again after ``after`` (a timedelta, or seconds; None: the policy's delay)."""

    def __init__(self, reason: str = "", *, after: timedelta | float | None = None) -> None:
        super().__init__(reason or "the handler asked for a retry")
        self.after = after


class Snooze(Signal):
    """Run again after ``delay`` (a timedelta, or seconds) or at a datetime; no attempt is charged."""

    def __init__(self, delay: timedelta | float | datetime) -> None:
        super().__init__(f"the handler snoozed for {delay}")
        self.delay = delay


class Discard(Signal):
    """Give up the job now: it is DEAD and will not be retried."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler discarded the job")


class JobInterrupted(BaseException):
    """Raised inside a running handler; clean up and let it pass."""

    __reduce__ = _travel


class JobTimeout(JobInterrupted):
    """The attempt ran longer than its timeout: the job's own, or its queue's."""


class DeadlineExceeded(JobInterrupted):
    """The job was still running at its deadline."""


class ShutdownRequested(JobInterrupted):
    """The backend shuts down; the job is given back, and no attempt is charged."""


class JobCancelled(JobInterrupted):
    """The job was cancelled while it ran."""


class Suspended(JobInterrupted):
    """The attempt ends here, and the job waits: for its children, a signal, or its time.

    `Job.gather`, `Job.call`, `Job.sleep` and `Job.wait_for` raise it. No attempt is charged.
    """
