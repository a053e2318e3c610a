"""Finder: which jobs the form of the page of jobs asks for; its fields are those of its URL."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from neoq.dashboard.mask import Mask
from neoq.dashboard.request import Fields
from neoq.line import JobLine
from neoq.record import Status

TEXTS = ("queue", "status", "kind", "key", "since", "until", "time", "error")
TIMES = ("created", "due", "finished")
STATUSES = tuple(status.value for status in Status)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_HOW = "write a span such as 90s, 10m, 2h or 7d, or a time such as 2026-11-27T13:00"
_MOST_PATHS = 8


@dataclass(frozen=True)
class Finder:
    """The filters as they were written, and what is wrong with them, by field."""

    texts: dict[str, str] = field(default_factory=dict)
    payload: tuple[str, ...] = ()
    oldest: bool = False
    wrong: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Fields, mask: Mask) -> Finder:
        """The filters of a query or a form."""
        texts = {name: text for name in TEXTS if (text := fields.text(name)) is not None}
        payload = tuple(text for one in fields.all("payload") if (text := one.strip()))[:_MOST_PATHS]
        found = cls(texts, payload, fields.get("order") == "oldest")
        found.wrong.update(found.mistakes(mask))
        return found

    def mistakes(self, mask: Mask) -> dict[str, str]:
        """What cannot be read, and why, by field."""
        wrong: dict[str, str] = {}
        for name in ("since", "until"):
            if name in self.texts and _moment(self.texts[name]) is None:
                wrong[name] = f"This is no time; {_HOW}."
        if self.texts.get("status", "dead") not in STATUSES:
            wrong["status"] = "There is no such status."
        if self.texts.get("time", "due") not in TIMES:
            wrong["time"] = "There is no such time."
        for text in self.payload:
            path, equals, value = text.partition("=")
            if not equals or not all(path.split(".")):
                wrong["payload"] = "Write path=value, such as user.id=7."
            elif (why := mask.refusal_of(path, value)) is not None:
                wrong["payload"] = why
        return wrong

    @property
    def empty(self) -> bool:
        """Whether every job is wanted."""
        return not self.texts and not self.payload

    @property
    def narrow(self) -> bool:
        """Whether more is asked for than a queue and a status."""
        return bool(self.payload or self.texts.keys() - {"queue", "status"})

    @property
    def said(self) -> str | None:
        """What is wrong and stands at no field of the form."""
        return next(
            (self.wrong[name] for name in ("form", "store", "status", "time") if name in self.wrong), None
        )

    def pairs(self, **changes: str | None) -> list[tuple[str, str]]:
        """The fields of a URL that asks for the same, but for some that change; None leaves one out."""
        texts = {**self.texts, **({"order": "oldest"} if self.oldest else {}), **changes}
        pairs = [(name, text) for name, text in texts.items() if text is not None]
        return [*pairs, *(("payload", text) for text in self.payload)]

    def filters(self) -> dict[str, Any]:
        """The keywords of `Backend.jobs`."""
        filters: dict[str, Any] = dict(self.texts)
        for name in ("since", "until"):
            if name in filters:
                filters[name] = _moment(filters[name])
        if self.payload:
            filters["payload"] = dict(_path(text) for text in self.payload)
        return filters

    def frozen(self) -> Finder:
        """The same filters with points in time instead of spans: an hour later they mean the same jobs."""
        texts = dict(self.texts)
        for name in ("since", "until"):
            if name in texts and isinstance(span := _moment(texts[name]), timedelta):
                texts[name] = (datetime.now(UTC) - span).isoformat(timespec="seconds")
        return replace(self, texts=texts)

    def shows(self, mask: Mask, job: JobLine) -> bool:
        """Whether a job may be listed: not where the text that was searched for is hidden in its error."""
        return "error" not in self.texts or mask.finds(self.texts["error"], job.error)

    def command(self, verb: str) -> str:
        """The command line that asks for the same."""
        words = [word for name, text in self.texts.items() for word in (f"--{name}", text)]
        words += [word for text in self.payload for word in ("--payload", text)]
        if self.oldest and verb == "jobs":
            words.append("--oldest")
        return shlex.join(["neoq", verb, *words])

    def words(self) -> str:
        """The filters as people read them."""
        parts = [f"{name} {text}" for name, text in self.texts.items()]
        return ", ".join([*parts, *(f"payload {text}" for text in self.payload)]) or "all jobs"


def _moment(text: str) -> datetime | timedelta | None:
    """A point in time, UTC unless it says its zone, or a span ago; None for what is neither."""
    if span := _SPAN.fullmatch(text.strip().lower()):
        try:
            return timedelta(seconds=float(span[1]) * _SECONDS[span[2]])
        except OverflowError:
            return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _path(text: str) -> tuple[str, Any]:
    path, _, value = text.partition("=")
    try:
        return path, orjson.loads(value)
    except ValueError:
        return path, value
