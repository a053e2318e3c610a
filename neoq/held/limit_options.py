"""The limits of a queue as a program gives them: keywords of ``listen`` and ``limit``, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict

from neoq.checks import checked_span
from neoq.errors import InvalidJobError
from neoq.held.limits import Limits, OnDead, Rate

_MOST = 2**31 - 1
NO_LIMITS = Limits()


class LimitOptions(TypedDict, total=False):
    """The limits of a queue, over all processes.

    ``ordered``: of one key one job after another, in their order; ``on_dead`` says whether a dead one holds
    its line. ``per_key`` and ``max_running`` are jobs at once, of a key and of the queue; ``rate`` and
    ``rate_per_key`` are starts. ``aging`` is the time of waiting that counts as one level of priority.
    """

    ordered: bool
    on_dead: OnDead
    per_key: int | None
    max_running: int | None
    rate: Rate | None
    rate_per_key: Rate | None
    aging: timedelta | float | None


def names_limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some keywords that are limits."""
    return {name: options[name] for name in LimitOptions.__annotations__ if name in options}


def refuse_unknown_limits(options: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that is no limit."""
    unknown = options.keys() - LimitOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(LimitOptions.__annotations__)
        raise TypeError(f"limit() does not know {', '.join(sorted(unknown))}; there are {known}")


def limits_of(options: Mapping[str, Any], queue: str, before: Limits = NO_LIMITS) -> Limits | None:
    """The limits that keywords describe, with those of before where they say nothing; None for none."""
    given = dict(options)
    if "on_dead" in given:
        on_dead = given.pop("on_dead")
        if on_dead not in {"hold", "go on"}:
            raise InvalidJobError(f'on_dead is {on_dead!r:.80}; it takes "hold" or "go on"', queue=queue)
        given["hold_dead"] = on_dead == "hold"
    if given.get("aging") is not None:
        given["aging"] = checked_span("aging", given["aging"])
    limits = before._replace(**given)
    _check(limits, queue)
    if "hold_dead" in given and not limits.ordered:
        raise InvalidJobError("on_dead is for ordered queues: give ordered=True, too", queue=queue)
    return None if limits == NO_LIMITS else limits


def _check(limits: Limits, queue: str) -> None:
    if not isinstance(limits.ordered, bool):
        raise InvalidJobError(f"ordered is {limits.ordered!r:.80}; it takes True or False", queue=queue)
    for name in ("per_key", "max_running"):
        value = getattr(limits, name)
        if value is not None and (type(value) is not int or not 1 <= value <= _MOST):
            raise InvalidJobError(f"{name} is {value!r:.80}; it takes an int >= 1, or None", queue=queue)
    if limits.ordered and limits.per_key not in {None, 1}:
        raise InvalidJobError(
            f"per_key={limits.per_key} contradicts ordered=True, which runs one job of a key at a time",
            queue=queue,
        )
    for name in ("rate", "rate_per_key"):
        value = getattr(limits, name)
        if value is not None and not isinstance(value, Rate):
            raise InvalidJobError(
                f"{name} is {value!r:.80}; it takes neoq.Rate(100, per=60), or None", queue=queue
            )


def features_for(limits: Limits) -> set[str]:
    """What a store has to offer for limits."""
    needed = {"limits"} if limits.by_key else set()
    return (
        needed | {"rates"} if limits != Limits(limits.per_key, limits.ordered, limits.hold_dead) else needed
    )


def words_for(limits: Limits | None) -> str:
    """Limits as the keywords that give them."""
    if limits is None:
        return "none"
    told = [f"{name}={value!r}" for name, value in limits._asdict().items() if value not in {None, False}]
    return ", ".join(one for one in told if not one.startswith("hold_dead")) + (
        ', on_dead="go on"' if limits.ordered and not limits.hold_dead else ""
    )
