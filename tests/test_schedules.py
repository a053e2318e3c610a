"""The schedules in the stores that processes share: how long they stay, and what may stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

from neoq.cron import Schedule
from neoq.schedules import describe
from tests.garbage import STORES, Spot, target_of

OF_STORE = {
    "sqlite": (Spot("neoq_schedules", "listed_at"), 1.0),
    "postgres": (Spot("schedules", "listed_at"), 1.0),
    "redis": (Spot("schedules", "other"), b"1.0 {}"),
}


@pytest.mark.parametrize("store", STORES)
def test_a_schedule_that_nobody_listens_to_disappears(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A schedule that was last listed more than a day ago is not shown, and one that is listed now is."""
    target = target_of(store, request, tmp_path)
    spot, long_ago = OF_STORE[store]
    with target.connect(autostart=False) as backend:
        backend.queues()
        if store != "redis":
            backend.store.list_schedules({"old": b"{}"})
            assert backend.store.schedules() == [("old", b"{}", None)]
        target.spoil(spot, long_ago, None)
        assert backend.store.schedules() == []
        told = describe(Schedule("@daily"), "mine")
        backend.store.list_schedules({"mine": told})
        assert backend.store.schedules() == [("mine", told, None)]
        [info] = backend.schedules()
        assert (info.name, info.queue, info.timezone) == ("mine", "mine", "UTC")
