"""Step: a named value that a job has recorded, which its later attempts read back."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from neoq.errors import MissingKeyError
from neoq.payload import is_coded

MOST_STEPS = 1000  # of one job
MOST_SIGNALS = 100  # of one job, that it has not waited for
SIGNAL = "signal:"  # what the names of signals begin with, in the store


class Step(NamedTuple):
    """What was recorded under a name.

    ``data`` is JSON, opaque to a store. ``retries`` and ``crashes`` are what the job had by then, where
    this is progress: failures before the last progress count no more. ``lasting`` True is kept as it was
    first written; False replaces what the name has. ``at`` is when it was recorded, by the store's clock.
    """

    name: str
    data: bytes
    retries: int = 0
    crashes: int = 0
    lasting: bool = True
    at: float | None = None

    @property
    def value(self) -> Any:
        """What was recorded."""
        self.refuse_sealed()
        return orjson.loads(self.data)

    def refuse_sealed(self) -> None:
        """Raise MissingKeyError where the value is sealed, or compressed, still."""
        if is_coded(self.data):
            raise MissingKeyError(
                f"what was recorded as {self.name!r} is sealed or compressed, and this process cannot open "
                "it: give its backend codec=Codec(keys=[...]) with the key that sealed it"
            )
