"""Coroutine functions as handlers: each runner's thread has an event loop of its own, which runs them.

An interrupt cannot be raised inside an event loop, which would be left halfway. It cancels the handler's task
instead, so the handler sees it as asyncio.CancelledError at an await.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, cast

from neoq.errors import Suspended

if TYPE_CHECKING:
    import asyncio

    from neoq.errors import JobInterrupted
    from neoq.job import Job

_here = threading.local()


class Cancellable(Protocol):
    """The slot of a running job."""

    asked: type[JobInterrupted] | None

    def cancelling(self, cancel: Callable[[], None]) -> AbstractContextManager[None]:
        """Let interrupts call a function inside a block, rather than be raised."""

    def lent(self) -> AbstractContextManager[None]:
        """Let the thread that enters a block run the handler there."""


def is_coroutine_function(handler: Any) -> bool:
    """Whether a call of a handler makes a coroutine."""
    import inspect

    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def as_function(handler: Callable[[Job], Any]) -> Callable[[Job], Any]:
    """A handler that can be called: a coroutine function's coroutine is run to its end."""
    if not is_coroutine_function(handler):
        return handler

    def run(job: Job) -> Any:
        return run_coroutine(handler, job, cast("Cancellable | None", job.slot))

    return run


def close_loop() -> None:
    """Close the event loop of this thread, if there is one."""
    runner = _here.__dict__.pop("runner", None)
    if runner is not None:
        runner.close()


def run_coroutine(
    handler: Callable[[Any], Coroutine[Any, Any, Any]], argument: Any, slot: Cancellable | None
) -> Any:
    """Run a coroutine function to its end in this thread's event loop; interrupts of the slot cancel it."""
    import asyncio

    context = contextvars.copy_context()
    if _is_in_loop():  # of a test that is a coroutine itself, and runs jobs inline
        return _in_thread_of_its_own(handler, argument, context, slot)
    if (runner := getattr(_here, "runner", None)) is None:
        runner = _here.runner = asyncio.Runner()
    run = _Run(handler, argument, runner.get_loop())
    if slot is None:
        return runner.run(run.main(), context=context)
    try:
        with slot.cancelling(run.cancel):
            return runner.run(run.main(), context=context)
    except asyncio.CancelledError:
        if slot.asked is not None:
            raise slot.asked from None
        raise
    except BaseExceptionGroup as group:  # of a task group that the job was suspended in
        suspended = _suspension(group)
        if suspended is not None:
            raise suspended from None
        raise


def _suspension(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The `Suspended` of a group that has nothing else."""
    found, rest = group.split(Suspended)
    if rest is not None:
        return None
    one: BaseException | None = found
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


def _is_in_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread_of_its_own(
    handler: Callable[[Any], Coroutine[Any, Any, Any]],
    argument: Any,
    context: contextvars.Context,
    slot: Cancellable | None,
) -> Any:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    def run() -> Any:
        if slot is None:
            return asyncio.run(handler(argument))
        with slot.lent():  # what the handler asks of its job belongs to its thread
            return asyncio.run(handler(argument))

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(context.run, run).result()


class _Run:
    """One run of a coroutine."""

    def __init__(
        self,
        handler: Callable[[Any], Coroutine[Any, Any, Any]],
        argument: Any,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._handler = handler
        self._argument = argument
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel it, from another thread."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def main(self) -> Any:
        """Run the handler, and end what it has left behind in the loop."""
        import asyncio

        self._task = asyncio.current_task()
        if self._cancelled:
            raise asyncio.CancelledError
        try:
            return await self._handler(self._argument)
        finally:
            self._task, mine = None, self._task
            left = [task for task in asyncio.all_tasks() if task is not mine]
            for task in left:
                task.cancel()
            if left:
                await asyncio.gather(*left, return_exceptions=True)
