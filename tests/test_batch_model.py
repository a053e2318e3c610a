"""The protocol by which a batch counts its members over several slots, or by notes, tried in every order.

These are models, not the stores: small machines of which every interleaving is visited, breadth first, with
kills, leases that run out under a living worker, and messages that come late or twice. The right protocol
has no bad end; each of the wrong ones has an example, which says why the stores do what they do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

Moves = Callable[[Any], Iterator[tuple[str, Any]]]


class Violation(Exception):
    """The callback was released early, a job ended twice, or a batch can never end."""


def explore(start: Any, moves: Moves, is_good: Callable[[Any], bool]) -> int:
    """Visit all that can happen, and return how many states there are; a Violation tells the way to it."""
    came_from: dict[Any, tuple[Any, str]] = {start: (None, "start")}
    before: dict[Any, list[Any]] = {}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        try:
            for name, after in moves(state):
                before.setdefault(after, []).append(state)
                if after not in came_from:
                    came_from[after] = state, name
                    todo.append(after)
        except Violation as violation:
            raise Violation(f"{violation}: {_way(came_from, state)}") from None
    hopeful = [state for state in came_from if is_good(state)]
    ends_well = set(hopeful)
    while hopeful:
        for state in before.get(hopeful.pop(), ()):
            if state not in ends_well:
                ends_well.add(state)
                hopeful.append(state)
    for state in came_from:
        if state not in ends_well:
            raise Violation(f"stuck: {_way(came_from, state)}")
    return len(came_from)


def _way(came_from: dict[Any, tuple[Any, str]], state: Any) -> str:
    names = []
    while state is not None:
        state, name = came_from[state]
        names.append(name)
    return " | ".join(reversed(names))


# Redis: the members' queues A and B and the callback's home each have their own slot. ------------------

QUEUES = ("A", "B")
CHILDREN = {"parent": ("c1", "c2")}  # what a member adds when it ends
QUEUE_OF = {"parent": "A", "a": "A", "b": "B", "c1": "B", "c2": "B"}


class Slot(NamedTuple):
    """What one slot knows of the batch. A script changes it at once."""

    producer: int = 0  # the latest that is known here: adds of earlier ones are refused
    sent: int = 0
    ended: int = 0
    ready: frozenset[tuple[str, int]] = frozenset()  # jobs, and their attempts
    leased: frozenset[tuple[str, int]] = frozenset()
    out: frozenset[tuple[str, ...]] = frozenset()  # children that are to be delivered
    took: frozenset[str] = frozenset()  # what was delivered: it is refused from then on
    known: frozenset[str] = frozenset()  # the fingerprints of the members
    to_tell: bool = False  # the totals were not yet told at home


class Home(NamedTuple):
    """What the slot of the callback knows."""

    producer: int = 0
    sealed: bool = False
    noted: frozenset[str] = frozenset()
    told: tuple[tuple[int, int], ...] = ((0, 0),) * len(QUEUES)
    released: bool = False


class Redis(NamedTuple):
    """All slots, and what each client is about to do: the calls that it has still to make."""

    slots: tuple[Slot, ...] = (Slot(), Slot())
    home: Home = Home()
    accepted: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    workers: tuple[tuple[Any, ...], ...] = ((), ())
    keeper: tuple[Any, ...] = ()
    producers: tuple[tuple[Any, ...], ...] = ()
    trouble: int = 0  # kills and lost leases still to come


class Order(NamedTuple):
    """The order of the calls; the defaults are right."""

    tell_first: bool = True  # tell what an end adds, then deliver it
    keeper_tells: bool = True  # a keeper that delivers for a worker that died tells first, too
    keep_took: bool = True  # what was delivered stays known after the outbox has forgotten it
    note_first: bool = True  # a queue is noted at home before the first add to it
    fence: bool = True  # a producer that takes over makes itself known in every noted queue
    totals_first: bool = True  # the totals of all queues are told before the seal


def redis_moves(order: Order, blocks: tuple[tuple[str, ...], ...]) -> Moves:
    """What may happen; ``blocks`` are the members that the first, second ... run of the block adds."""

    def moves(state: Redis) -> Iterator[tuple[str, Redis]]:
        yield from _claims(state)
        yield from _keeps(state, order)
        yield from _troubles(state)
        for n, todo in enumerate(state.workers):
            if todo:
                rest, after = _call(state, todo, order)
                workers = tuple(sorted((rest, state.workers[1 - n])))  # they are alike
                yield f"worker {todo[0]}", after._replace(workers=workers)
        if state.keeper:
            rest, after = _call(state, state.keeper, order)
            yield f"keeper {state.keeper[0]}", after._replace(keeper=rest)
        for n, todo in enumerate(state.producers):
            if todo:
                rest, after = _call(state, todo, order)
                yield f"producer {todo[0]}", after._replace(producers=_put(state.producers, n, rest))
        started = len(state.producers)  # a later run of the block begins while the earlier may go on
        if started < len(blocks) and (not started or state.trouble):
            todo = (("open", blocks[started]),)
            trouble = state.trouble - 1 if started else state.trouble
            yield "a producer starts", state._replace(producers=(*state.producers, todo), trouble=trouble)

    return moves


def _claims(state: Redis) -> Iterator[tuple[str, Redis]]:
    for place, slot in enumerate(state.slots):
        for job in slot.ready if () in state.workers else ():
            slots = _put(
                state.slots, place, slot._replace(ready=slot.ready - {job}, leased=slot.leased | {job})
            )
            other = next((todo for todo in state.workers if todo), ())
            workers = tuple(sorted((other, (("settle", place, job),))))
            yield f"claim {job}", state._replace(slots=slots, workers=workers)


def _keeps(state: Redis, order: Order) -> Iterator[tuple[str, Redis]]:
    for place, slot in enumerate(state.slots) if not state.keeper else ():
        tell = _tell(place, slot)
        if slot.to_tell:
            yield f"keeper reads totals of {QUEUES[place]}", state._replace(keeper=tell)
        for jobs in slot.out:
            todo = (*(tell if order.keeper_tells else ()), *_deliver(place, jobs, order))
            yield f"keeper reads {jobs}", state._replace(keeper=todo)


def _troubles(state: Redis) -> Iterator[tuple[str, Redis]]:
    held = {todo[0][2] for todo in state.workers if todo and todo[0][0] == "settle"}
    for place, slot in enumerate(state.slots):
        for job in slot.leased:
            dead = job not in held
            if dead or state.trouble:
                name, attempt = job
                back = slot._replace(leased=slot.leased - {job}, ready=slot.ready | {(name, attempt + 1)})
                after = state._replace(slots=_put(state.slots, place, back))
                yield f"lease of {job} ends", after if dead else after._replace(trouble=state.trouble - 1)
    if state.trouble:
        fewer = state._replace(trouble=state.trouble - 1)
        for n, todo in enumerate(state.workers):
            if todo:
                workers = tuple(sorted(((), state.workers[1 - n])))
                yield f"kill worker at {todo[0]}", fewer._replace(workers=workers)
        if state.keeper:
            yield "kill keeper", fewer._replace(keeper=())
        for n, todo in enumerate(state.producers):
            if todo:  # the loop is run again, as it was
                yield (
                    f"kill producer at {todo[0]}",
                    fewer._replace(producers=_put(state.producers, n, (("open", _block(todo)),))),
                )


def _block(todo: tuple[Any, ...]) -> tuple[str, ...]:
    block: tuple[str, ...] = todo[-1][1] if todo[-1][0] in {"open", "seal"} else ()
    return block


def _call(state: Redis, todo: tuple[Any, ...], order: Order) -> tuple[tuple[Any, ...], Redis]:
    """Make the next call of a client: what it has to do then, and what is stored then."""
    call, rest = todo[0], todo[1:]
    return _CALLS[call[0]](state, rest, order, *call[1:])


def _settle(
    state: Redis, rest: Any, order: Order, place: int, job: tuple[str, int]
) -> tuple[tuple[Any, ...], Redis]:
    slot, (name, _) = state.slots[place], job
    if job not in slot.leased:  # another has it by now
        return rest, state
    if name in state.ended:
        raise Violation(f"{name} ended twice")
    children = CHILDREN.get(name, ())
    slot = slot._replace(
        leased=slot.leased - {job},
        ended=slot.ended + 1,
        sent=slot.sent + len(children),
        out=slot.out | {children} if children else slot.out,
        to_tell=True,
    )
    state = state._replace(
        slots=_put(state.slots, place, slot),
        ended=state.ended | {name},
        accepted=state.accepted | set(children),
    )
    tell, deliver = _tell(place, slot), _deliver(place, children, order) if children else ()
    return ((*tell, *deliver) if order.tell_first else (*deliver, *tell)), state


def _tell(place: int, slot: Slot) -> tuple[Any, ...]:
    totals = slot.sent, slot.ended
    return ("tell", place, totals), ("told", place, totals)


def _deliver(place: int, jobs: tuple[str, ...], order: Order) -> tuple[Any, ...]:
    calls = (("deliver", jobs), ("forget", place, jobs))
    return calls if order.keep_took else (*calls, ("untake", jobs))


def _take(state: Redis, rest: Any, _: Order, jobs: tuple[str, ...]) -> tuple[tuple[Any, ...], Redis]:
    place = QUEUES.index(QUEUE_OF[jobs[0]])
    slot = state.slots[place]
    if jobs[0] in slot.took:
        return rest, state
    ready = slot.ready | {(job, 0) for job in jobs}
    slot = slot._replace(took=slot.took | {jobs[0]}, ready=ready)
    return rest, state._replace(slots=_put(state.slots, place, slot))


def _forget(
    state: Redis, rest: Any, _: Order, place: int, jobs: tuple[str, ...]
) -> tuple[tuple[Any, ...], Redis]:
    slot = state.slots[place]
    return rest, state._replace(slots=_put(state.slots, place, slot._replace(out=slot.out - {jobs})))


def _untake(state: Redis, rest: Any, _: Order, jobs: tuple[str, ...]) -> tuple[tuple[Any, ...], Redis]:
    place = QUEUES.index(QUEUE_OF[jobs[0]])
    slot = state.slots[place]
    return rest, state._replace(slots=_put(state.slots, place, slot._replace(took=slot.took - {jobs[0]})))


def _count(
    state: Redis, rest: Any, _: Order, place: int, totals: tuple[int, int]
) -> tuple[tuple[Any, ...], Redis]:
    old = state.home.told[place]
    merged = max(old[0], totals[0]), max(old[1], totals[1])
    home = state.home._replace(told=_put(state.home.told, place, merged))
    return rest, _release(state._replace(home=home))


def _told(
    state: Redis, rest: Any, _: Order, place: int, totals: tuple[int, int]
) -> tuple[tuple[Any, ...], Redis]:
    slot = state.slots[place]
    if (slot.sent, slot.ended) == totals:
        state = state._replace(slots=_put(state.slots, place, slot._replace(to_tell=False)))
    return rest, state


def _open(state: Redis, _: Any, order: Order, block: tuple[str, ...]) -> tuple[tuple[Any, ...], Redis]:
    if state.home.released:  # by an earlier run: this one would be another batch
        return (), state
    me = state.home.producer + 1
    home = state.home._replace(producer=me, sealed=False)
    calls: list[Any] = [("fence", QUEUES.index(queue), me) for queue in sorted(home.noted)]
    for job in block:
        note, add = ("note", QUEUE_OF[job], me), ("add", job, me)
        calls += [note, add] if order.note_first else [add, note]
    return (*calls, ("seal", block, me, ())), state._replace(home=home)


def _note(state: Redis, rest: Any, _: Order, queue: str, me: int) -> tuple[tuple[Any, ...], Redis]:
    if state.home.producer != me or state.home.sealed:
        return (), state
    return rest, state._replace(home=state.home._replace(noted=state.home.noted | {queue}))


def _fence(state: Redis, rest: Any, order: Order, place: int, me: int) -> tuple[tuple[Any, ...], Redis]:
    slot = state.slots[place]
    if order.fence:
        if slot.producer > me:
            return (), state
        slot = slot._replace(producer=me)
    return _with_totals(rest, place, slot), state._replace(slots=_put(state.slots, place, slot))


def _add(state: Redis, rest: Any, order: Order, job: str, me: int) -> tuple[tuple[Any, ...], Redis]:
    place = QUEUES.index(QUEUE_OF[job])
    slot = state.slots[place]
    if slot.producer > me:
        return (), state
    slot = slot._replace(producer=me) if order.fence else slot
    if job not in slot.known:
        if state.home.released:
            raise Violation(f"{job} was added after the release")
        slot = slot._replace(known=slot.known | {job}, sent=slot.sent + 1, ready=slot.ready | {(job, 0)})
        state = state._replace(accepted=state.accepted | {job})
    return _with_totals(rest, place, slot), state._replace(slots=_put(state.slots, place, slot))


def _with_totals(rest: Any, place: int, slot: Slot) -> tuple[Any, ...]:
    """What a producer has still to do, with the totals that its last call to each queue has returned."""
    name, block, me, totals = rest[-1]
    kept = tuple(told for told in totals if told[0] != place)
    return (*rest[:-1], (name, block, me, tuple(sorted((*kept, (place, (slot.sent, slot.ended)))))))


def _seal(
    state: Redis, _: Any, order: Order, block: tuple[str, ...], me: int, totals: tuple[Any, ...]
) -> tuple[tuple[Any, ...], Redis]:
    if totals and order.totals_first:
        (place, told), *others = totals
        return _count(state, (("seal", block, me, tuple(others)),), order, place, told)
    if state.home.producer != me:
        return (), state
    return (), _release(state._replace(home=state.home._replace(sealed=True)))


def _release(state: Redis) -> Redis:
    home = state.home
    balanced = sum(sent for sent, _ in home.told) == sum(ended for _, ended in home.told)
    if home.released or not home.sealed or not balanced:
        return state
    if state.accepted != state.ended:
        raise Violation(f"released before {sorted(state.accepted - state.ended)} ended")
    return state._replace(home=home._replace(released=True))


def _put(things: tuple[Any, ...], place: int, thing: Any) -> tuple[Any, ...]:
    return (*things[:place], thing, *things[place + 1 :])


_CALLS: dict[str, Callable[..., tuple[tuple[Any, ...], Redis]]] = {
    "settle": _settle,
    "tell": _count,
    "told": _told,
    "deliver": _take,
    "forget": _forget,
    "untake": _untake,
    "open": _open,
    "note": _note,
    "fence": _fence,
    "add": _add,
    "seal": _seal,
}


def visit_redis(order: Order, *blocks: tuple[str, ...], trouble: int) -> int:
    """Visit all that can happen to a batch whose block is run in these ways."""
    return explore(Redis(trouble=trouble), redis_moves(order, blocks), lambda state: state.home.released)


RIGHT = Order()


@pytest.mark.parametrize(
    "blocks",
    [(("a", "b"),), (("a",), ("b",)), (("b",), ()), (("parent",),)],
    ids=["two queues", "taken over", "taken over, with nothing more", "a member adds"],
)
def test_the_order_of_redis_releases_the_callback_once_and_never_early(
    blocks: tuple[tuple[str, ...], ...],
) -> None:
    """Whatever is killed, late or sent twice, the callback is released once, after the last end."""
    assert visit_redis(RIGHT, *blocks, trouble=1) > 500


@pytest.mark.parametrize(
    ("order", "blocks", "trouble", "what"),
    [
        (RIGHT._replace(tell_first=False), (("parent",),), 0, "released before"),
        (RIGHT._replace(keeper_tells=False), (("parent",),), 1, "released before"),
        (RIGHT._replace(keep_took=False), (("parent",),), 0, "ended twice"),
        (RIGHT._replace(note_first=False), (("a",), ("b",)), 1, "released before"),
        (RIGHT._replace(fence=False), (("a", "b"), ("a",)), 1, "released before|after the release"),
        (RIGHT._replace(totals_first=False), (("a", "b"),), 0, "released before"),
    ],
    ids=[
        "delivered before told",
        "a keeper delivers untold",
        "forgotten that it was delivered",
        "noted after the add",
        "an earlier producer still adds",
        "sealed before the totals are told",
    ],
)
def test_other_orders_have_a_counterexample(
    order: Order, blocks: tuple[tuple[str, ...], ...], trouble: int, what: str
) -> None:
    """Each part of the order is needed: without it the callback comes early, or a member runs twice."""
    with pytest.raises(Violation, match=what):
        visit_redis(order, *blocks, trouble=trouble)


# Postgres: what is added and what ends is noted, and folded into the batch's counts by claims. ---------


class Note(NamedTuple):
    """A row of the notes, in the order of their ids; others see it once it is committed."""

    sent: int = 0
    ended: int = 0
    seal: bool = False
    by: str = ""  # whose transaction it is in, until that commits


class Postgres(NamedTuple):
    """The notes, the batch's row, and who has which transaction open."""

    notes: tuple[Note, ...] = ()
    counts: tuple[int, int, bool] = (0, 0, False)  # sent, ended, sealed
    ready: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    to_add: tuple[str, ...] = ()
    adds: bool = False  # the producer has a transaction open
    is_over: bool = False  # the seal is committed
    settles: frozenset[str] = frozenset()  # jobs with a transaction open that settles them
    folds: tuple[tuple[Note, ...], ...] = ((), ())  # what two claims have read, locked
    released: bool = False
    trouble: int = 0  # kills to come


def postgres_moves(most: int, *, one_lock: bool = True, in_order: bool = True) -> Moves:
    """What may happen; a fold takes so many notes at most."""

    def moves(state: Postgres) -> Iterator[tuple[str, Postgres]]:
        yield from _produces(state)
        yield from _settles(state)
        for n, taken in enumerate(state.folds):
            if taken:
                yield f"fold {n} commits", _fold(state, n)
                if state.trouble:
                    folds = _put(state.folds, n, ())
                    yield f"kill fold {n}", state._replace(folds=folds, trouble=state.trouble - 1)
            elif not (one_lock and state.folds[1 - n]):
                seen = [note for note in state.notes if not note.by]
                for note in state.folds[1 - n]:  # skip locked
                    if note in seen:
                        seen.remove(note)
                notes = tuple(seen if in_order else reversed(seen))[:most]
                if notes:
                    yield f"fold {n} reads", state._replace(folds=_put(state.folds, n, notes))

    return moves


def _produces(state: Postgres) -> Iterator[tuple[str, Postgres]]:
    if state.is_over:
        return
    if not state.adds:
        note = Note(sent=1, by="producer") if state.to_add else Note(seal=True, by="producer")
        yield "producer notes", state._replace(notes=(*state.notes, note), adds=True)
        return
    after = state._replace(notes=_committed(state.notes, "producer"), adds=False)
    if state.to_add:
        job, *others = state.to_add
        yield f"add {job}", after._replace(to_add=tuple(others), ready=state.ready | {job})
    else:
        yield "seal", after._replace(is_over=True)
    if state.trouble:
        yield (
            "kill producer",
            state._replace(
                notes=_rolled_back(state.notes, "producer"), adds=False, trouble=state.trouble - 1
            ),
        )


def _settles(state: Postgres) -> Iterator[tuple[str, Postgres]]:
    for job in sorted(state.ready):
        children = CHILDREN.get(job, ())
        if job not in state.settles:
            if len(state.settles) < 2:  # two workers
                note = Note(sent=len(children), ended=1, by=job)
                yield (
                    f"settle {job}",
                    state._replace(notes=(*state.notes, note), settles=state.settles | {job}),
                )
            continue
        closed = state._replace(settles=state.settles - {job})
        yield (
            f"{job} ended",
            closed._replace(
                notes=_committed(state.notes, job),
                ready=state.ready - {job} | set(children),
                ended=state.ended | {job},
            ),
        )
        if state.trouble:
            notes = _rolled_back(state.notes, job)
            yield f"kill {job}", closed._replace(notes=notes, trouble=state.trouble - 1)


def _committed(notes: tuple[Note, ...], by: str) -> tuple[Note, ...]:
    return tuple(note._replace(by="") if note.by == by else note for note in notes)


def _rolled_back(notes: tuple[Note, ...], by: str) -> tuple[Note, ...]:
    return tuple(note for note in notes if note.by != by)


def _fold(state: Postgres, n: int) -> Postgres:
    sent, ended, sealed = state.counts
    notes = list(state.notes)
    for note in state.folds[n]:
        notes.remove(note)
        sent, ended, sealed = sent + note.sent, ended + note.ended, sealed or note.seal
    state = state._replace(notes=tuple(notes), counts=(sent, ended, sealed), folds=_put(state.folds, n, ()))
    if state.released or not sealed or sent != ended:
        return state
    if state.ready or state.to_add:
        raise Violation(f"released before {sorted(state.ready)} ended")
    return state._replace(released=True)


def visit_postgres(moves: Moves, *, trouble: int = 1) -> int:
    """Visit all that can happen to a batch of one member, which adds two."""
    start = Postgres(to_add=("parent",), trouble=trouble)
    return explore(start, moves, lambda state: state.released and not state.notes)


@pytest.mark.parametrize("most", [1, 2])
def test_notes_folded_in_their_order_under_one_lock_release_the_callback_once(most: int) -> None:
    """However few notes a claim folds, and whoever is killed, the callback is released after the last end."""
    assert visit_postgres(postgres_moves(most)) > 500


@pytest.mark.parametrize(
    ("one_lock", "in_order"), [(False, True), (True, False)], ids=["skip locked", "in any order"]
)
def test_notes_folded_otherwise_have_a_counterexample(*, one_lock: bool, in_order: bool) -> None:
    """Where the end of a child may be counted before its parent's note, the callback comes early."""
    with pytest.raises(Violation, match="released before"):
        visit_postgres(postgres_moves(1, one_lock=one_lock, in_order=in_order), trouble=0)
