"""What the setting TASKS says of an alias, and the place of its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connections
from django.db.utils import ConnectionDoesNotExist

from neoq.errors import ConfigError
from neoq.retry import RetryPolicy

IN_MEMORY = "memory://"
OF_JOBS = ("max_retries", "timeout", "retry")
OF_QUEUES = (*OF_JOBS, "concurrency", "capacity")


@dataclass(frozen=True)
class Options:
    """The options of an alias: what is neoq's own, and the settings of its backend."""

    alias: str
    queues: frozenset[str]  # QUEUES; empty: any
    url: str | None = None  # None: the project's own database
    database: str = "default"
    of_jobs: Mapping[str, Any] = field(default_factory=dict)
    of_queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, alias: str) -> Self:
        """Those of an alias of TASKS. Raises ConfigError."""
        tasks = getattr(settings, "TASKS", None) or {}
        if alias not in tasks and (alias != "default" or tasks):
            raise ConfigError([f"TASKS has no {alias!r}; it has {', '.join(sorted(tasks)) or 'nothing'}"])
        params = tasks.get(alias, {})
        return cls.read(alias, params.get("QUEUES", ["default"]), params.get("OPTIONS", {}))

    @classmethod
    def read(cls, alias: str, queues: Any, options: Any) -> Self:
        """Those of the keys QUEUES and OPTIONS."""
        if not isinstance(options, Mapping):
            raise ConfigError([f"OPTIONS is a {type(options).__name__}; it takes a dict"])
        given = dict(options)
        url = given.pop("url", None)
        if url is not None and (not isinstance(url, str) or not url.strip()):
            raise ConfigError(["url is empty or no text; give a URL, or leave it out for the database"])
        of_queues = given.pop("queues", {})
        _check_queues(of_queues, frozenset(queues))
        of_jobs = {name: given.pop(name) for name in OF_JOBS if name in given}
        _check_retry(of_jobs)
        database = given.pop("database", "default")
        return cls(alias, frozenset(queues), url, database, of_jobs, of_queues, given)

    def of_job(self, queue: str) -> dict[str, Any]:
        """The options of a job of a queue: ``max_retries`` and ``timeout``, where they are given."""
        given = {"max_retries": 0, **self.of_jobs, **self.of_queues.get(queue, {})}
        return {name: given[name] for name in ("max_retries", "timeout") if given.get(name) is not None}

    def of_task(self, queue: str) -> dict[str, Any]:
        """How a task of a queue is run."""
        given = {"max_retries": 0, **self.of_jobs, **self.of_queues.get(queue, {})}
        return {name: given[name] for name in OF_JOBS if name in given}

    def place(self) -> Place:
        """Where the jobs are. Raises ConfigError."""
        if self.url is not None:
            return Place(self.url, "", joins=False)
        try:
            connection = connections[self.database]
        except ConnectionDoesNotExist:
            raise ConfigError([f"database is {self.database!r}, and DATABASES has no such alias"]) from None
        if connection.vendor == "postgresql":
            return Place(_postgres_url(connection), "", joins=True)
        if connection.vendor == "sqlite":
            name = str(connection.settings_dict["NAME"])
            if connection.is_in_memory_db():  # of tests: nobody else can see it, and a file it is not
                return Place(IN_MEMORY, "", joins=False, tests=True)
            return Place("", name, joins=True)
        problem = (
            f"the database {self.database!r} is {connection.display_name}, which cannot keep jobs; set "
            'OPTIONS["url"] to a store: sqlite:///jobs.db, postgresql://... or redis://...'
        )
        raise ConfigError([problem])


@dataclass(frozen=True)
class Place:
    """Where the jobs of an alias are: a URL, or the file of the project's own SQLite database."""

    url: str
    path: str
    joins: bool  # the jobs are in the project's own database
    tests: bool = False  # a database in memory, as Django's tests have it

    @property
    def durable(self) -> bool:
        """Whether other processes see its jobs."""
        return not self.url.strip().lower().startswith("memory:")


def _postgres_url(connection: Any) -> str:
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    params = {
        name: str(value)
        for name, value in connection.get_connection_params().items()
        if name in known and value is not None and name != "client_encoding"
    }
    return f"postgresql://?{urlencode(params, quote_via=quote, safe='')}"


def _check_queues(given: Any, queues: frozenset[str]) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(one, Mapping) for one in given.values()):
        raise ConfigError(['queues takes a dict of dicts: {"emails": {"concurrency": 4}}'])
    problems = [
        f"queues names {name!r}, which QUEUES has not: it has {', '.join(sorted(queues))}"
        for name in given
        if queues and name not in queues
    ]
    for name, options in given.items():
        problems += [
            f"queues[{name!r}] does not know {option}; it takes {', '.join(OF_QUEUES)}"
            for option in options
            if option not in OF_QUEUES
        ]
        _check_retry(options)
    if problems:
        raise ConfigError(problems)


def _check_retry(options: Mapping[str, Any]) -> None:
    if not isinstance(options.get("retry", RetryPolicy()), RetryPolicy):
        raise ConfigError([f"retry is {options['retry']!r}; it takes a neoq.RetryPolicy"])
