"""The schedules in the stores that processes share: how long they stay, and what may stand there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from neoq import CronError
from neoq.cron import Schedule
from neoq.schedules import Listed, describe, info_of
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
            assert backend.store.schedules() == [("old", b"{}", None, None, 0)]
        target.spoil(spot, long_ago, None)
        assert backend.store.schedules() == []
        told = describe(Schedule("@daily"), "mine")
        backend.store.list_schedules({"mine": told})
        assert backend.store.schedules() == [("mine", told, None, None, 0)]
        [info] = backend.schedules()
        assert (info.name, info.queue, info.timezone) == ("mine", "mine", "UTC")


def test_a_text_of_any_length_is_bounded() -> None:
    """What another program has listed is cut, and a spec that is too long is refused before it is read."""
    described = orjson.dumps(dict.fromkeys(("spec", "timezone", "description", "queue"), "9," * 10000))
    info = info_of(Listed("name", described, None), datetime.now(UTC))
    assert info is not None
    assert {len(text) for text in (info.spec, info.timezone, info.description, info.queue)} == {2000}
    assert info.next_ticks == ()
    with pytest.raises(
        CronError, match=r"'9,9,.*\.\.\.': it has 20008 characters, and 1000 at most are read"
    ):
        Schedule("9," * 10_000 + "9 * * * ")
