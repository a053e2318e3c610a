"""Jobs that run in the thread of the test, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from neoq.backend import Backend
from neoq.engine.attempt import attempt
from neoq.engine.interrupt import running_in
from neoq.errors import Signal, Suspended
from neoq.job import Job, call_of, plain
from neoq.outcome import Successes
from neoq.store import Demand
from neoq.testing.transactions import Transactions
from neoq.threads.boundary import entrance

if TYPE_CHECKING:
    from neoq.engine.listener import Listener


_transactions: WeakKeyDictionary[Backend, Transactions] = WeakKeyDictionary()


class ManualRunner:
    """Runs a backend's ready jobs on request, while the backend's own threads are suspended."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @entrance
    @contextmanager
    def threads_suspended(self) -> Iterator[None]:
        """Suspend the backend's threads inside the block."""
        engine = self.backend.engine
        engine.ensure_readable()
        engine.suspend(self.run_ready)
        engine.holding.hand_limits(engine.listeners.values())
        try:
            yield
        finally:
            engine.resume()

    def run_ready(self, on_error: Callable[[BaseException], None] | None = None) -> int:
        """Run jobs until none is ready, those that they enqueue included; return how many."""
        count = 0
        while jobs := self._claim():
            for job in jobs:
                self._run(job, on_error)
                count += 1
        return count

    def _claim(self) -> Sequence[Job]:
        listeners = list(self.backend.engine.listeners.values())
        demand = [Demand(listener.queue, 1, listener.kinds) for listener in listeners]
        return self.backend.store.claim(demand).jobs if demand else []

    def _run(self, job: Job, on_error: Callable[[BaseException], None] | None) -> None:
        backend = self.backend
        listener = backend.engine.listeners[job.queue].of(job)
        if on_error is not None:
            listener = _watched(listener, on_error)
        with running_in(backend.engine.new_slot()) as slot:
            outcome = listener.surroundings.fresh().run(attempt, job, listener, slot)
        if outcome is not None:
            outcomes = Successes([job]) if outcome is job else [outcome]
            backend.engine.meter.note(outcomes, backend.store.settle(outcomes))  # type: ignore[arg-type]


def _watched(listener: Listener, on_error: Callable[[BaseException], None]) -> Listener:
    """The same listener, which tells of what its handler raises, signals aside."""
    call = listener.call

    def told(job: Job) -> Any:
        try:
            return call(job)
        except (Signal, Suspended):
            raise
        except BaseException as error:
            on_error(error)
            raise

    watched = copy(listener)  # not the listener itself: other threads may run its jobs at the same time
    watched.call = told
    return watched


@contextmanager
def inline(backend: Backend) -> Iterator[None]:
    """Run each job at once, in the thread that enqueues it, and raise what its handler raises.

    The job is settled first, as ever: one that failed waits for its retry or is dead. Signals (Retry,
    Snooze, Discard) are obeyed and not raised. ``enqueue`` returns the job as it is after its run. Future
    jobs wait; there are no timeouts. Members of a batch run as they are added, and its callback as its
    block ends; a job that waits for a signal goes on as that is sent. Only the jobs of this process's
    listeners run. With ``transaction=`` a job runs at the commit, on any backend, and is gone with a
    rollback.
    """
    runner = ManualRunner(backend)

    def run() -> None:
        errors: list[BaseException] = []
        runner.run_ready(errors.append)
        if errors:
            raise errors[0]

    def after(added: list[Job]) -> list[Job]:
        run()
        return [_as_it_is(backend, job) for job in added]

    with runner.threads_suspended(), after_add(backend, after, run=run), _after_wakes(backend, run):
        yield


@contextmanager
def _after_wakes(backend: Backend, run: Callable[[], None]) -> Iterator[None]:
    """Call a function after what may release a held job: the end of a batch's block, and a signal."""
    own: dict[str, Any] = backend.store.__dict__

    def then_run(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            found = method(*arguments, **keywords)
            run()
            return found

        return call

    before = {name: own.get(name) for name in ("seal", "signal")}
    own.update({name: then_run(getattr(backend.store, name)) for name in before})
    try:
        yield
    finally:
        for name, method in before.items():
            if method is None:
                del own[name]
            else:
                own[name] = method


def _as_it_is(backend: Backend, job: Job) -> Job:
    """A job that was enqueued, after whatever ran since; a duplicate may have run, too."""
    found = backend.get(job.id) or job
    found.duplicate = job.duplicate
    return found


@contextmanager
def after_add(
    backend: Backend,
    after: Callable[[list[Job]], list[Job]],
    *,
    run: Callable[[], None] | None = None,
    joined: Callable[[list[Job]], list[Job]] = list,
) -> Iterator[Transactions]:
    """Pass what each enqueue inside the block has added through a function; blocks may be nested.

    What waits for a transaction goes through ``joined`` instead; ``run`` is called after a commit.
    """
    add = backend.store.add
    transactions = _transactions.get(backend)
    outermost = transactions is None
    if transactions is None:
        transactions = _transactions[backend] = Transactions(backend)
    if run is not None:
        transactions.run = run
    adds_joined = partial(transactions.add, add) if outermost else add

    def passed(jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        if transaction is None:
            return after(add(jobs, token=token))
        return joined(adds_joined(jobs, token=token, transaction=transaction))

    def passed_plain(queue: str, data: bytes, now: float) -> Job:
        return passed((plain(queue, data, now),), token=b"")[0]

    def passed_call(queue: str, data: bytes, now: float, kind: str) -> Job:
        return passed((call_of(queue, data, now, kind),), token=b"")[0]

    own: dict[str, Any] = backend.store.__dict__  # what is set here comes before the methods of the class
    instead = {"add": passed, "add_plain": passed_plain, "add_call": passed_call}
    before: dict[str, Any] = {name: own.pop(name) for name in instead if name in own}
    own.update(instead)
    try:
        yield transactions
    finally:
        try:
            if outermost:
                transactions.close()
        finally:
            for name in instead:
                del own[name]
            own.update(before)
            if outermost:
                del _transactions[backend]
