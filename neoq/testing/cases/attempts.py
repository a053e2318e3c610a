"""What one attempt may do to another, and to its thread: nothing."""

from __future__ import annotations

import decimal
import functools
import logging
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest

import neoq
from neoq.backend import Backend
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.suite import Make, Seen, Suite, ended, id_of, reached

_tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def _send(_job: Job) -> None:
    """Do what nobody waits for."""


def _steps(_job: Job) -> Any:
    yield 1


async def _later(_job: Job) -> Any:
    yield 1


class _Service:
    async def __call__(self, job: Job) -> None:
        """Do what nobody waits for."""

    async def send(self, job: Job) -> None:
        """Do what nobody waits for."""


class _Promise:
    def __await__(self) -> Any:
        yield


def _plain(function: Callable[[Job], Any]) -> Callable[[Job], Any]:
    """Hide what kind of a function it is, as many decorators do."""
    return lambda job: function(job)  # noqa: PLW0108


def _unset(future: Callable[[], Any]) -> Callable[[Job], Any]:
    return lambda _job: future()


UNDONE: dict[str, Callable[[Job], Any]] = {
    "coroutine": _plain(_send),
    "partial": _plain(functools.partial(_send)),
    "callable": _plain(_Service()),
    "method": _plain(_Service().send),
    "generator": _plain(_steps),
    "async generator": _plain(_later),
    "map": lambda job: map(str, job.payload),
    "awaitable": _unset(_Promise),
    "future": _unset(Future),
}


class UndoneCases(Suite):
    """A handler that returns its work instead of doing it has failed."""

    @pytest.mark.parametrize("kind", UNDONE)
    def test_what_is_returned_undone_has_failed(self, backend: Backend, kind: str) -> None:
        """A coroutine, a generator, a future or the like as a result fails the attempt, and says why."""
        backend.listen("q", UNDONE[kind], max_retries=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dead = ended(backend, backend.enqueue("q"))
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert "the handler of queue 'q' returned a" in dead.error

    def test_middleware_drops_what_is_undone(self, waiting: Backend) -> None:
        """A coroutine that middleware does not pass on has not run either: the attempt fails."""

        def drops(_job: Job, call_next: Callable[..., Any]) -> None:
            call_next()

        waiting.use(drops)
        waiting.listen("q", UNDONE["coroutine"], max_retries=0)
        waiting.start()
        assert ended(waiting, waiting.enqueue("q")).status is Status.DEAD

    def test_middleware_returns_what_is_undone(self, waiting: Backend) -> None:
        """Middleware that returns a coroutine of its own fails the attempt."""
        waiting.use(lambda job, _call_next: _send(job))
        waiting.listen("q", lambda _job: None, max_retries=0)
        waiting.start()
        assert ended(waiting, waiting.enqueue("q")).status is Status.DEAD

    def test_middleware_may_run_what_is_undone(self, waiting: Backend, seen: Seen) -> None:
        """Middleware may run the coroutine that a handler returns."""

        async def send(_job: Job) -> int:
            seen()
            return 7

        def runs(job: Job, call_next: Callable[..., Any]) -> Any:
            try:
                call_next(job).send(None)
            except StopIteration as end:
                return end.value

        waiting.use(runs)
        waiting.listen("q", _plain(send), max_retries=0)
        waiting.start()
        done = ended(waiting, waiting.enqueue("q"))
        assert (done.status, done.result, len(seen.items)) == (Status.SUCCEEDED, 7, 1)


def _leaves_traces(job: Job) -> list[str]:
    found = [_tenant.get(), str(decimal.getcontext().prec)]
    _tenant.set(f"tenant {job.id}")
    decimal.getcontext().prec = 3
    return found


class SurroundingsCases(Suite):
    """Each attempt begins with the context variables of where its queue was listened to."""

    @pytest.mark.parametrize("before", [None, 40])
    def test_context_variables_end_with_their_attempt(self, backend: Backend, before: int | None) -> None:
        """What a job sets in a context variable, or in decimal's context, no other job finds."""
        if before is not None:  # otherwise this thread may have none yet
            decimal.getcontext().prec = before
        precision = str(decimal.getcontext().prec)
        token = _tenant.set("the process")
        try:
            backend.listen("q", _leaves_traces, concurrency=1)
            for n in range(3):
                done = ended(backend, backend.enqueue("q", {"n": n}))
                assert done.result == ["the process", precision]
            assert str(decimal.getcontext().prec) == precision
        finally:
            _tenant.reset(token)
            decimal.setcontext(decimal.Context())

    def test_middleware_and_on_error_share_their_attempts(self, waiting: Backend, seen: Seen) -> None:
        """Middleware and on_error see what their own attempt has set, and nothing of another."""

        def middleware(job: Job, call_next: Callable[..., Any]) -> Any:
            seen(("middleware", _tenant.get()))
            _tenant.set(f"tenant {job.payload['n']}")
            return call_next()

        def handler(_job: Job) -> None:
            seen(("handler", _tenant.get()))
            raise RuntimeError("told")

        def on_error(job: Job, _error: BaseException) -> None:
            seen(("on_error", _tenant.get()))
            assert neoq.current_job() is job

        waiting.use(middleware)
        waiting.listen("q", handler, concurrency=1, max_retries=0, on_error=on_error)
        waiting.start()
        for n in range(2):
            ended(waiting, waiting.enqueue("q", {"n": n}))
        assert seen.items == [
            (place, tenant)
            for n in range(2)
            for place, tenant in (
                ("middleware", "nobody"),
                ("handler", f"tenant {n}"),
                ("on_error", f"tenant {n}"),
            )
        ]


class _Blocks(logging.Handler):
    """A log that hangs at the first line about a job."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self._gate = gate

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self._gate.wait()


def _hanging(kind: str, gate: threading.Event) -> tuple[Callable[[Job], Any], dict[str, Any]]:
    """Return a handler of which something hangs after its end, and the options of its queue."""

    class Slow(Exception):
        def __str__(self) -> str:
            gate.wait()
            return "at last"

    class Posing(Exception):
        @property  # type: ignore[misc]
        def __class__(self) -> type:
            gate.wait()
            return Exception

    class Result(dict[str, int]):
        def items(self) -> Any:
            gate.wait()
            return super().items()

    def delay(_retries: int) -> float:
        gate.wait()
        return 0.0

    raised: dict[str, BaseException] = {"text": Slow(), "class": Posing(), "reason": neoq.Discard(Slow())}  # type: ignore[arg-type]

    def handler(job: Job) -> Any:
        if job.payload["n"]:
            return None
        if kind == "result":
            return Result(n=1)
        raise raised.get(kind, RuntimeError("it fails"))

    retries = 1 if kind == "delay" else 0
    return handler, {"max_retries": retries, "retry": RetryPolicy(delay=delay)}


class AftermathCases(Suite):
    """What an attempt leaves behind is looked at under the attempt's timeout."""

    @pytest.mark.parametrize("kind", ["text", "class", "reason", "result", "delay", "log"])
    def test_what_hangs_after_an_attempt_costs_no_place(
        self, make: Make, gate: threading.Event, kind: str
    ) -> None:
        """An exception, a result, a retry policy or a log that hangs holds up no other job."""
        handler, options = _hanging(kind, gate)
        logger = logging.getLogger(f"{__name__}.{kind}")
        logger.propagate = kind != "log"
        logger.handlers = [_Blocks(gate)] if kind == "log" else []
        backend = make(logger=logger)
        backend.listen("q", handler, concurrency=1, timeout=0.2, **options)
        first, second = backend.enqueue("q", {"n": 0}), backend.enqueue("q", {"n": 1})
        try:
            assert ended(backend, second).status is Status.SUCCEEDED
            wanted = {"result": Status.SUCCEEDED, "delay": Status.RETRYING}.get(kind, Status.DEAD)
            assert reached(backend, first, wanted).result is None
        finally:
            gate.set()

    def test_what_raises_after_an_attempt_leaves_no_job_running(self, backend: Backend) -> None:
        """An exception whose class cannot be asked for ends its attempt as any other does."""

        class Posing(Exception):
            @property  # type: ignore[misc]
            def __class__(self) -> type:
                raise SystemExit

        class Result(dict[str, int]):
            def items(self) -> Any:
                raise SystemExit

        def handler(job: Job) -> Any:
            if job.payload["n"]:
                return Result(n=1)
            raise Posing

        backend.listen("q", handler, max_retries=0)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(2)]
        assert [ended(backend, job).status for job in jobs] == [Status.DEAD, Status.SUCCEEDED]
        assert backend.get(id_of(jobs[1])).result is None  # type: ignore[union-attr]
