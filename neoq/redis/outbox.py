"""The outbox of a queue: jobs that follow an outcome, until they are in their own queues.

The script that records an outcome writes them there. Then they are added to their queues, each pack by one
script that knows which packs were added: a pack is delivered once, by whichever process. What remembers that
(``took``) is forgotten ten minutes after the pack has left the outbox. Nobody delivers a pack that was read
more than a minute ago, so a process that stands still in between cannot deliver it a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from neoq.errors import BackendError
from neoq.job import Job
from neoq.redis.add import Adder
from neoq.redis.groups import Groups
from neoq.redis.parts import MEETS, count_spans, described, parts_of
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import group_name_of
from neoq.wording.safe_logger import SafeLogger

OVERDUE = 2.0  # seconds for which a pack is left to the process that wrote it
STANDS = 60.0  # seconds for which what was read from an outbox may be delivered
AT_ONCE = 20  # packs of one script
PAGES = 50  # scripts of a queue, in one call
_OF_JOB = 7  # texts
_RECORD = 3  # the place of the record among them


class Pack(NamedTuple):
    """Jobs of one queue that follow an outcome: as many as one script adds."""

    queue: str
    jobs: list[bytes]  # for each job what `described` says

    def groups(self) -> set[bytes]:
        """The names of the groups that they belong to."""
        return {name for one in self.jobs[_RECORD::_OF_JOB] if (name := group_name_of(one)) is not None}

    def written(self) -> bytes:
        """The pack as the outbox has it."""
        return b"".join(b"%d:%b" % (len(text), text) for text in (self.queue.encode(), *self.jobs))


def packs_of(jobs: Sequence[Job], now: float) -> list[Pack]:
    """Jobs in packs; one with ``on_duplicate="raise"`` is left out where it is a duplicate: nobody hears."""
    for job in jobs:
        if job.special:
            count_spans(job, now)
    return [
        Pack(piece.queue, [text for job in piece.jobs for text in _texts_of(job)])
        for part in parts_of(jobs)
        for piece in part.pieces()
    ]


def _texts_of(job: Job) -> Iterator[bytes]:
    meets = MEETS["return"] if job.on_duplicate == "raise" else MEETS[job.on_duplicate]
    for text in described(job, meets):
        yield text if isinstance(text, bytes) else str(text).encode()


def pack_in(value: bytes) -> Pack | None:
    """The pack in an entry of the outbox, after its time; None where another program has written there."""
    texts, at = list[bytes](), value.find(b" ") + 1
    while at < len(value):
        colon = value.find(b":", at)
        length = value[at:colon]
        end = colon + 1 + int(length) if colon >= 0 and length.isdigit() else len(value) + 1
        if end > len(value):
            return None
        texts.append(value[colon + 1 : end])
        at = end
    if len(texts) < 1 + _OF_JOB or len(texts) % _OF_JOB != 1:
        return None
    return Pack(texts[0].decode(errors="replace"), texts[1:])


class Outbox:
    """Delivers what the outboxes of queues hold."""

    def __init__(
        self,
        queues: RedisQueues,
        adder: Adder,
        groups: Groups,
        log: SafeLogger,
        tell_ready: Callable[[Iterable[str]], None],
    ) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._adder = adder
        self._groups = groups
        self._log = log
        self._tell_ready = tell_ready

    def send(self, queue: str, entries: Sequence[tuple[str, Pack]]) -> None:
        """Deliver what was just written; what cannot be is left to `tend`."""
        try:
            self._deliver(queue, entries, self._queues.time() + STANDS)
        except BackendError as error:
            self._log.debug("jobs that follow others are not in their queues yet, again soon: %s", error)

    def tend(self, queues: Sequence[str]) -> bool:
        """Deliver what should have been delivered by now; whether there is more."""
        more = False
        script = self._queues.scripts.overdue
        cursors = dict.fromkeys(queues, b"0")
        for _ in range(PAGES):
            calls = [
                self._queues.call_of(
                    script, queue, script.arguments(cursor=cursor, age=repr(OVERDUE), most=AT_ONCE)
                )
                for queue, cursor in cursors.items()
            ]
            until = self._queues.time() + STANDS
            replies = self._redis.call_many(calls)
            for queue, (cursor, found) in zip(list(cursors), replies, strict=True):
                self._deliver_found(queue, list(zip(found[::2], found[1::2], strict=True)), until)
                cursors[queue] = cursor
                if int(cursor) == 0:
                    del cursors[queue]
            if not cursors:
                break
        else:
            more = True
        return more

    def _deliver_found(self, queue: str, found: list[tuple[bytes, bytes]], until: float) -> None:
        entries = []
        for name, value in found:
            if (pack := pack_in(value)) is not None:
                entries.append((name.decode(errors="replace"), pack))
            else:
                self._log.error(
                    "%r of the outbox of %s holds no jobs, so it is deleted; "
                    "is another program writing to these keys?",
                    *(name[:60], queue),
                )
                self._redis.command("HDEL", self._queues.keys(queue).key("out"), name)
        self._deliver(queue, entries, until)

    def _deliver(self, queue: str, entries: Sequence[tuple[str, Pack]], until: float) -> None:
        if not entries:
            return
        replies = self._add(entries, until, self._closed(queue, [pack for _, pack in entries]))
        late = [entry for entry, reply in zip(entries, replies, strict=True) if reply[0] == b"late"]
        done = [entry for entry in entries if entry not in late]
        if done:
            self._forget(queue, done)
            self._tell_ready({pack.queue for _, pack in done})
        for (_, pack), reply in zip(entries, replies, strict=True):
            if reply[0] == b"sent" and reply[1]:
                self._groups.after(pack.queue, reply[1], ())

    def _closed(self, queue: str, packs: list[Pack]) -> set[bytes]:
        """Tell at home what a queue has sent, before it is delivered; return the groups that take no more."""
        to: dict[bytes, set[str]] = {}
        for pack in packs:
            for name in pack.groups():
                to.setdefault(name, set()).add(pack.queue)
        closed = set[bytes]()
        for name, queues in to.items():
            closed |= self._groups.tell_of(queue, [name], queues)
        return closed

    def _add(self, entries: Sequence[tuple[str, Pack]], until: float, closed: set[bytes]) -> list[list[Any]]:
        while True:
            replies = self._redis.call_many(
                [
                    self._adder.delivery(
                        pack.queue,
                        entry.encode(),
                        until,
                        pack.jobs,
                        void=not closed.isdisjoint(pack.groups()),
                    )
                    for entry, pack in entries
                ]
            )
            unknown = {
                pack.queue
                for (_, pack), reply in zip(entries, replies, strict=True)
                if reply[0] == b"unknown"
            }
            if not unknown:
                return replies
            for name in unknown:
                self._adder.register(name)

    def _forget(self, queue: str, done: list[tuple[str, Pack]]) -> None:
        """Remove packs from the outbox, and only then let it be forgotten that they were delivered."""
        names = [entry for entry, _ in done]
        commands: list[Sequence[object]] = [("HDEL", self._queues.keys(queue).key("out"), *names)]
        now = repr(self._queues.time())
        for name in {pack.queue for _, pack in done}:
            scores = [item for entry, pack in done if pack.queue == name for item in (now, entry)]
            commands.append(("ZADD", self._queues.keys(name).key("took"), "XX", *scores))
        self._redis.commands(commands)
