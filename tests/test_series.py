"""How a process adds what it has counted to the series of its store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from neoq.engine.meter import Meter
from neoq.engine.series_writer import SeriesWriter
from neoq.errors import BackendUnavailable
from neoq.outcome import Lease, Outcome
from neoq.record import Status
from neoq.series import KEPT, MINUTE, NOTHING, TEN_MINUTES, Increment, RecentSeries, SeriesPoint, increment
from tests.garbage import target_of

ONE = increment("q", {"dead": 1}, NOTHING, NOTHING)
NOON = 1_900_000_800.0  # a time at which ten minutes begin


def outcome(status: Status = Status.SUCCEEDED) -> Outcome:
    return Outcome(
        Lease(1, "q", 7, None, 100.0), status, run_after=500.0, started_at=103.0, finished_at=103.2
    )


class Away:
    """A store that is away now and then, and remembers what it took by serial."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[tuple[int, Increment]] = []

    def add_series(self, increments: Sequence[Increment], *, serial: int) -> None:
        if self.away:
            raise BackendUnavailable("it is away", outcome_unknown=True)
        self.taken += [(serial, one) for one in increments]


class TestWriter:
    @pytest.fixture
    def store(self) -> Away:
        return Away()

    @pytest.fixture
    def meter(self) -> Meter:
        return Meter()

    @pytest.fixture
    def writer(self, store: Away, meter: Meter) -> SeriesWriter:
        return SeriesWriter(cast("Any", store), meter)

    def test_what_came_since(self, store: Away, meter: Meter, writer: SeriesWriter) -> None:
        """Each write adds what came since the last; where nothing did, nothing is sent."""
        meter.note([outcome(), outcome(Status.RETRYING)], set())
        writer.write()
        writer.write()
        meter.note([outcome()], set())
        writer.write()
        assert [one.numbers[:6] for _, one in store.taken] == [(1, 1, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0)]

    def test_a_store_that_is_away(self, store: Away, meter: Meter, writer: SeriesWriter) -> None:
        """What the store did not take is sent again as it was, under its serial; what came since follows."""
        store.away = True
        meter.note([outcome()], set())
        with pytest.raises(BackendUnavailable):
            writer.write()
        meter.note([outcome(), outcome(Status.DEAD)], set())
        with pytest.raises(BackendUnavailable):
            writer.write()
        store.away = False
        writer.write()
        (first, one), (second, other) = store.taken
        assert (one.numbers[:3], other.numbers[:3]) == ((1, 0, 0), (1, 0, 1))
        assert first < second

    def test_not_at_each_heartbeat(self, store: Away, meter: Meter, writer: SeriesWriter) -> None:
        """However often the heart beats, numbers are written once in five seconds."""
        for _ in range(3):
            meter.note([outcome()], set())
            writer.write_in_time()
        assert len(store.taken) == 1


class TestRecentSeries:
    def test_old_points_are_forgotten(self) -> None:
        """Minutes are kept for 8 hours, ten minutes for 3 days."""
        series = RecentSeries()
        series.add([ONE], NOON)
        series.add([ONE], NOON + 61)
        assert [len(series.since(None, 0, seconds)) for seconds in (MINUTE, TEN_MINUTES)] == [2, 1]
        series.add([ONE], NOON + KEPT[MINUTE] + 30)
        assert [len(series.since(None, 0, seconds)) for seconds in (MINUTE, TEN_MINUTES)] == [2, 2]
        series.add([ONE], NOON + KEPT[TEN_MINUTES] + 1)
        assert [len(series.since(None, 0, seconds)) for seconds in (MINUTE, TEN_MINUTES)] == [1, 2]


def dead(points: Sequence[SeriesPoint]) -> int:
    return sum(point.outcomes["dead"] for point in points)


@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_sent_twice(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What is sent again, since the reply was lost, is added once."""
    with target_of(store, request, tmp_path).connect(autostart=False) as backend:
        assert backend.series() == []
        for serial in (1, 1, 2):
            backend.store.add_series([ONE], serial=serial)
        assert dead(backend.series()) == 2


def age_minutes(config: Any) -> None:
    """Let the points that last a minute be of long ago."""
    if hasattr(config, "path"):
        with closing(sqlite3.connect(config.path)) as file, file:
            file.execute("update neoq_series set start = 60 where seconds = 60")
    else:
        with psycopg.connect(config.url, autocommit=True) as connection:
            connection.execute(f'update "{config.schema}".series set start = 60 where seconds = 60')


@pytest.mark.parametrize("store", ["postgres", "sqlite"])
def test_old_points_are_pruned(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """prune() forgets points that are too old; in Redis they expire."""
    with target_of(store, request, tmp_path).connect(autostart=False) as backend:
        assert backend.series() == []
        backend.store.add_series([ONE], serial=1)
        age_minutes(backend.config)
        backend.store.add_series([ONE], serial=2)
        assert dead(backend.store.series(None, 0.0, MINUTE)) == 2
        backend.prune()
        assert dead(backend.store.series(None, 0.0, MINUTE)) == 1
