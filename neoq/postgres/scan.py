"""Where claims begin their scan: behind dead rows that lie in their way.

Rows that were claimed and settled are cleared away within moments, unless an open transaction somewhere in
the database might still look at them: then each claim steps over all of them. After two claims that scanned
for long, the next ones begin where the last one ended. Now and then a claim scans from the beginning,
because a retry, a late commit or a wish for an earlier time may have put jobs before that point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from neoq.clock import machine
from neoq.postgres.arrays import float8s, int2s, texts

LONG = 0.008  # seconds of scanning, above which it is worth remembering where the scan ended
LONG_IN_LIMITED = 0.002  # of a queue with limits, whose claims follow one another
FULL_SCAN_EVERY = 1.0  # seconds between scans from the beginning
LATE = 1.0  # seconds by which a transaction may commit after others that have begun later
FULL_SCAN_SHARE = 0.05  # of the time, at most, that these may take

Kinds = Sequence[str] | None  # that a claim takes; None for any


class ScanReport(NamedTuple):
    """What a claim returned about one priority of a queue."""

    queue: str
    level: int
    floor: float  # the time from which the next claim may look
    seconds: float


class ScanHint:
    """From where to scan one queue, for some kinds: a scan passes over jobs of others, which wait."""

    def __init__(self, kinds: Kinds, full_scan_at: float) -> None:
        self.kinds = kinds
        self.floors: dict[int, float] = {}  # by priority
        self.full_scan_at = full_scan_at  # monotonic


class FullScans:
    """How long scans from the beginning take, by queue."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}  # seconds

    def pause_after(self, queue: str, seconds: float, long: float) -> float | None:
        """For how many seconds to do without the next one; None where they do not take long.

        Dead rows slow down every scan; a server that was busy for a moment slows down one. So the shorter of
        the last two counts.
        """
        usual = min(seconds, self._last.get(queue, 0.0))
        self._last[queue] = seconds
        return None if usual < long else max(FULL_SCAN_EVERY, usual / FULL_SCAN_SHARE)


class ScanHints:
    """From where to scan, for each queue whose scans are slow."""

    def __init__(self) -> None:
        self._queues: dict[str, ScanHint] = {}
        self._full_scans = FullScans()

    def of(self, queues: Sequence[str], kinds: Kinds) -> dict[str, ScanHint]:
        """The hints for the next claim; a queue that is due for a full scan has none."""
        if not self._queues:
            return {}
        now = machine.monotonic()
        return {
            queue: hint
            for queue in queues
            if (hint := self._queues.get(queue)) is not None
            and hint.kinds == kinds
            and now < hint.full_scan_at
        }

    @staticmethod
    def values(hints: dict[str, ScanHint]) -> tuple[Any, Any, Any]:
        """The queues, priorities and floors that a claim takes."""
        if not hints:
            return None, None, None
        floors = [(queue, *item) for queue, hint in hints.items() for item in hint.floors.items()]
        return (
            texts([queue for queue, _, _ in floors]),
            int2s([level for _, level, _ in floors]),
            float8s([floor for _, _, floor in floors]),
        )

    def learn(
        self,
        hints: dict[str, ScanHint],
        kinds: Kinds,
        reports: Sequence[ScanReport],
        *,
        limited: bool = False,
    ) -> None:
        """Take over what a claim with these hints reported."""
        long = LONG_IN_LIMITED if limited else LONG
        seconds: dict[str, float] = {}
        for report in reports:
            seconds[report.queue] = seconds.get(report.queue, 0.0) + report.seconds
        for queue, spent in seconds.items():
            if queue in hints:
                continue
            pause = self._full_scans.pause_after(queue, spent, long)
            if pause is None:
                self._queues.pop(queue, None)
            else:
                self._queues[queue] = ScanHint(kinds, machine.monotonic() + pause)
        for report in reports:
            hint = self._queues.get(report.queue)
            if hint is not None:
                hint.floors[report.level] = report.floor

    def forget(self, queues: Iterable[str]) -> None:
        """Let the next claims of these queues scan from the beginning."""
        for queue in queues:
            self._queues.pop(queue, None)

    @staticmethod
    def next_full_scan(hints: dict[str, ScanHint]) -> float | None:
        """In how many seconds the first of these queues is scanned from the beginning again."""
        if not hints:
            return None
        return max(0.0, min(hint.full_scan_at for hint in hints.values()) - machine.monotonic())


class LookFloors:
    """Where claims begin to look for lines that have changed, in queues where many dead notes of them lie.

    What a transaction notes late has a lower number than what others have noted meanwhile, so a look begins
    with what came in the last seconds, and now and then with all.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Floor] = {}
        self._full_looks = FullScans()

    def start(self, queue: str) -> int:
        """The first note for the next look."""
        floor = self._queues.get(queue)
        return 0 if floor is None or machine.monotonic() >= floor.full_look_at else floor.start

    def next_full_look(self, queue: str, start: int) -> float | None:
        """In how many seconds all is looked at again, after a look that began there."""
        floor = self._queues.get(queue)
        return None if floor is None or not start else max(0.0, floor.full_look_at - machine.monotonic())

    def learn(self, queue: str, start: int, last: float | None, seconds: float | None) -> None:
        """Take over how long a look has taken that began there, and the last note that it has found."""
        now, pause = machine.monotonic(), None
        if start == 0:
            pause = self._full_looks.pause_after(queue, seconds or 0.0, LONG_IN_LIMITED)
            if pause is None:
                self._queues.pop(queue, None)
                return
        floor = self._queues.setdefault(queue, _Floor(now))
        if pause is not None:
            floor.full_look_at = now + pause
        if last is not None:
            floor.last = int(last)
        if now - floor.marked_at >= LATE:
            floor.start, floor.mark, floor.marked_at = floor.mark, floor.last, now


class _Floor:
    """Where to begin in one queue: at a mark that was set a while ago."""

    def __init__(self, now: float) -> None:
        self.start = self.mark = self.last = 0
        self.marked_at = -math.inf
        self.full_look_at = now
