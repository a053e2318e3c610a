"""Shows the queues while the demo runs: a live table, or plain lines if there is no terminal."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

import neoq

COUNTS = ("ready", "scheduled", "retrying", "running", "succeeded", "dead")


class Screen:
    """Shows a backend's queues: ``with Screen(console) as screen: screen.show(backend, "...")``."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, backend: neoq.Backend, title: str) -> None:
        """Redraw the table; without a terminal print a line each second."""
        if self._live:
            self._live.update(_table(backend, title), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + 1
            self.console.print(_line(backend, title), soft_wrap=True)


def _table(backend: neoq.Backend, title: str) -> Table:
    workers = ", ".join(f"{worker.pid} runs {worker.running}" for worker in backend.workers())
    caption = f"workers: {workers or 'none'}"
    table = Table("queue", title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in COUNTS:
        table.add_column(name, justify="right")
    for queue in backend.queues():
        table.add_row(queue.queue, *(str(getattr(queue, name)) for name in COUNTS))
    return table


def _line(backend: neoq.Backend, title: str) -> str:
    parts = [title]
    for queue in backend.queues():
        counts = ", ".join(f"{count} {name}" for name in COUNTS if (count := getattr(queue, name)))
        parts.append(f"{queue.queue} {counts or 'empty'}")
    return " | ".join(parts)
