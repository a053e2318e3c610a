"""How a worker is doing, as its probes, `neoq health` and systemd are told. The store is never asked."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from neoq.cli.options import WorkerOptions
from neoq.cli.output import many
from neoq.cli.places import CLAIMING, Child, Place

RUNNING, QUIET, STOPPING = "running", "quiet", "stopping"
HUNG = 60.0  # seconds without a beat: then native code holds the interpreter, and nothing can run there


class State:
    """The state of the processes of one worker."""

    def __init__(self, options: WorkerOptions, places: list[Place]) -> None:
        self.phase = RUNNING
        self._options = options
        self._places = places

    def _children(self) -> list[Child]:
        return [child for place in self._places for child in place.children()]

    def is_alive(self, now: float) -> bool:
        """Whether no child hangs."""
        return all(
            child.state != CLAIMING or now - child.beat_at <= HUNG or child.asked
            for child in self._children()
        )

    def problem(self) -> str | None:
        """Why the worker is not ready, or None."""
        if self.phase != RUNNING:
            return "stopping" if self.phase == STOPPING else "quiet: nothing is claimed"
        claiming = sum(place.is_claiming() for place in self._places)
        if claiming < len(self._places):
            return f"{claiming} of {many(len(self._places), 'process', 'processes')} claim jobs"
        if not all(child.beat.get("reached", True) for child in self._children()):
            return "the store does not answer"
        return None

    def summary(self) -> str:
        """The state in a line."""
        children = self._children()
        running = sum(busy for child in children for busy, _ in child.beat.get("running", {}).values())
        claiming = sum(place.is_claiming() for place in self._places)
        done = sum(child.beat.get("done", 0) for child in children)
        claim = f"{claiming}/{len(self._places)} processes claim"
        return f"{claim}, {many(running)} running, {many(done, 'attempt')} done"

    def answer(self, path: str) -> tuple[int, str] | None:
        """The answer to a probe: its code and text."""
        now = time.monotonic()
        if path == "/livez":
            return (200, "ok\n") if self.is_alive(now) else (503, "a process has said nothing for long\n")
        if path == "/readyz":
            problem = self.problem()
            return (503, f"{problem}\n") if problem else (200, f"ok: {self.summary()}\n")
        if path == "/status":
            return 200, json.dumps(self._whole(now)) + "\n"
        return None

    def _whole(self, now: float) -> dict[str, Any]:
        return {
            "name": self._options.name,
            "app": self._options.app,
            "pid": os.getpid(),
            "live": self.is_alive(now),
            "ready": self.problem() is None,
            "problem": self.problem(),
            "processes": [
                {
                    "number": child.number,
                    "pid": child.pid,
                    "state": "stopping" if child.asked else child.state,
                    "seconds": round(now - child.started, 1),
                    "deaths": place.deaths,
                    **{
                        name: child.beat.get(name)
                        for name in ("memory", "running", "done", "quiet", "reached")
                    },
                }
                for place in self._places
                for child in place.children()
            ],
        }
