"""The supervisor of `neoq worker`: it starts the children, replaces those that die, and passes signals on.

It imports nothing of the application and opens no store, so it has nothing that could hang or leak. It is one
loop in one thread: signals, the death of a child, what children say, probes and changed sources all wake it.
"""

from __future__ import annotations

import math
import os
import re
import selectors
import signal
import socket
import time
from collections import deque
from contextlib import ExitStack
from functools import partial

from neoq.cli import deaths, logs
from neoq.cli.exits import CommandError, Exit
from neoq.cli.metrics import Metrics
from neoq.cli.options import WorkerOptions
from neoq.cli.output import many
from neoq.cli.pidfile import pidfile
from neoq.cli.places import CLAIMING, Child, Place
from neoq.cli.probes import Probes
from neoq.cli.reload import Sources, syntax_error
from neoq.cli.runtime_dir import socket_of
from neoq.cli.state import HUNG, QUIET, RUNNING, STOPPING, State
from neoq.cli.systemd import Systemd
from neoq.cli.titles import entitle
from neoq.cli.wire import Message

SECOND_SIGNAL = 0.5  # seconds after the first, or it is the same
GRACE = 8.0  # seconds that a shutdown takes beyond its timeout, at most, where the store does not answer
STARTING_GRACE = 5.0  # seconds for a child that claims nothing yet
EXIT_GRACE = 5.0  # seconds for a child whose jobs have ended
LISTENED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGCHLD)


class Supervisor:
    """The children of one worker command, and what is to become of them."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._log = logs.logger()
        self._selector = selectors.DefaultSelector()
        self._places = [Place(number) for number in range(1, options.processes + 1)]
        self._state = State(options, self._places)
        self._metrics = Metrics(self._ask_for_levels)
        apart = {} if options.port is None else {"/metrics": self._metrics.serve}
        self._probes = Probes(self._selector, self._state.answer, apart)
        self._systemd = Systemd()
        self._sources = Sources(self._wake) if options.reload else None
        self._woken, self._waker = socket.socketpair()
        self._signals: deque[int] = deque()
        self._asked: list[float] = []  # monotonic: when we were asked to stop, to hurry, and to kill
        self._begun = False  # some child has claimed
        self._ready = False  # and all have, which systemd was told
        self._roll: deque[tuple[Place, str]] = deque()  # places to be filled anew, and why
        self._rolling: Place | None = None
        self._refusal: tuple[int, str] | None = None  # that ends the command
        self._interrupted = 0  # jobs, at the end
        self._killed = 0  # children, at the end
        self._terminal = os.isatty(0)
        self._memory_kills = deaths.out_of_memory_kills()
        self._watchdog_at = 0.0
        self._looks = 0  # at the store, for its levels
        self._refused = ""  # why a child was not started, as last told

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the worker until it is asked to stop; return the exit code."""
        with ExitStack() as stack:
            stack.callback(self._selector.close)
            if self._options.pidfile is not None:
                stack.enter_context(pidfile(self._options.pidfile))
            stack.callback(self._probes.close)
            self._open_probes()
            self._hear_signals()
            if self._sources is not None:
                stack.callback(self._sources.close)
            entitle(f"supervisor of {self._options.name} [{self._options.app}]")
            self._log.info(
                "worker %s: %s with --processes %d, supervised by %d",
                self._options.name,
                self._options.app,
                len(self._places),
                os.getpid(),
            )
            while not self._is_over():
                for key, _ in self._selector.select(self._tick()):
                    key.data()
                self._take_signals()
                self._reap()
        return self._code()

    def _open_probes(self) -> None:
        if self._options.port is not None:
            self._log.info(
                "probes at http://%s/livez and /readyz, metrics at /metrics",
                self._probes.listen_on(self._options.port),
            )
        path = socket_of(self._options.name)
        try:
            self._probes.listen_at(path)
        except OSError as error:
            self._log.warning(
                "neoq health --name %s will not reach this worker: %s", self._options.name, error
            )

    def _hear_signals(self) -> None:
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._drain_waker)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in LISTENED:
            signal.signal(number, lambda number, _: self._signals.append(number))

    def _wake(self) -> None:
        """Wake the loop, from another thread."""
        try:
            self._waker.send(b"\0")
        except OSError:
            pass

    def _drain_waker(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _is_over(self) -> bool:
        if self._children():
            return False
        return bool(self._asked or self._refusal or all(place.drained for place in self._places))

    def _code(self) -> int:
        if self._refusal is not None:
            code, text = self._refusal
            raise CommandError(text, Exit(code))
        if self._interrupted or self._killed:
            self._log.warning(
                "worker %s has ended: %s interrupted, %s killed",
                self._options.name,
                many(self._interrupted),
                many(self._killed, "process", "processes"),
            )
            return Exit.INTERRUPTED
        self._log.info("worker %s has ended, and no job was interrupted", self._options.name)
        return Exit.OK

    def _children(self) -> list[Child]:
        return [child for place in self._places for child in place.children()]

    # -- signals -----------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        while self._signals:
            number = self._signals.popleft()
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._ask(signal.Signals(number).name)
            elif number == signal.SIGHUP and self._has_hung_up():
                self._ask("the end of its terminal")
            elif number == signal.SIGHUP:
                self._renew("SIGHUP")
            elif number == signal.SIGTSTP:
                self._be_quiet()
            elif number == signal.SIGUSR1:
                for child in self._children():
                    child.wire.send("stacks")

    def _has_hung_up(self) -> bool:
        """Whether our terminal was closed, which is a SIGHUP, too."""
        if not self._terminal:
            return False
        try:
            os.tcgetpgrp(0)
        except OSError:
            return True
        return False

    def _ask(self, what: str) -> None:
        """Stop; asked again hurry, and the third time kill."""
        now = time.monotonic()
        if self._asked and now - self._asked[-1] < SECOND_SIGNAL:  # the same, from two sides
            return
        self._asked.append(now)
        if len(self._asked) == 1:
            self._log.info("asked to stop by %s: jobs that run may end; again to interrupt them", what)
            self._systemd.tell("STOPPING=1", "STATUS=stopping: jobs that run may end")
            self._stop_all()
        elif len(self._asked) == 2:
            self._log.warning("asked again by %s: jobs that run are interrupted", what)
            for child in self._children():
                child.wire.send("hurry")
                child.kill_at = min(child.kill_at, now + GRACE)
        else:
            self._log.warning("asked once more by %s: the processes are killed", what)
            for child in self._children():
                child.kill("the third signal")

    def _stop_all(self) -> None:
        self._state.phase = STOPPING
        self._roll.clear()
        self._rolling = None
        for child in self._children():
            self._stop(child)

    def _stop(self, child: Child) -> None:
        child.stop(GRACE, starting=STARTING_GRACE)

    def _be_quiet(self) -> None:
        if self._state.phase != RUNNING:
            return
        self._state.phase = QUIET
        self._log.info("asked to be quiet by SIGTSTP: nothing more is claimed; jobs that run may end")
        for child in self._children():
            child.wire.send("quiet")

    # -- replacing children ------------------------------------------------------------------------------

    def _renew(self, why: str, places: list[Place] | None = None) -> None:
        """Replace children one by one, each new one before the old one is stopped."""
        if self._state.phase != RUNNING:
            return
        if not self._roll and self._rolling is None and places is None:
            self._log.info("the processes are replaced: %s", why)
            self._ready = False
            self._systemd.reloading()
        waiting = {id(place) for place, _ in self._roll}
        for place in self._places if places is None else places:
            if id(place) not in waiting:
                self._roll.append((place, why))

    def _roll_on(self) -> None:
        while self._rolling is None and self._roll:
            place, _ = self._roll.popleft()
            if place.child is not None and place.incoming is None and not place.child.asked:
                self._rolling = place
                self._start(place, incoming=True)
        if self._rolling is None and self._begun:
            self._tell_ready()

    def _tell_ready(self) -> None:
        ready = all(place.is_claiming() for place in self._places)
        if ready and not self._ready:
            self._systemd.tell("READY=1")
        self._ready = ready

    def _start(self, place: Place, *, incoming: bool = False) -> None:
        try:
            child = Child(place.number, self._options, first=not self._begun)
        except OSError as error:  # no processes or no descriptors to be had
            pause = place.note_death(0.0)
            self._log.error("process %d cannot be started, again in %g s: %s", place.number, pause, error)
            self._rolling = None
            return
        if incoming:
            place.incoming = child
        else:
            place.child = child
        if self._state.phase == QUIET:
            child.wire.send("quiet")
        self._selector.register(child.wire, selectors.EVENT_READ, partial(self._hear, place, child))

    # -- what children say -------------------------------------------------------------------------------

    def _hear(self, place: Place, child: Child) -> bool:
        """Take note of what a child says; False where it said nothing more."""
        messages = None if child.wire.closed else child.wire.receive()
        if messages is None and not child.wire.closed:
            self._selector.unregister(child.wire)
            child.wire.close()
        for message in messages or ():
            self._note(place, child, message)
        return bool(messages)

    def _note(self, place: Place, child: Child, message: Message) -> None:
        if self._sources is not None and message.get("files"):
            self._sources.add(message["files"])
        what = message["is"]
        if what == "beat":
            child.beat, child.beat_at = message, time.monotonic()
            self._systemd.status(self._state.summary())
        elif what == "counted":
            self._metrics.note_counted(message["figures"])
        elif what == "levels":
            self._metrics.note_levels(message["figures"])
        elif what == "claiming":
            self._note_claiming(place, child, message)
        elif what == "refused":
            child.refusal = message["code"], message["text"]
            if self._sources is not None:  # a module that failed is in no list of those imported
                self._sources.add(re.findall(r'File "([^"]+\.py)"', message["text"]))
        elif what == "recycle" and self._state.phase != STOPPING:
            self._log.info("process %d (%d) is to be replaced: %s", place.number, child.pid, message["why"])
            self._renew("a limit is reached", [place])
        elif what == "ended":
            child.ended = message
            child.kill_at = time.monotonic() + EXIT_GRACE

    def _ask_for_levels(self) -> bool:
        """Let one process read the levels of the store, each in its turn; False where none claims jobs."""
        claiming = [child for child in self._children() if child.state == CLAIMING and not child.asked]
        if claiming:
            self._looks += 1
            claiming[self._looks % len(claiming)].wire.send("look")
        return bool(claiming)

    def _note_claiming(self, place: Place, child: Child, message: Message) -> None:
        child.state = CLAIMING
        child.beat_at = time.monotonic()
        child.shutdown_timeout = message["shutdown_timeout"]
        if message["store"] == "MemBackend" and not self._begun:
            self._log.warning(
                "jobs in memory are seen by one process only: this worker runs its own, such as those of "
                "cron, and none that another program enqueues"
            )
        self._begun = True
        self._log.info(
            "process %d (%d) claims jobs, %.2f s after its start",
            place.number,
            child.pid,
            time.monotonic() - child.started,
        )
        if child is place.incoming and place.child is not None:
            self._stop(place.child)

    # -- the death of children ---------------------------------------------------------------------------

    def _reap(self) -> None:
        for place in self._places:
            for child in place.children():
                code = child.process.poll()
                if code is None:
                    continue
                while self._hear(place, child):  # its last words
                    pass
                if not child.wire.closed:  # what it has forked has the other end
                    self._selector.unregister(child.wire)
                    child.wire.close()
                self._note_end(place, child, code)
        if os.getpid() == 1:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        """As process 1 of a container we inherit whatever loses its parent."""
        ours = {child.pid for child in self._children()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)

    def _note_end(self, place: Place, child: Child, code: int) -> None:
        incoming = child is place.incoming
        if incoming:
            place.incoming = None
        else:
            place.child, place.incoming = place.incoming, None
        if self._rolling is place:
            self._rolling = None
        self._metrics.note_exit(deaths.reason_of(child, code, stopping=self._state.phase == STOPPING))
        if self._state.phase == STOPPING:
            self._count_losses(child, code)
        elif not self._begun and child.refusal is not None:
            self._refusal = child.refusal
            self._stop_all()
        elif incoming and place.child is not None:
            self._log.error(
                "the new process %d cannot take over, so the old one goes on: %s",
                place.number,
                self._reason(child, code),
            )
            self._roll.clear()
        elif child.ended is not None and child.ended["drained"]:
            place.drained = True
        elif not child.asked:
            self._note_death(place, child, code)

    def _count_losses(self, child: Child, code: int) -> None:
        if child.ended is not None:
            self._interrupted += child.ended["interrupted"] + child.ended["lost"]
        elif child.state == CLAIMING:
            self._killed += 1
            self._log.error(
                "process %d (%d) ended before its jobs: %s",
                child.number,
                child.pid,
                self._reason(child, code),
            )

    def _note_death(self, place: Place, child: Child, code: int) -> None:
        lived = time.monotonic() - child.started
        if child.ended is not None and child.killed is None:
            place.due = 0.0
            self._log.warning(
                "process %d (%d) was asked to stop alone, and is replaced", place.number, child.pid
            )
            return
        pause = place.note_death(lived)
        replaced = f"is replaced in {pause:g} s" if pause else "is replaced"
        self._log.error(
            "process %d (%d) has died after %.1f s, and %s: %s",
            place.number,
            child.pid,
            lived,
            replaced if self._state.phase == RUNNING else "is not replaced now that nothing is claimed",
            self._reason(child, code),
        )

    def _reason(self, child: Child, code: int) -> str:
        if child.refusal is not None:
            told, self._refused = self._refused, child.refusal[1]
            return self._refused.splitlines()[-1] if self._refused == told else self._refused
        if child.killed is not None:
            return child.killed
        kills, before = deaths.out_of_memory_kills(), self._memory_kills
        self._memory_kills = kills
        return deaths.describe(code, killed_for_memory=kills > before)

    # -- time --------------------------------------------------------------------------------------------

    def _tick(self) -> float | None:
        """Do what is due; return the seconds until something may be due again, None: only if we are woken."""
        now = time.monotonic()
        due = [self._start_missing(now), self._kill_late(now), self._keep_watchdog(now)]
        if self._state.phase != STOPPING:
            due.append(self._look_at_sources(now))
            self._roll_on()
        if self._probes.drop_silent(now):
            due.append(now + 1.0)
        if self._state.phase == STOPPING and self._children():
            left = max(child.kill_at for child in self._children()) - now
            self._systemd.tell(f"EXTEND_TIMEOUT_USEC={int((left + EXIT_GRACE) * 1e6)}")
            due.append(now + 1.0)
        next_due = min(due)
        return None if next_due == math.inf else max(0.0, next_due - now)

    def _start_missing(self, now: float) -> float:
        due = math.inf
        for place in self._places:
            if place.children() or place.drained or self._state.phase != RUNNING:
                continue
            if now >= place.due:
                self._start(place)
            if not place.children():
                due = min(due, place.due)
        return due

    def _kill_late(self, now: float) -> float:
        due = math.inf
        for child in self._children():
            if now >= child.kill_at:
                child.kill_at = math.inf
                why = "its jobs have ended and it has not: a thread that is no daemon keeps it"
                why = why if child.ended is not None else "it did not stop in time"
                self._log.error("process %d (%d) is killed: %s", child.number, child.pid, why)
                child.kill(why)
            elif child.state == CLAIMING and child.killed is None and now - child.beat_at > HUNG:
                why = f"it has said nothing for {HUNG:g} s; native code may hold the interpreter"
                self._log.error(
                    "process %d (%d) is killed, its stack follows: %s", child.number, child.pid, why
                )
                child.kill(why, signal.SIGABRT)
                child.kill_at = now + EXIT_GRACE
            due = min(due, child.kill_at, child.beat_at + HUNG + 1 if child.state == CLAIMING else math.inf)
        return due

    def _keep_watchdog(self, now: float) -> float:
        every = self._systemd.watchdog_every
        if every is None:
            return math.inf
        if now >= self._watchdog_at:
            if self._state.is_alive(now):
                self._systemd.tell("WATCHDOG=1")
            self._watchdog_at = now + every
        return self._watchdog_at

    def _look_at_sources(self, now: float) -> float:
        if self._sources is None:
            return math.inf
        changed, due = self._sources.poll(now)
        if changed:
            problem = syntax_error(changed)
            if problem is not None:
                self._log.error("not reloaded, the old code goes on: %s", problem)
            else:
                some = ", ".join(sorted(map(os.path.relpath, changed))[:3])
                self._renew(f"{some}{' and more' if len(changed) > 3 else ''} changed")
        return due
