"""Groups: the jobs whose ends a held job waits for, the members of a batch or the children of a gather.

A group is named by the job that waits, its holder, and a round: 0 for the members of a batch, 1, 2, ... for
the children of its first, second, ... gather. A job says which group it belongs to by a text: holder, round
and its place among the children, as in "17/1/0"; a member of a batch has no place, as in "17/0/".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from neoq.errors import BatchClosedError
from neoq.job import Job

BATCH = 0  # the round of a batch's members

_WRITTEN = re.compile(r"([1-9][0-9]{0,18})/([0-9]{1,9})/([0-9]{0,9})")


class Group(NamedTuple):
    """The jobs whose ends one holder waits for in one round, and the place of one of them."""

    holder: int
    round: int = BATCH
    place: int | None = None

    def __str__(self) -> str:
        return f"{self.holder}/{self.round}/{'' if self.place is None else self.place}"

    @property
    def name(self) -> str:
        """What is the same in all jobs of the group, and no prefix of another group's: as "17/1/"."""
        return f"{self.holder}/{self.round}/"


def group_in(text: str | None) -> Group | None:
    """The group that a job says that it belongs to; None for no group, or for what is not one."""
    found = None if text is None else _WRITTEN.fullmatch(text)
    if found is None:
        return None
    holder, number, place = found.groups()
    return Group(int(holder), int(number), int(place) if place else None)


def closed(holder: int) -> BatchClosedError:
    """The error of an add to a batch, or of its seal, by whoever is not, or no longer, its producer."""
    return BatchClosedError(
        f"batch {holder} takes no more members: its block has ended, it was cancelled or has stopped at a "
        "dead member, or another process has opened it by its name; nothing was added",
        job_id=holder,
    )


class BatchRules(NamedTuple):
    """How a batch is opened.

    ``producer`` is a random number, above 0, of the call that opens it: adds and the seal of another one are
    refused. ``successes`` releases the callback only when no member is DEAD; ``stop_on_dead`` cancels the
    other members with the first that is. A ``named`` batch knows its members by their fingerprints until it
    ends, and is taken over by the next call that opens it.
    """

    producer: int
    successes: bool = False
    stop_on_dead: bool = False
    named: bool = False


@dataclass(frozen=True)
class Batch:
    """The members of a batch, counted: how many were added, and how they have ended.

    ``open``: members may still be added. ``stopped``: it was cancelled, or stopped at a dead member.
    """

    members: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    open: bool = True
    stopped: bool = False
    _pages: Callable[[], Iterator[Job]] | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: the counts."""
        return {**self.__dict__, "_pages": None}

    @property
    def ended(self) -> int:
        """Members that have ended."""
        return self.succeeded + self.dead + self.cancelled

    def results(self) -> Iterator[Job]:
        """The members, oldest first, in pages; they are kept until the callback has ended."""
        return iter(()) if self._pages is None else self._pages()
