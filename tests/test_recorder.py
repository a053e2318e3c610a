"""The recorder takes the steps of many runners along in one call of the store."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from neoq.engine.recorder import Recorder
from neoq.held.step import Step
from neoq.outcome import Lease
from neoq.testing.cases.suite import eventually

STEP = Step("step:a", b"1")


class Records:
    """What a remote store does for `Recorder`: the lease of token 2 holds. A call lasts until `go`."""

    features: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls: list[list[Lease]] = []

    def record(self, records: Sequence[tuple[Lease, Sequence[Step]]]) -> set[int]:
        self.calls.append([lease for lease, _ in records])
        assert self.go.wait(20)
        return {lease.job_id for lease, _ in records if lease.token != 2}


def test_an_attempt_that_lost_its_lease_says_nothing_of_the_next_one() -> None:
    """Two attempts of one job that record at the same time are each told of their own lease."""
    store: Any = Records()
    recorder, told = Recorder(store, patience=1.0), dict[str, bool]()

    def record(name: str, job_id: int, token: int) -> None:
        told[name] = recorder.record(Lease(job_id, "q", token), [STEP], bool)

    threads = [
        threading.Thread(target=record, args=arguments)
        for arguments in (("other", 1, 2), ("lost", 7, 1), ("holds", 7, 2))
    ]
    threads[0].start()
    eventually(lambda: store.calls, "the first one is in the store")
    for thread in threads[1:]:
        thread.start()
    store.go.set()
    for thread in threads:
        thread.join(20)
    assert told == {"other": True, "lost": False, "holds": True}
