"""The children of a worker, as its supervisor knows them, and the places that they fill."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import neoq
from neoq.cli.options import WorkerOptions
from neoq.cli.wire import Wire

BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1)
YOUNG = 5.0  # seconds; a child that lives shorter may be at the beginning of a crash loop
LONGEST = 30.0  # seconds between two attempts to start one
STARTING, CLAIMING = "starting", "claiming"


class Child:
    """A process that runs jobs, or will."""

    def __init__(self, number: int, options: WorkerOptions, *, first: bool) -> None:
        self.number = number
        self.state = STARTING
        self.started = time.monotonic()
        self.beat_at = self.started
        self.beat: dict[str, Any] = {}
        self.refusal: tuple[int, str] | None = None  # exit code and text
        self.ended: dict[str, Any] | None = None  # what became of its jobs
        self.shutdown_timeout = 30.0
        self.asked = False  # to stop
        self.kill_at = math.inf
        self.killed: str | None = None  # by us, and why
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.wire = Wire(ours)
        command = [
            sys.executable,
            "-P",
            "-m",
            "neoq.cli.child",
            str(theirs.fileno()),
            str(number),
            options.app,
        ]
        # Signals to the whole group are kept from it until it has taken its own measures.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            self.process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=_environment()
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.pid = self.process.pid
        self.wire.send("settings", options=options.as_message(), first=first)

    def stop(self, grace: float, *, starting: float) -> None:
        """Ask it to drain and end. It is killed ``grace`` seconds after its time is up, if need be."""
        if self.asked:
            return
        self.asked = True
        self.wire.send("stop")
        patience = self.shutdown_timeout + grace if self.state == CLAIMING else starting
        self.kill_at = time.monotonic() + patience

    def kill(self, why: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill it."""
        self.killed = why
        self.process.send_signal(number)


class Place:
    """One of the N processes of a worker: the child that fills it, and the one that is to replace it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.incoming: Child | None = None
        self.deaths = 0
        self.young = 0  # deaths one after another, soon after the start
        self.due = 0.0  # monotonic: when to start a child
        self.drained = False

    def children(self) -> list[Child]:
        """Those that live."""
        return [child for child in (self.child, self.incoming) if child is not None]

    def is_claiming(self) -> bool:
        """Whether somebody here claims jobs."""
        return any(child.state == CLAIMING and not child.asked for child in self.children())

    def note_death(self, lived: float) -> float:
        """Count a death; return the seconds until the next start. One death alone costs no pause."""
        self.deaths += 1
        self.young = self.young + 1 if lived < YOUNG else 0
        pause = 0.0 if self.young < 2 else min(LONGEST, 2.0 ** (self.young - 2))
        self.due = time.monotonic() + pause
        return pause


def _environment() -> dict[str, str]:
    """The environment of a child, which finds neoq where we did, and its modules never shadow Python's."""
    environ = dict(os.environ)
    root = Path(neoq.__file__).parents[1]
    if root == Path.cwd():
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [environ.get("PYTHONPATH"), str(root)]))
    return environ
