"""Config: every setting, its default and its range, from keywords, a URL or the environment."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

from neoq.errors import ConfigError, InvalidJobError
from neoq.wording.redact import Hider, Secret, Url, secrets_of
from neoq.wording.safe_logger import SafeLogger

if TYPE_CHECKING:
    from neoq.codec.codec import Codec
    from neoq.job import Job
    from neoq.record import Unique


OnError = Callable[["Job", BaseException], object]

_YEAR, _MOST = 366 * 86400.0, 2**31 - 1
_ENV_PREFIX = "NEOQ_"
_NOT_SETTINGS = ("NEOQ_URL", "NEOQ_APP", "NEOQ_WORKER_", "NEOQ_RUNTIME_DIR", "NEOQ_TEST_")  # read elsewhere
_MOST_TOLD = 10  # unknown settings that an error lists: guessing what each one meant takes time
_LONGEST_NAME = 60  # characters of an unknown name that an error shows
UNTIL_STARTED = "until_started"
_NONE_WORDS = frozenset({"none", "null", ""})


@dataclass(frozen=True)
class Kind:
    """The values of a setting: their type, their range, and whether None (no limit) is allowed."""

    words: str
    parse: Callable[[Any], Any]
    low: float = -math.inf
    high: float = math.inf
    none: bool = False
    secret: bool = False  # an error never shows the value

    def read(self, value: Any) -> Any:
        """Convert a value to what the setting holds. Raises ValueError for a wrong one."""
        if value is None or (isinstance(value, str) and value.lower() in _NONE_WORDS):
            if self.none:
                return None
            raise ValueError(self.words)
        parsed = self.parse(value)
        if isinstance(parsed, (int, float)) and not self.low <= parsed <= self.high:
            raise ValueError(self.words)
        return parsed


def _span(value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(value)
    return int(value)


def flag_in(text: str) -> bool:
    """What a text such as 1, yes or off says; KeyError for what is no such word."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    return words[text.lower()]


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else flag_in(value)


def _unique(value: Any) -> bool | str:
    if isinstance(value, str) and value.lower() == UNTIL_STARTED:
        return UNTIL_STARTED
    return _flag(value)


def _zone(value: Any) -> str:
    if value != "UTC":
        from zoneinfo import ZoneInfo  # on demand: most programs use UTC

        ZoneInfo(value)
    return str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _function(value: Any) -> Any:
    if not callable(value):
        raise ValueError(value)
    return value


def _logger(value: Any) -> logging.Logger | logging.LoggerAdapter[Any]:
    if isinstance(value, str):
        return logging.getLogger(value)
    if not isinstance(value, (logging.Logger, logging.LoggerAdapter)):
        raise ValueError(value)
    return value


def _codec(value: Any) -> Any:
    if isinstance(value, str) or not all(hasattr(value, name) for name in ("encode", "fingerprint")):
        raise ValueError(value)
    return value


def span(low: float, high: float = _YEAR, *, none: bool = False) -> Kind:
    """A setting in seconds (or a timedelta) from ``low`` to ``high``."""
    words = f"seconds (or a timedelta) {_range(low, high, _YEAR)}{', or None' if none else ''}"
    return Kind(words, _span, low, high, none)


def count(low: int, high: int = _MOST, *, none: bool = False) -> Kind:
    """A setting that is a whole number from ``low`` to ``high``."""
    words = f"a whole number {_range(low, high, _MOST)}{', or None' if none else ''}"
    return Kind(words, _count, low, high, none)


def _range(low: float, high: float, most: float) -> str:
    return f">= {low:g}" if high == most else f"from {low:g} to {high:g}"


def url_kind(words: str) -> Kind:
    """A setting that is a URL, whose password is never shown."""
    return Kind(words, lambda value: Url(_text(value).strip()), secret=True)


TEXT = Kind("a string", _text)
OPTIONAL_TEXT = Kind("a string, or None", _text, none=True)
SECRET = Kind("a string, or None", lambda value: Secret(_text(value)), none=True, secret=True)
FLAG = Kind("True or False (in a URL or the environment 1 or 0)", _flag)


def setting(default: Any, kind: Kind, doc: str) -> Any:
    """A field of a Config: its default, its values, and its meaning."""
    metadata = {"kind": kind, "doc": doc}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _default_concurrency() -> int:
    return min(32, (os.cpu_count() or 1) + 4)


class Settings(TypedDict, total=False):
    """The settings of every backend as typed keywords; `Config` says what each one means."""

    job_check_interval: timedelta | float
    future_job_window: timedelta | float
    queue_capacity: int | None
    enqueue_timeout: timedelta | float | None
    concurrency: int
    timeout: timedelta | float | None
    max_running: int | None
    max_retries: int
    max_abandoned: int
    shutdown_timeout: timedelta | float
    lease: timedelta | float
    heartbeat: timedelta | float
    max_crashes: int
    retention: timedelta | float | None
    max_finished: int | None
    max_dead: int | None
    max_payload: int
    unique: Unique
    timezone: str
    autostart: bool | None
    on_error: OnError | None
    logger: str | logging.Logger | logging.LoggerAdapter[Any]
    codec: Codec | None


@dataclass(frozen=True)
class Config:
    """The settings of a backend. They are immutable, and spans are in seconds.

    Give them as keywords to a backend, as query parameters of its URL, or as ``NEOQ_*`` variables. Keywords
    override the URL, and the URL overrides the variables. Raises ConfigError with every problem found.
    """

    of_others: ClassVar[Mapping[str, str]] = {}  # settings of other tools, and what to write instead

    job_check_interval: float = setting(
        1.0, span(0.001, 3600), "How often the scheduler looks for future jobs that enter the window."
    )
    future_job_window: float = setting(
        30.0, span(0.0, 86400), "How long before its run_after a job is promoted to a timer."
    )
    queue_capacity: int | None = setting(
        None, count(1, none=True), "Ready jobs a queue holds before its producers wait; None: no bound."
    )
    enqueue_timeout: float | None = setting(
        10.0, span(0.0, none=True), "How long a producer waits for room; None: as long as it takes."
    )
    concurrency: int = setting(_default_concurrency, count(1, 10_000), "Runner threads of a queue, at most.")
    max_running: int | None = setting(
        None, count(1, none=True), "Jobs that one process runs at once, over all its queues; None: no bound."
    )
    timeout: float | None = setting(
        600.0, span(0.001, none=True), "How long an attempt may run; None: for ever."
    )
    max_retries: int = setting(23, count(0), "Retries after the first attempt, before a job is dead.")
    max_abandoned: int = setting(100, count(1), "Abandoned threads of a queue at which it stops claiming.")
    shutdown_timeout: float = setting(30.0, span(0.0), "How long shutdown waits for running jobs.")
    lease: float = setting(30.0, span(0.1, 86400), "Durable backends: how long a lease lasts unrenewed.")
    heartbeat: float = setting(5.0, span(0.01, 3600), "Durable backends: how often a lease is renewed.")
    max_crashes: int = setting(
        3, count(1), "Durable backends: deaths of its worker after which a job is dead."
    )
    retention: float | None = setting(
        86400.0, span(0.0, none=True), "How long finished jobs can be looked up; None: for ever."
    )
    max_finished: int | None = setting(
        None, count(0, none=True), "Finished jobs that can be looked up; None: no bound."
    )
    max_dead: int | None = setting(
        None, count(1, none=True), "Dead jobs kept; the oldest goes, with a warning. None: no bound."
    )
    max_payload: int = setting(
        2**20,
        count(2),
        "Bytes that a payload or a result may have as JSON, and meta or a report of progress.",
    )
    unique: Unique = setting(
        True,
        Kind('True, False or "until_started" (in a URL or the environment 1, 0 or until_started)', _unique),
        "How long a job is unique by default: until it has finished, not at all, or until it starts.",
    )
    timezone: str = setting("UTC", Kind("a timezone such as Europe/Paris", _zone), "Timezone of cron specs.")
    autostart: bool | None = setting(
        None,
        Kind(f"{FLAG.words}, or None", FLAG.parse, none=True),
        "Whether listening starts the runners; if not, start() does. None: in memory only.",
    )
    on_error: OnError | None = setting(
        None,
        Kind("a function of job and exception, or None", _function, none=True),
        "Called after each failed attempt.",
    )
    logger: logging.Logger | logging.LoggerAdapter[Any] = setting(
        lambda: logging.getLogger("neoq"), Kind("a logging.Logger or its name", _logger), "Where neoq logs."
    )
    codec: Codec | None = setting(
        None, Kind("a neoq.Codec, or None", _codec, none=True), "Compresses and encrypts what jobs carry."
    )

    def __post_init__(self) -> None:
        problems = []
        for spec in fields(self):
            kind: Kind = spec.metadata["kind"]
            value = getattr(self, spec.name)
            try:
                object.__setattr__(self, spec.name, kind.read(value))
            except (ValueError, TypeError, KeyError, AttributeError, OSError, OverflowError):
                shown = f"a {type(value).__name__}" if kind.secret else repr(value)
                problems.append(f"{spec.name} is {shown}; it takes {kind.words}")
        if not problems:
            problems = self._contradictions()
        if problems:
            raise ConfigError([self._hider().text(problem) for problem in problems])

    def _hider(self) -> Hider:
        """A Hider of the secrets in these settings."""
        values = [getattr(self, spec.name) for spec in fields(self) if spec.metadata["kind"].secret]
        texts = [value for value in values if isinstance(value, str)]
        found = [secret for text in texts if not isinstance(text, Secret) for secret in secrets_of(text)]
        return Hider([*found, *(text for text in texts if isinstance(text, Secret))])

    def _contradictions(self) -> list[str]:
        if self.heartbeat * 2 > self.lease:
            return [
                f"heartbeat is {self.heartbeat:g} s, lease {self.lease:g} s; lease must be >= 2 * heartbeat"
            ]
        return []

    @classmethod
    def load(
        cls,
        options: Mapping[str, Any],
        url_options: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Make a Config from keywords, then URL parameters, then ``NEOQ_*`` variables, then the defaults.

        The variables come from the environment of the process, unless ``environ`` is given.

        Raises ConfigError for a key that this backend does not know, or a value out of range.
        """
        known = {spec.name for spec in fields(cls)}
        url_options = url_options or {}
        environ = os.environ if environ is None else environ
        unknown = [name for name in (*options, *url_options) if name not in known]
        problems = [_unknown(name, known, cls) for name in unknown[:_MOST_TOLD]]
        if len(unknown) > _MOST_TOLD:
            problems.append(f"{len(unknown) - _MOST_TOLD:,} more are not settings of {cls.__name__}")
        problems += _misspelt_variables(environ, known, cls)
        given = {
            **{name: environ[variable] for name in known if environ.get(variable := _variable(name))},
            **{name: value for name, value in url_options.items() if name in known},
            **{name: value for name, value in options.items() if name in known},
        }
        try:
            config = cls(**given)
        except ConfigError as error:
            sources = {
                _variable(name): name for name in given if name not in options and name not in url_options
            }
            problems += [_with_source(problem, sources) for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return config

    @property
    def log(self) -> SafeLogger:
        """The logger, wrapped so that a failing log handler cannot fail a job."""
        return SafeLogger(self.logger)

    def replace(self, settings: Mapping[str, Any], queue: str) -> Self:
        """A copy with the settings of one queue. Raises InvalidJobError if one of them is wrong."""
        if not settings:
            return self
        for name, value in settings.items():
            if isinstance(value, str) and value != UNTIL_STARTED:  # only a URL or a variable holds strings
                takes = next((spec.metadata["kind"].words for spec in fields(self) if spec.name == name), "")
                shown = name.replace("queue_capacity", "capacity")
                problem = f"{shown} is {value!r}, a str{f'; it takes {takes}' if takes else ''}"
                raise InvalidJobError(f"listen({queue!r}): {problem}", queue=queue)
        try:
            return dataclasses.replace(self, **settings)
        except ConfigError as error:
            problems = str(error).replace("queue_capacity", "capacity")
            raise InvalidJobError(f"listen({queue!r}): {problems}", queue=queue) from None

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {
            spec.name: value for spec in fields(self) if (value := getattr(self, spec.name)) != _default(spec)
        }


def query_of(query: str) -> dict[str, str]:
    """The settings in the query of a URL. A + means +. Raises ConfigError if one is given twice."""
    from urllib.parse import parse_qsl

    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    refuse_twice(name for name, _ in pairs)
    return dict(pairs)


def refuse_twice(names: Iterable[str]) -> None:
    """Refuse a query that gives a setting twice: neither value is better than the other."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ConfigError(
            [f"{name[:_LONGEST_NAME]} is given twice in the URL; remove one" for name in twice[:_MOST_TOLD]]
        )


def _default(spec: Field[Any]) -> Any:
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def _with_source(problem: str, variables: Mapping[str, str]) -> str:
    """The problem, with the setting's name replaced by the variable that the value came from."""
    for variable, name in variables.items():
        if problem.startswith(f"{name} is "):
            return variable + problem.removeprefix(name)
    return problem


def _variable(name: str) -> str:
    return _ENV_PREFIX + name.upper()


def _unknown(name: str, known: set[str], cls: type[Config]) -> str:
    if remedy := cls.of_others.get(name.lower() if isinstance(name, str) else name):
        return f"{name} is not a setting of {cls.__name__}; {remedy}"
    name = str(name)[:_LONGEST_NAME]
    shown = name if name.isprintable() and name else repr(name)
    return f"{shown} is not a setting of {cls.__name__}{_did_you_mean(name, known)}"


def _did_you_mean(name: str, known: set[str]) -> str:
    from neoq.wording.remedies import nearest  # where something is refused, and no sooner

    near = nearest(name, known)
    return f"; did you mean {near}?" if near else f"; the settings are {', '.join(sorted(known))}"


def _misspelt_variables(environ: Mapping[str, str], known: set[str], cls: type[Config]) -> list[str]:
    """Problems with NEOQ_* variables that look like a misspelt setting.

    Other unknown variables may belong to another backend.
    """
    strange = [
        name
        for name in environ
        if name.startswith(_ENV_PREFIX)
        and not name.startswith(_NOT_SETTINGS)
        and name[len(_ENV_PREFIX) :].lower() not in known
    ]
    if not strange:
        return []
    strange = [name for name in strange if len(name) <= _LONGEST_NAME][:_MOST_TOLD]
    from neoq.wording.remedies import nearest

    variables = [_variable(name) for name in known]
    near = {name: nearest(name, variables, 0.8) for name in strange}
    return [
        f"the variable {name} is not a setting of {cls.__name__}; did you mean {match}?"
        for name, match in near.items()
        if match
    ]
