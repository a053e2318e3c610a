"""A process of `neoq worker`: imports the application, runs its jobs, and answers to the supervisor.

Its main thread imports, starts and shuts down. Another thread listens to the supervisor and tells it, once a
second, how things stand. The supervisor's death is the end of the file that this thread reads: then the
process drains, as if it had been asked to stop.
"""

from __future__ import annotations

import faulthandler
import math
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from neoq.cli import logs, streams, target
from neoq.cli.counting import Counting
from neoq.cli.exits import CommandError, Exit
from neoq.cli.options import WorkerOptions
from neoq.cli.output import many
from neoq.cli.parser import did_you_mean
from neoq.cli.titles import entitle
from neoq.cli.wire import Message, Wire
from neoq.errors import BackendError, BackendUnavailable, NeoqError
from neoq.system import at_fork, memory_used
from neoq.threads.lifecycle import Wakeup

if TYPE_CHECKING:
    import logging

    from neoq.backend import Backend
    from neoq.engine.report import Ending, ShutdownReport

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1)
BEAT = 1.0  # seconds between looks at how things stand
SAY_ANYWAY = 5.0  # seconds after which they are told though nothing has changed
SHORT = 0.005  # seconds between looks whether the first claim was made
FIRST_CLAIM = 5.0  # seconds for it
AGAIN = 0.5  # seconds between attempts to reach the store
ASK_AGAIN = 60.0  # seconds after which we ask again to be replaced: the successor may have failed
JITTER = 0.1
STANDARD_LIBRARY = str(Path(os.__file__).parent)


class Worker:
    """The process: its backend, and what it was asked."""

    def __init__(self, wire: Wire, number: int, options: WorkerOptions, *, first: bool) -> None:
        self._wire = wire
        self._number = number
        self._options = options
        self._log = logs.logger()
        self._first = first  # of its place: what is wrong with it ends the command
        self._wakeup = Wakeup()
        self.early: list[Message] = []  # that came with the settings
        self.queues: list[str] = []
        self._claiming = False
        self._stop = False
        self._hurry = False
        self._orphan = False
        self._quiet = False
        self._backend: Backend | None = None
        self._counting: Counting | None = None  # where the supervisor exposes metrics
        self._ending: Ending | None = None
        self._ask_at = -math.inf  # monotonic: not before, to be replaced
        self._told: dict[str, Any] = {}
        self._told_at = -math.inf
        self._files: set[str] = set()
        jitter = 1 - random.uniform(0, JITTER)  # or all processes would reach their limit together
        self._max_jobs = None if options.max_jobs is None else max(1, round(options.max_jobs * jitter))
        self._max_memory = None if options.max_memory is None else options.max_memory * jitter

    # -- the main thread ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Run jobs until asked to stop; return the exit code."""
        options = self._options
        who = f"{options.name}-{self._number}"
        handler = logs.begin(who, options.log_format, options.log_level)
        threading.Thread(target=self._listen, name="neoq-supervised", daemon=True).start()
        try:
            with target.only_looking():  # whatever its autostart: a job may start when all is prepared
                backend = self._load(handler)
                self._prepare(backend)
                self._reach(backend)
                self._check_memory()
        except CommandError as error:
            return self._refuse(error.code, str(error))
        except NeoqError as error:
            return self._refuse(Exit.FAILED, str(error))
        return self._work(backend)

    def _load(self, handler: logging.Handler) -> Backend:
        try:
            backend = target.load(self._options.app)
        finally:
            self._say_files()
        logs.settle(handler, self._options.log_format, self._options.log_level)
        return backend

    def _refuse(self, code: int, text: str) -> int:
        self._wire.send("refused", code=int(code), text=text)
        return code

    def _prepare(self, backend: Backend) -> None:
        """Take the queues and the threads that the command line names."""
        options, listeners = self._options, backend.engine.listeners
        for flag, named in (
            ("--queues", options.queues),
            ("--exclude", options.exclude),
            ("--concurrency", options.concurrency),
        ):
            for queue in named:
                if queue and queue not in listeners:
                    near = (
                        did_you_mean(queue, listeners) or f"; it has {', '.join(sorted(listeners)) or 'none'}"
                    )
                    raise CommandError(
                        f"{flag}: {options.app} does not listen on a queue {queue!r}{near}", Exit.USAGE
                    )
        self.queues = [
            queue
            for queue in listeners
            if queue not in options.exclude and (not options.queues or queue in options.queues)
        ]
        if not self.queues:
            raise CommandError(f"{options.app} listens on no queue, so there is nothing to run", Exit.USAGE)
        for queue in self.queues:
            given = options.concurrency.get(queue, options.concurrency.get(""))
            if given is not None:
                listeners[queue].concurrency = given
        backend.engine.choose(self.queues)

    def _reach(self, backend: Backend) -> None:
        """Open the store; wait for it as long as we may."""
        give_up = time.monotonic() + (self._options.wait if self._first else math.inf)
        said = ""
        while True:
            try:
                backend.engine.ensure_readable()
                return
            except BackendUnavailable as error:
                if time.monotonic() >= give_up:
                    raise CommandError(f"the store cannot be reached: {error}", Exit.UNREACHABLE) from error
                if said != str(error):
                    said = str(error)
                    self._log.warning("the store cannot be reached yet: %s", error)
            except BackendError as error:  # to wait helps nothing: it is no store of ours
                raise CommandError(str(error), Exit.UNREACHABLE) from error
            self._wakeup.wait(AGAIN)

    def _check_memory(self) -> None:
        size = _memory()
        if self._max_memory is None or size < self._max_memory:
            return
        problem = (
            f"--max-memory {self._options.max_memory}: a fresh process of {self._options.app} has "
            f"{size:.0f} MB already"
        )
        if self._first:
            raise CommandError(f"{problem}; give it at least {round(1.5 * size)}", Exit.USAGE)
        self._log.error("this process runs without a limit of its memory: %s", problem)
        self._max_memory = None

    def _work(self, backend: Backend) -> int:
        if self._options.port is not None:
            self._counting = Counting(self._wire, backend.engine)
        self._backend = backend
        self._claiming = True  # from here on a signal only asks us to stop
        backend.engine.is_worker = True
        backend.start()
        if self._quiet:
            backend.engine.stop_claiming()
        self._await_claim(backend)
        self._wire.send(
            "claiming",
            shutdown_timeout=self._shutdown_timeout(backend),
            files=self._new_files(),
            store=type(backend).__name__,
        )
        while not self._stop:
            if not self._options.drain:
                self._wakeup.wait(None if self._max_jobs is None else BEAT / 5)
            elif self._is_drained(backend):
                break
            self._look_at_jobs(backend)
        return self._end(backend)

    def _is_drained(self, backend: Backend) -> bool:
        try:
            return backend.drain(BEAT)
        except BackendError as error:
            self._log.warning("the store cannot be asked whether it is empty: %s", error)
            self._wakeup.wait(BEAT)
            return False

    def _await_claim(self, backend: Backend) -> None:
        fetcher = backend.engine.fetcher
        give_up = time.monotonic() + FIRST_CLAIM
        while fetcher is not None and not fetcher.claims and not self._stop and time.monotonic() < give_up:
            self._wakeup.wait(SHORT)

    def _shutdown_timeout(self, backend: Backend) -> float:
        given = self._options.shutdown_timeout
        return backend.config.shutdown_timeout if given is None else given

    def _look_at_jobs(self, backend: Backend) -> None:
        if self._max_jobs is not None and (done := _attempts(backend)) >= self._max_jobs:
            self._ask_for_recycling(f"it has run {many(done)} (--max-jobs)")

    def _ask_for_recycling(self, why: str) -> None:
        now = time.monotonic()
        if now >= self._ask_at:
            self._ask_at = now + ASK_AGAIN
            self._wire.send("recycle", why=why)

    def _end(self, backend: Backend) -> int:
        ending = backend.engine.begin_shutdown(self._shutdown_timeout(backend), drain=False)
        self._ending = ending
        if self._hurry:
            ending.hurry()
        report: ShutdownReport = ending.run()
        if self._counting is not None:
            self._counting.tell(at_once=True)
        self._wire.send(
            "ended",
            finished=len(report.finished),
            interrupted=len(report.interrupted),
            given_back=len(report.given_back),
            lost=len(report.lost),
            drained=not self._stop,
        )
        return Exit.INTERRUPTED if report.interrupted or report.lost else Exit.OK

    def ask(self, *_: object) -> None:
        """SIGTERM: stop. Before the first claim there is nothing to end, and an import may last long.

        An exception would not do: an import may swallow it.
        """
        self._stop = True
        self._wakeup.set()
        if not self._claiming:
            try:
                sys.stdout.flush()
            except Exception:  # noqa: S110  # it was being written to
                pass
            os._exit(Exit.OK)

    # -- the thread that listens to the supervisor ---------------------------------------------------------

    def _listen(self) -> None:
        messages: list[Message] | None = self.early
        while not self._orphan:
            if messages is None:
                self._orphan = True
                messages = [{"is": "stop"}]
            try:
                for message in messages:
                    self._obey(message["is"])
                if self._backend is not None and not self._orphan:
                    self._beat(self._backend)
            except Exception:
                self._log.exception("this process goes on listening to its supervisor after an error")
            messages = self._next_messages()

    def _next_messages(self) -> list[Message] | None:
        try:
            ready = select.select([self._wire], [], [], BEAT)[0]
        except (OSError, ValueError):  # somebody has closed a descriptor that was not theirs
            return None
        return self._wire.receive() if ready else []

    def _obey(self, what: str) -> None:
        if what == "stop":
            if self._orphan:
                self._log.warning("the supervisor is gone: this process drains and ends")
            # By a signal: what blocks in the main thread goes on, and an import breaks off.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        elif what == "hurry":
            self._hurry = True
            if self._ending is not None:
                self._ending.hurry()
        elif what == "quiet":
            self._quiet = True
            if self._backend is not None:
                self._backend.engine.stop_claiming()
        elif what == "stacks":
            logs.write_whole(self._stacks())
        elif what == "beat":
            self._told_at = -math.inf
        elif what == "look" and self._counting is not None:
            self._counting.look()

    def _beat(self, backend: Backend) -> None:
        """Tell how things stand, where that is new or was not told for a while."""
        if self._quiet:
            backend.engine.stop_claiming()  # again: a claim may have been under way
        if self._counting is not None:
            self._counting.tell()
        size, pools = _memory(), backend.engine.pools
        running = {
            queue: [
                sum(runner.slot.job is not None for runner in list(pool.runners)),
                pool.listener.concurrency,
            ]
            for queue, pool in list(pools.items())
            if queue in self.queues
        }
        state = {"running": running, "done": _attempts(backend), "quiet": self._quiet}
        state["reached"] = _reaches_store(backend)
        now = time.monotonic()
        if state != self._told or now - self._told_at >= SAY_ANYWAY:
            self._told, self._told_at = state, now
            self._wire.send("beat", memory=round(size, 1), files=self._new_files(), **state)
            entitle(f"{self._options.name} {self._number} {_short(running)}")
        if self._max_memory is not None and size > self._max_memory:
            self._ask_for_recycling(f"it has {size:.0f} MB (--max-memory {self._options.max_memory})")

    def _say_files(self) -> None:
        if self._options.reload:
            self._wire.send("files", files=self._new_files())

    def _new_files(self) -> list[str]:
        """The sources of the application that were imported since the last look."""
        if not self._options.reload:
            return []
        found = {path for module in list(sys.modules.values()) if (path := _source_of(module))} - self._files
        self._files |= found
        return sorted(found)

    def _stacks(self) -> str:
        """The stack of every thread, with the job that it runs."""
        backend, names = self._backend, {thread.ident: thread.name for thread in threading.enumerate()}
        runners = [] if backend is None else backend.engine.all_runners()
        jobs = {runner.thread.ident: runner.slot.job for runner in runners}
        lines = [f"stacks of process {os.getpid()} ({self._options.name}-{self._number}):"]
        for ident, frame in sys._current_frames().items():
            job = jobs.get(ident)
            runs = f" runs job {job.id} of {job.queue}, attempt {job.attempt}" if job is not None else ""
            lines.append(f"thread {names.get(ident, ident)}{runs}")
            lines += "".join(traceback.format_stack(frame)).rstrip().splitlines()
        return "\n".join(lines)


def _attempts(backend: Backend) -> int:
    return sum(pool.attempts() for pool in list(backend.engine.pools.values()))


def _reaches_store(backend: Backend) -> bool:
    """Whether the store has answered lately; it is not asked here."""
    heartbeat = backend.engine.heartbeat
    return heartbeat is None or heartbeat.silence <= 2 * backend.config.heartbeat + 1


def _memory() -> float:
    """The memory of this process in MB, as far as the system says."""
    return (memory_used() or 0) / 2**20


def _source_of(module: Any) -> str | None:
    """The source of a module of the application: one that is not installed, and not Python's."""
    path = getattr(module, "__file__", None)
    if not isinstance(path, str) or not path.endswith(".py"):
        return None
    if "site-packages" in path or "dist-packages" in path or path.startswith(STANDARD_LIBRARY):
        return None
    return path


def _short(running: dict[str, list[int]]) -> str:
    return "[" + ", ".join(f"{queue} {busy}/{most}" for queue, (busy, most) in running.items()) + "]"


def _left_to_the_supervisor(*_: object) -> None:
    """A signal to the whole group: the supervisor hears it, and tells us."""


_forking = threading.local()


def _before_fork() -> None:
    """Hold signals back: in the child one would be lost between the fork and `_after_fork_in_child`."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    """A process that a handler forks is to be stopped by signals as any other."""
    for number in HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _after_fork()


def main() -> NoReturn:
    """Be a child: the arguments are the descriptor of the connection, a number, and the application."""
    faulthandler.enable()
    streams.outlive_readers()
    descriptor, number = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    wire = Wire(socket.socket(fileno=descriptor))
    first: list[Message] = []
    while not first:
        came = wire.receive()
        if came is None:
            sys.exit(Exit.FAILED)
        first = came
    settings, *early = first
    worker = Worker(wire, number, WorkerOptions(**settings["options"]), first=settings["first"])
    worker.early = early
    for one in HANDLED:  # not SIG_IGN, which programs that a handler runs would inherit
        signal.signal(one, _left_to_the_supervisor)
    signal.signal(signal.SIGTERM, worker.ask)
    at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    sys.argv[:] = ["neoq"]
    code = worker.run()
    sys.exit(code)


if __name__ == "__main__":
    main()
