"""The ticks of cron: none is lost in an outage, and no schedule holds up another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, cast

import pytest

from neoq.config import Config
from neoq.cron import Schedule
from neoq.engine.meter import Meter
from neoq.engine.scheduler import Cron, CronScheduler
from neoq.errors import BackendUnavailable
from neoq.job import Job
from neoq.store import Store, Tick

ONE_MINUTE_TO_TWO = datetime(2026, 1, 1, 1, 59, tzinfo=UTC)


class Wall:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = ONE_MINUTE_TO_TWO

    def time(self) -> float:
        return self.now.timestamp()

    def monotonic(self) -> float:
        return self.now.timestamp()


class Ticks:
    """A store that takes ticks, unless it is away."""

    def __init__(self, wall: Wall) -> None:
        self.away = False
        self.takes = timedelta()
        self.added: list[tuple[str, str]] = []
        self._wall = wall

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        self._wall.now += self.takes
        if self.away:
            raise BackendUnavailable("it is away")
        self.added.append((cron, f"{tick:%H:%M}"))
        return Tick.NEW


class Scene:
    """A cron_scheduler whose clock and store are set by hand."""

    def __init__(self) -> None:
        self.wall = Wall()
        self.store = Ticks(self.wall)
        self.cron_scheduler = CronScheduler(
            cast("Store", self.store), Config(), self.wall, lambda _queue: True, Meter()
        )

    def add(self, spec: str, queue: str = "q", schedule: Any = None) -> None:
        self.cron_scheduler.add(Cron(queue, schedule or Schedule(spec), catch_up=False))
        self.look()

    def look(self, *, later: float = 0.0) -> None:
        self.wall.now += timedelta(seconds=later)
        try:
            self.cron_scheduler.fire()
        except BackendUnavailable:
            assert self.store.away


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("every", [5, 50])
@pytest.mark.parametrize("minutes", [2, 90])
def test_a_tick_in_an_outage_is_enqueued_when_the_store_is_back(
    scene: Scene, minutes: int, every: int
) -> None:
    """However long the store is away, the tick that fell into the outage is enqueued."""
    scene.add("0 2 * * *")
    scene.store.away = True
    for _ in range(minutes * 60 // every):
        scene.look(later=every)
    scene.store.away = False
    scene.look(later=every)
    assert scene.store.added == [("q", "02:00")]


def test_a_store_that_hangs_loses_no_tick(scene: Scene) -> None:
    """Nor is a tick lost where each call to the store takes minutes to fail."""
    scene.add("0 2 * * *")
    scene.store.away, scene.store.takes = True, timedelta(minutes=5)
    for _ in range(4):
        scene.look(later=61)
        scene.wall.now -= timedelta(seconds=60)
    scene.store.away, scene.store.takes = False, timedelta()
    scene.look(later=1)
    assert scene.store.added == [("q", "02:00")]


def test_an_outage_leaves_one_tick_and_no_backlog(scene: Scene) -> None:
    """Of many ticks of one schedule in one outage the last is enqueued."""
    scene.add("*/5 * * * *")
    scene.store.away = True
    for _ in range(60):
        scene.look(later=59)
    scene.store.away = False
    scene.look(later=1)
    scene.look(later=1)
    assert scene.store.added == [("q", "02:55")]


def test_a_tick_while_nobody_looked_is_missed(scene: Scene) -> None:
    """A process that was suspended has missed its tick, also where the store was away before."""
    scene.add("0 2 * * *")
    scene.store.away = True
    scene.look(later=61)
    scene.look(later=5)
    scene.store.away = False
    scene.look(later=3600)
    assert scene.store.added == []


class Broken(tzinfo):
    """A tzinfo that stops working."""

    def __init__(self) -> None:
        self.works = True

    def fromutc(self, when: datetime) -> datetime:
        if not self.works:
            raise RuntimeError("the database of zones is gone")
        return when

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, when: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, when: datetime | None) -> str:
        return "broken"


def test_a_schedule_that_fails_holds_up_no_other(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """What one schedule raises is logged, at growing intervals, and the ticks of the others come."""
    zone = Broken()
    scene.add("", "bad", Schedule("* * * * *", zone))
    scene.add("* * * * *", "good")
    zone.works = False
    for _ in range(3):
        scene.look(later=60)
        assert scene.cron_scheduler.next_due() is not None
    assert [cron for cron, _ in scene.store.added] == ["good"] * 3
    assert caplog.text.count("cron bad fails") == 1
