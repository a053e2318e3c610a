"""What a backend offers for held jobs: signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neoq.checks import check_queue, checked_id, checked_text
from neoq.engine.engine import Engine
from neoq.errors import InvalidJobError
from neoq.held.step import SIGNAL, Step
from neoq.job import Job
from neoq.payload import encode_payload, refuse_size
from neoq.store import Store
from neoq.threads.boundary import entrances


@entrances()
class HeldOperations:
    """How jobs that wait for others, or for a signal, are steered from outside; see `Backend`."""

    engine: Engine
    store: Store

    def signal(
        self,
        to: int | Job | tuple[str, str],
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        transaction: Any = None,
    ) -> bool:
        """Send a signal, with a dict of JSON, to a job that waits for it, or will; whether it was taken.

        ``to`` is a job, its id, or its queue and its fingerprint. The first signal of a name wins: a second
        one is not taken, nor is one to a job that has ended or is dead, or to none. ``transaction`` is a
        connection of yours whose commit the signal waits for (backends that share one).
        """
        step = Step(SIGNAL + checked_text("the name of a signal", name), encode_payload(payload, "signal"))
        if len(step.data) > self.engine.config.max_payload:
            refuse_size(step.data, self.engine.config.max_payload, "signal")
        address = _address(to)
        self.engine.ensure_open_or_in_handler()
        return self.store.signal(address, step, transaction=transaction)


def _address(to: Any) -> int | tuple[str, str]:
    if isinstance(to, Job):
        return to.id
    if not isinstance(to, tuple):
        return checked_id(to)
    if len(to) != 2:
        raise InvalidJobError(f"a signal to {to!r:.80}; it takes a job, its id, or (queue, fingerprint)")
    check_queue(to[0])
    return to[0], checked_text("a fingerprint", to[1])
