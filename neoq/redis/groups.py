"""Groups in Redis: counted in each queue that has jobs of them, and told at home.

The home of a group is the queue of the job that waits for it. A script that adds, settles or changes jobs of
a group changes the group's totals in its own queue with them: numbers that only grow. Then home is told, and
takes the larger of what it knew and what it hears, so it does not matter how often, how late, or in which
order that happens. What was not told is told again with the heartbeats. A process that has recorded a success
tells of it with the end of the last job of the group that it runs in that queue.

Home releases the holder when it is sealed, and as many jobs have ended as were sent. That is right because of
the order of the calls, which `tests/test_batch_model.py` tries in every way. A queue is noted at home before
the first job is added to it. Home has the totals of all noted queues before it is sealed. Jobs that follow
the end of a job are added to their queues only after that end was told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from neoq.errors import BackendError
from neoq.held.group import Batch, BatchRules, Group, closed, group_in
from neoq.job import Job
from neoq.redis.connection import Call
from neoq.redis.keys import number_of
from neoq.redis.queues import RedisQueues, pairs_of
from neoq.redis.sweep import Sweeper

UNTOLD = 2.0  # seconds for which totals are left to the process that has changed them
TOLD_AT_ONCE = 50
PAGES = 20  # of the jobs of a group that is stopped, in one heartbeat
REMEMBERED = 1000  # openings
FORGOTTEN_AT_ONCE = 100
_SENT, _WELL, _FAILED, _GONE, _REVIVED, _VOID = range(6)  # the totals, as lua/job.lua has them

Told = Sequence[tuple[bytes, bytes]]  # names of groups and their totals


class Opening(NamedTuple):
    """What a queue is to know of the producer that adds members to it, and whether the batch is named."""

    group: str  # its name
    text: bytes
    named: bool


def state_of(rules: BatchRules) -> dict[str, Any]:
    """The rules of a batch as its home keeps them."""
    return {
        "p": str(rules.producer),
        "successes": rules.successes,
        "stops": rules.stop_on_dead,
        "named": rules.named,
    }


class Groups:
    """Counts groups, seals and stops them."""

    def __init__(
        self, queues: RedisQueues, sweeper: Sweeper, log: Any, tell_ready: Callable[[Iterable[str]], None]
    ) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._scripts = queues.scripts
        self._sweeper = sweeper
        self._log = log
        self._tell_ready = tell_ready
        self._openings: dict[tuple[str, str, int], Opening] = {}

    # -- from its beginning to its seal ------------------------------------------------------------------

    def opening(self, job: Job) -> Opening:
        """Note at home that a queue has members; BatchClosedError where it may have none of this producer."""
        group = group_in(job.group)
        if group is None:
            raise closed(0)
        known = self._openings.get((group.name, job.queue, job.producer))
        if known is not None:
            return known
        reply = self._at_home(group, "note", producer=job.producer, noted=job.queue)
        if reply is None or reply[0] != b"open":
            raise closed(group.holder)
        if len(self._openings) >= REMEMBERED:
            self._openings.clear()
        opening = Opening(group.name, reply[1], bool(reply[2]))
        self._openings[group.name, job.queue, job.producer] = opening
        return opening

    def refuse(self, job: Job) -> BaseException:
        """The error for a member that a queue has refused."""
        group = group_in(job.group)
        self._openings.clear()
        return closed(0 if group is None else group.holder)

    def take_over(self, holder: int, rules: BatchRules) -> bool:
        """Let a producer go on with a batch; whether its callback is still held."""
        group = Group(holder)
        rules_text = orjson.dumps(state_of(rules))
        reply = self._at_home(group, "take_over", holder=holder, producer=rules.producer, rules=rules_text)
        if reply is None or reply[0] != b"open":
            return False
        for queue in reply[2:]:
            self._sweeper.bar(queue.decode(), group.name, opened=reply[1])
        return True

    def seal(self, holder: int, producer: int) -> None:
        """Add no more members from outside; BatchClosedError for another producer."""
        group = Group(holder)
        state = self._state(group)
        if state is None or state.get("p") != str(producer):
            raise closed(holder)
        turn = state.get("turn", 0)
        opened = b"%09d:0" % (turn if type(turn) is int and turn >= 0 else 0)
        told = [(queue, self._sweeper.bar(queue, group.name, opened=opened)) for queue in state["q"]]
        reply = self._redis.call_and_wait(*self._count_call(group, told, producer=producer))
        if reply[0] != b"open":
            raise closed(holder)
        self._heard(group, reply)

    def get(self, holder: int, number: int) -> Batch | None:
        """The counts of a group."""
        group = Group(holder, number)
        state = self._state(group)
        if state is None:
            return None
        sums = [0] * 6
        for queue, told in state["q"].items():
            here = None  # what is counted of a group that is complete changes nothing
            if not state.get("done"):
                here = self._redis.command("HGET", self._queues.keys(queue).key("ends"), group.name)
            both = zip(_totals_in(str(told).encode()), _totals_in(here), strict=True)
            sums = [total + max(pair) for total, pair in zip(sums, both, strict=True)]
        ends = sums[_WELL], sums[_FAILED] - sums[_REVIVED], sums[_GONE]
        members = max(sums[_SENT] - sums[_VOID], sum(ends))
        stopped, sealed = bool(state.get("stopped")), bool(state.get("sealed"))
        return Batch(members, *ends, open=not (sealed or stopped), stopped=stopped)

    def _state(self, group: Group) -> dict[str, Any] | None:
        home = self._queues.named(number_of(group.holder))
        if home is None:
            return None
        text = self._redis.command("HGET", self._queues.keys(home).key("groups"), group.name)
        return state_in(text)

    def _at_home(self, group: Group, script: str, **named: Any) -> Any:
        home = self._queues.named(number_of(group.holder))
        if home is None:
            return None
        called = getattr(self._scripts, script)
        return self._queues.call(called, home, called.arguments(name=group.name, **named))

    # -- telling -----------------------------------------------------------------------------------------

    def tell(self, queue: str, told: Told, noted: Iterable[str] = ()) -> set[bytes]:
        """Tell at home what the totals of a queue are; return the groups that take no more jobs.

        ``noted`` are queues that are about to get jobs of these groups.
        """
        closed_ = set[bytes]()
        calls: list[tuple[bytes, Group, Call]] = []
        for name, totals in told:
            group = group_in(name.decode(errors="replace"))
            if group is None or self._queues.named(number_of(group.holder)) is None:
                closed_.add(name)
                continue
            totals_of = [(queue, totals), *((one, b"") for one in noted)]
            calls.append((name, group, self._count_call(group, totals_of)))
        replies = self._redis.call_many([call for _, _, call in calls]) if calls else []
        for (name, _, _), reply in zip(calls, replies, strict=True):
            if reply[0] != b"open" or reply[1]:
                closed_.add(name)
        for (_, group, _), reply in zip(calls, replies, strict=True):
            if reply[0] == b"open":
                self._heard(group, reply)
        return closed_

    def tell_of(self, queue: str, names: Iterable[bytes], noted: Iterable[str]) -> set[bytes]:
        """As `tell`, of what the totals are now."""
        listed = sorted(names)
        totals = self._redis.command("HMGET", self._queues.keys(queue).key("ends"), *listed)
        told = [(name, text or b"") for name, text in zip(listed, totals, strict=True)]
        return self.tell(queue, told, noted)

    def after(self, queue: str, told: Sequence[bytes], halted: Sequence[bytes]) -> None:
        """Tell and stop what a script has said; what cannot be done now is done with a heartbeat."""
        try:
            self.follow_up(queue, told, halted)
        except BackendError as error:
            self._log.debug("the home of a group was not told of its jobs yet, again soon: %s", error)

    def follow_up(self, queue: str, told: Sequence[bytes], halted: Sequence[bytes]) -> None:
        """Tell and stop what a script has said."""
        if told:
            self.tell(queue, list(zip(told[::2], told[1::2], strict=True)))
        if halted:
            self.stop(halted)

    def _count_call(
        self, group: Group, told: Iterable[tuple[str, bytes]], *, producer: int | str = ""
    ) -> Call:
        home = self._queues.named(number_of(group.holder)) or ""
        script = self._scripts.count
        arguments = script.arguments(
            name=group.name,
            holder=group.holder,
            round=group.round,
            producer=producer,
            **self._queues.waking(home),
        )
        return self._queues.call_of(script, home, [*arguments, *(text for pair in told for text in pair)])

    def _heard(self, group: Group, reply: Any) -> None:
        """Do what home has decided."""
        if reply[2]:
            self.stop([group.name.encode()])
        if reply[3] and (home := self._queues.named(number_of(group.holder))):
            self._tell_ready([home])

    # -- stopping ----------------------------------------------------------------------------------------

    def stop(self, names: Sequence[bytes], pages: int | None = None) -> bool:
        """Stop groups in all queues that have jobs of them; first, so that none starts any more.

        Return whether all their jobs were looked at; ``pages`` of each queue are, at most.
        """
        every = True
        todo, seen = list(names), set(names)
        while todo:
            name = todo.pop()
            group = group_in(name.decode(errors="replace"))
            home = None if group is None else self._queues.named(number_of(group.holder))
            if group is None or home is None:
                continue
            queues = list((self._state(group) or {"q": {}})["q"])
            for queue in queues:
                self._sweeper.bar(queue, group.name, stop=True)
            swept = True
            for queue in queues:
                totals, halted, whole = self._sweeper.sweep(queue, group.name, pages)
                swept = swept and whole
                self.tell(queue, [(name, totals)])
                todo += [one for one in halted if one not in seen]
                seen.update(halted)
            every = every and swept
            if swept:
                script = self._scripts.halted
                self._queues.call(script, home, script.arguments(name=name, holder=group.holder))
        return every

    def may_revive(self, job: Job) -> bool:
        """Whether a DEAD job of a group may run again: home says so, but for one that is being stopped."""
        group = group_in(job.group)
        state = None if group is None else self._state(group)
        if group is None:
            return True
        if state is None or state.get("done"):  # a plain retry: what was stopped is over
            self._redis.command("ZREM", self._queues.keys(job.queue).key("stopped"), group.name)
            return True
        return not state.get("stopped")

    # -- with the heartbeats -----------------------------------------------------------------------------

    def tend(self, queues: Sequence[str]) -> bool:
        """Tell what should have been told by now, and stop what is to be stopped; whether there is more."""
        script = self._scripts.untold
        arguments = script.arguments(age=repr(UNTOLD), most=TOLD_AT_ONCE)
        more = False
        replies = self._redis.call_many([self._queues.call_of(script, queue, arguments) for queue in queues])
        for queue, (found, halts) in zip(queues, replies, strict=True):
            if found:
                self.tell(queue, list(zip(found[::2], found[1::2], strict=True)))
                self._queues.call(self._scripts.told, queue, found)
            more = more or len(found) == 2 * TOLD_AT_ONCE
            if halts and not self.stop(halts, pages=PAGES):
                more = True
        return more

    def let_go(self) -> tuple[int, int]:
        """Leave the jobs of groups whose holders have ended to the settings.

        Return how many jobs the other groups keep: those that are dead, and those that have ended otherwise.
        """
        sums = [0] * 6
        for queue in self._queues.all():
            for totals in self._pages("HSCAN", queue, "ends"):
                for name in self._let_go(queue, list(totals)):
                    del totals[name]
                for text in totals.values():
                    sums = [one + other for one, other in zip(sums, _totals_in(text), strict=True)]
            # Of some nothing is counted here: the only members met other jobs, or were refused.
            for page in (*self._pages("HSCAN", queue, "opener"), *self._pages("ZSCAN", queue, "stopped")):
                self._let_go(queue, list(page))
        return max(0, sums[_FAILED] - sums[_REVIVED]), sums[_WELL] + sums[_GONE]

    def _pages(self, command: str, queue: str, what: str) -> Iterator[dict[bytes, bytes]]:
        key, cursor = self._queues.keys(queue).key(what), 0
        while True:
            cursor, page = self._redis.command(command, key, cursor, "COUNT", FORGOTTEN_AT_ONCE)
            yield dict(pairs_of(page))
            cursor = int(cursor)
            if not cursor:
                break

    def _let_go(self, queue: str, names: list[bytes]) -> set[bytes]:
        let_go = set[bytes]()
        by_home: dict[str | None, list[Any]] = {}
        for name in names:
            group = group_in(name.decode(errors="replace"))
            home = None if group is None else self._queues.named(number_of(group.holder))
            by_home.setdefault(home, []).extend((name, 0 if group is None else group.holder))
        for home, pairs in by_home.items():
            gone = pairs[::2] if home is None else self._queues.call(self._scripts.let_go, home, pairs)
            if gone:
                self._sweeper.forget(queue, gone)
                let_go.update(gone)
        return let_go


def state_in(text: bytes | None) -> dict[str, Any] | None:
    """A group as its home has it; None where there is none, or something else."""
    try:
        state = orjson.loads(text or b"")
    except ValueError:
        return None
    return state if isinstance(state, dict) and isinstance(state.get("q"), dict) else None


def _totals_in(text: bytes | None) -> list[int]:
    numbers = [int(part) for part in (text or b"").split() if part.isdigit()]
    return [*numbers, *[0] * 6][:6]
