"""Advice for error messages: what to write instead of other libraries' words and of values without JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SPAN = "write run_after=60 (seconds), or a timedelta"
_POINT = "write run_after=..., an aware datetime such as datetime.now(timezone.utc) + timedelta(hours=1)"
_TIMEOUT = "write timeout=...: seconds or a timedelta, for each attempt of this job"
_RETRIES = (
    "write max_retries=3; the delays between them are listen(queue, handler, retry=neoq.RetryPolicy(...))"
)
_CHAIN = "there are no chains: enqueue the next job at the end of the first one's handler"
_LISTEN = "it is an option of listen: listen(queue, handler, {}=...)"
_ENQUEUE = "it is an option of enqueue: enqueue(queue, payload, {}=...)"
_CRON = 'for a periodic job write listen_cron("@every 5m", handler)'

_OF_ENQUEUE: dict[str, str | None] = {
    **dict.fromkeys(
        "countdown delay in_ wait queue_in enqueue_in run_in defer defer_by after seconds".split(), _SPAN
    ),
    **dict.fromkeys(
        """eta at run_at start_at scheduled_at scheduled_for schedule_at schedule when enqueue_at queue_at
        defer_until not_before execute_at""".split(),
        _POINT,
    ),
    **dict.fromkeys(
        "job_timeout time_limit soft_time_limit max_runtime timeout_ms ttr timelimit".split(),
        _TIMEOUT,
    ),
    **dict.fromkeys(
        "expires expires_in expires_at expire expiry ttl max_age valid_until".split(),
        "write deadline=...: seconds, a timedelta or an aware datetime",
    ),
    **dict.fromkeys(
        "retry retries max_attempts attempts max_tries tries autoretry_for retry_limit".split(), _RETRIES
    ),
    **dict.fromkeys(
        "retry_policy backoff retry_backoff retry_delay retry_jitter min_backoff max_backoff".split(),
        "the retry policy belongs to the queue: listen(queue, handler, retry=neoq.RetryPolicy(...))",
    ),
    **dict.fromkeys(
        """depends_on depends dependencies link link_error chain chord callback on_success parent after_job
        pipe_target then""".split(),
        _CHAIN,
    ),
    **dict.fromkeys(
        "job_id task_id id unique_id unique_key dedupe_key idempotency_key queueing_lock lock".split(),
        "write uid=... for a name of your own, or fingerprint=... to say what makes it unique; "
        "the store chooses the id",
    ),
    **dict.fromkeys(
        "result_ttl failure_ttl keep_result result_expires".split(),
        "how long finished jobs are kept is a setting of the backend: retention=3600",
    ),
    **dict.fromkeys(
        "connection conn session using cursor db".split(), "write transaction=..., your connection"
    ),
    **dict.fromkeys("tags labels headers description metadata".split(), 'write meta={"name": "text"}'),
    **dict.fromkeys("cron crontab repeat every interval period".split(), _CRON),
    **dict.fromkeys("on_error on_failure concurrency capacity".split(), None),
    **dict.fromkeys(
        "args kwargs task_args task_kwargs data body message params".split(),
        'arguments for the handler go into the payload, a dict: enqueue(queue, {"name": ...})',
    ),
    **dict.fromkeys("queue_name topic routing_key task func".split(), "the queue is the first argument"),
    "transaction": "it is an option of enqueue, not of Job: enqueue(job, transaction=connection)",
    "prio": "write priority=..., from -100 to 100; the larger goes first",
}
_OF_LISTEN: dict[str, str | None] = {
    **dict.fromkeys(
        "workers threads max_workers num_workers worker_count processes parallelism max_jobs runners".split(),
        "write concurrency=4",
    ),
    **dict.fromkeys("retries max_attempts attempts max_tries retry_limit".split(), "write max_retries=3"),
    **dict.fromkeys(
        "retry_policy backoff retry_backoff retry_delay".split(), "write retry=neoq.RetryPolicy(...)"
    ),
    **dict.fromkeys("time_limit soft_time_limit job_timeout max_runtime".split(), "write timeout=60"),
    **dict.fromkeys("queue_capacity maxsize max_size queue_size".split(), "write capacity=1000"),
    **dict.fromkeys("on_failure error_handler exception_handler on_exception".split(), "write on_error=..."),
    **dict.fromkeys(
        "name queue_name topic".split(), 'the queue is the first argument: listen("emails", handler)'
    ),
    **dict.fromkeys("run_after priority deadline fingerprint on_duplicate key meta".split(), None),
    **dict.fromkeys("cron crontab schedule every interval".split(), _CRON),
    **dict.fromkeys("tz zone zoneinfo".split(), 'write timezone="Europe/Berlin"'),
    **dict.fromkeys("catchup misfire_grace_time coalesce".split(), "write catch_up=True"),
}


def of_enqueue(name: str, known: Iterable[str]) -> str:
    """What to write instead of a keyword that enqueue does not know."""
    key = name.lower()
    if key in _OF_ENQUEUE:
        return _OF_ENQUEUE[key] or _LISTEN.format(name)
    payload = f"arguments for the handler go into the payload: enqueue(queue, {{{name!r}: ...}})"
    return _near(name, known) or payload


def of_listen(name: str, known: Iterable[str]) -> str:
    """What to write instead of a keyword that listen does not know."""
    key = name.lower()
    if key in _OF_LISTEN:
        return _OF_LISTEN[key] or _ENQUEUE.format(name)
    return _near(name, known) or f"it takes {', '.join(known)}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that a misspelt one may have meant."""
    import difflib

    return next(iter(difflib.get_close_matches(name[:60], list(known), 1, cutoff)), None)


def _near(name: str, known: Iterable[str]) -> str | None:
    near = nearest(name, known)
    return None if near is None else f"did you mean {near}?"


# ------------------------------------------------------------------------------------------------- schedules

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PHRASE = re.compile(
    r"(?:@?every\s+)?(\d+)?\s*(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)", re.IGNORECASE
)
_NAMED = {
    "daily": "@daily",
    "hourly": "@hourly",
    "weekly": "@weekly",
    "monthly": "@monthly",
    "yearly": "@yearly",
    "annually": "@yearly",
    "midnight": "@daily",
    "every week": "@weekly",
    "every month": "@monthly",
    "every year": "@yearly",
}
_DAY = re.compile(r"(?:every\s+day|daily)\s*(?:at\s*)?(\d{1,2})[:h.](\d{2})", re.IGNORECASE)
_WEEKDAY = re.compile(r"(?:every|on|each)\s+(mon|tue|wed|thu|fri|sat|sun)[a-z]*", re.IGNORECASE)


def of_cron(spec: object) -> str:
    """What to write instead of a schedule in other words, to be appended to a message; or nothing."""
    if callable(spec):
        return '; give the decorator a schedule: @backend.listen_cron("@every 5m")'
    seconds = getattr(spec, "total_seconds", None)
    if callable(seconds):
        spec = seconds()
    if isinstance(spec, (int, float)) and not isinstance(spec, bool):
        return f"; write '@every {max(1, round(spec))}s'" if 0 < spec < 1e8 else ""
    found = _phrase(" ".join(spec.split()).lower()) if isinstance(spec, str) and len(spec) < 200 else None
    return f"; write {found!r}" if found else ""


def _phrase(text: str) -> str | None:
    if text in _NAMED:
        return _NAMED[text]
    if match := _PHRASE.fullmatch(text):
        return f"@every {match[1] or 1}{match[2][0].lower()}"
    if (match := _DAY.fullmatch(text)) and int(match[1]) < 24 and int(match[2]) < 60:
        return f"{int(match[2])} {int(match[1])} * * *"
    if match := _WEEKDAY.fullmatch(text):
        return f"0 0 * * {match[1].upper()}"
    return None


# -------------------------------------------------------------------------------------------------- payloads

_BY_NAME = {  # by the module and name of the class, or of one that it inherits from
    ("decimal", "Decimal"): "str(x), or float(x) where that is exact enough",
    ("fractions", "Fraction"): "str(x)",
    ("uuid", "UUID"): "str(x)",
    ("pathlib", "PurePath"): "str(x)",
    ("pathlib._local", "PurePath"): "str(x)",
    ("ipaddress", "_IPAddressBase"): "str(x)",
    ("zoneinfo", "ZoneInfo"): "str(x)",
    ("re", "Pattern"): "x.pattern",
    ("enum", "Enum"): "x.value",
    ("datetime", "date"): "x.isoformat()",
    ("datetime", "time"): "x.isoformat()",
    ("datetime", "timedelta"): "x.total_seconds()",
    ("builtins", "set"): "sorted(x), or list(x)",
    ("builtins", "frozenset"): "sorted(x), or list(x)",
    ("builtins", "bytes"): "x.decode(), or base64.b64encode(x).decode()",
    ("builtins", "bytearray"): "x.decode(), or base64.b64encode(x).decode()",
    ("builtins", "memoryview"): "bytes(x).decode(), or base64.b64encode(x).decode()",
    ("builtins", "complex"): "[x.real, x.imag]",
    ("builtins", "BaseException"): "str(x)",
    ("builtins", "type"): "its name, and look it up in the handler",
    ("builtins", "function"): "its name, and look it up in the handler",
    ("builtins", "builtin_function_or_method"): "its name, and look it up in the handler",
    ("builtins", "method"): "its name, and look it up in the handler",
    ("builtins", "coroutine"): "what it returns: await it first",
    ("io", "IOBase"): "the path of the file",
    ("_io", "_IOBase"): "the path of the file",
    ("numpy", "ndarray"): "x.tolist()",
    ("numpy", "generic"): "x.item()",
    (
        "django.db.models.query",
        "QuerySet",
    ): "list(x.values_list('pk', flat=True)), and load them in the handler",
    ("django.db.models.base", "Model"): "x.pk, and load it in the handler",
    ("django.core.files.base", "File"): "x.name, and open it in the handler",
    ("pandas.core.frame", "DataFrame"): "x.to_dict('records'), or where it is stored",
    ("pandas.core.generic", "NDFrame"): "x.tolist()",
}
_BY_ATTRIBUTE = {  # of a class
    "model_dump": "x.model_dump(mode='json')",
    "__pydantic_fields__": "x.model_dump(mode='json')",
    "_sa_class_manager": "its primary key, such as x.id, and load it in the handler",
    "__mapper__": "its primary key, such as x.id, and load it in the handler",
    "__dataclass_fields__": "dataclasses.asdict(x)",
    "__attrs_attrs__": "attrs.asdict(x)",
    "__struct_fields__": "msgspec.to_builtins(x)",
    "_asdict": "x._asdict()",
    "to_dict": "x.to_dict()",
    "as_dict": "x.as_dict()",
    "tolist": "x.tolist()",
}


def of_value(value: Any) -> str:
    """What to send instead of a value ``x`` that JSON does not have."""
    cls = type(value)
    for base in cls.__mro__:
        if found := _BY_NAME.get((base.__module__, base.__name__)):
            return found
    names = {name for base in cls.__mro__ for name in vars(base)}
    if "_meta" in names and "pk" in names:
        return "x.pk, and load it in the handler"
    for name, remedy in _BY_ATTRIBUTE.items():
        if name in names:
            return remedy
    if "keys" in names and "__getitem__" in names:
        return "dict(x)"
    if "__iter__" in names or "__getitem__" in names:
        return "list(x)"
    return "the fields that the handler needs, or an id to load it by"


def of_queue(queue: str, listened: Iterable[str]) -> str:
    """What to write in place of a queue that nothing here listens on."""
    near = nearest(queue, listened)
    known = ", ".join(map(repr, sorted(listened))) or "nothing"
    return f"it listens on {known}" if near is None else f"did you mean {near!r}?"
