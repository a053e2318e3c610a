"""Faults on demand: calls of a store that fail, whose replies are lost, or that wait; broken connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from neoq.errors import BackendUnavailable, UnsupportedError
from neoq.store import DirectStore, Store

if TYPE_CHECKING:
    from neoq.backend import Backend

Real = Callable[..., Any]
Error = BaseException | type[BaseException] | Callable[[], BaseException]

_OUTAGE = (
    *("add", "add_tick", "last_tick", "list_schedules", "schedules"),
    *("claim", "extend", "settle", "reclaim", "prune", "beat", "workers"),
    *("find", "counts", "waiting_kinds", "change", "set_paused"),
)


class Fault:
    """A fault while it lasts; ``count`` is how many calls it has met. `Faults` makes it."""

    def __init__(self, times: int | None = None) -> None:
        self.count = 0
        self._times = times
        self._met = threading.Condition()

    def wait(self, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until it has met so many calls; TimeoutError where that does not happen."""
        with self._met:
            if not self._met.wait_for(lambda: self.count >= count, timeout):
                raise TimeoutError(f"the fault has met {self.count} calls in {timeout:g} s, not {count}")

    def meet(self) -> bool:
        """Count a call that has come; False where the fault has met as many as it was to."""
        with self._met:
            if self._times is not None and self.count >= self._times:
                return False
            self.count += 1
            self._met.notify_all()
            return True


class Faults:
    """Faults of the store of one backend.

    A call is named after the method of `neoq.store.Store` that does it: ``"add"``, ``"claim"``, ``"settle"``,
    ``"extend"``, ``"beat"``, ``"reclaim"``, ``"find"`` and so on. Each fault is a context manager and ends
    with its block; end those that are nested in the opposite order.
    """

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store

    def failing(
        self, *calls: str, error: Error = BackendUnavailable, times: int | None = None
    ) -> AbstractContextManager[Fault]:
        """Let calls raise and do nothing; ``error`` is an exception, a class or a function that makes one."""
        fault = Fault(times)

        def fail(_store: Store, real: Real, *arguments: Any, **options: Any) -> Any:
            if fault.meet():
                raise _made(error)
            return real(*arguments, **options)

        return self._around(calls, fault, fail)

    def outage(self) -> AbstractContextManager[Fault]:
        """Let every call fail with BackendUnavailable, as while a server is away."""
        return self.failing(*_OUTAGE)

    def lost_reply(self, *calls: str, times: int | None = None) -> AbstractContextManager[Fault]:
        """Let the store do what calls ask for, and their callers get BackendUnavailable."""
        fault = Fault(times)

        def lose(_store: Store, real: Real, *arguments: Any, **options: Any) -> Any:
            value = real(*arguments, **options)
            if fault.meet():
                raise BackendUnavailable("the reply was lost: neoq.testing.Faults", outcome_unknown=True)
            return value

        return self._around(calls, fault, lose)

    def watched(self, *calls: str) -> AbstractContextManager[Fault]:
        """Let calls do as ever, and count those that have returned: a test can wait for them."""
        fault = Fault()

        def watch(_store: Store, real: Real, *arguments: Any, **options: Any) -> Any:
            value = real(*arguments, **options)
            fault.meet()
            return value

        return self._around(calls, fault, watch)

    @contextmanager
    def paused(self, *calls: str) -> Iterator[Fault]:
        """Let calls wait until the end of the block, and go on then."""
        fault, over = Fault(), threading.Event()

        def pause(_store: Store, real: Real, *arguments: Any, **options: Any) -> Any:
            if not over.is_set() and fault.meet():
                over.wait()
            return real(*arguments, **options)

        with self._around(calls, fault, pause):
            try:
                yield fault
            finally:
                over.set()

    @contextmanager
    def paused_commits(self) -> Iterator[Callable[[int], None]]:
        """Let writes gather, to share the commit at the end of the block; only SQLite can.

        Yields a function that waits until so many calls have gathered.
        """
        with self._own("pause_commits")() as gathered:

            def wait(count: int) -> None:
                give_up = time.monotonic() + 10.0
                while (there := gathered()) < count:
                    if time.monotonic() > give_up:
                        raise TimeoutError(f"{there} calls have gathered in 10 s, not {count}")
                    time.sleep(0.001)

            yield wait

    def break_connections(self) -> None:
        """Break the connections that are open, as a server does that starts again: SQLite, Postgres, Redis.

        Redis keeps those that a call is using.
        """
        self._own("break_connections")()

    def drop_worker_lock(self) -> None:
        """Free the lock that tells others that this process lives, as its death does: SQLite and Postgres."""
        self._own("drop_worker_lock")()

    def _own(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] | None = getattr(self._store, name, None)
        if method is None:
            raise UnsupportedError(
                f"{type(self._store).__name__} has no {name}(); docs/testing.md tells which store has what"
            )
        return method

    @contextmanager
    def _around(self, calls: tuple[str, ...], fault: Fault, way: Real) -> Iterator[Fault]:
        """Let calls go through a function for as long as the block lasts.

        Its first argument is the store: such a frame counts as the store's own, see `neoq.threads.reentry`.
        """
        for name in calls:
            if name.startswith("_") or not callable(getattr(Store, name, None)):
                raise ValueError(f"a store has no call {name!r}; it is one of {', '.join(_OUTAGE)}")
        names = set(calls)
        if isinstance(self._store, DirectStore):
            names |= {"add_plain", "add_call"} if "add" in calls else set()
            names |= {"take"} if "claim" in calls else set()
        own: dict[str, Any] = self._store.__dict__  # what is set here comes before the methods of the class
        before = {name: own[name] for name in names if name in own}
        own |= {name: partial(way, self._store, getattr(self._store, name)) for name in names}
        try:
            yield fault
        finally:
            for name in names:
                del own[name]
            own |= before


def _made(error: Error) -> BaseException:
    if isinstance(error, BaseException):
        return error
    made: BaseException = (
        error("the store is away: neoq.testing.Faults") if isinstance(error, type) else error()
    )
    return made
