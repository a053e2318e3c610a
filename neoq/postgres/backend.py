"""PostgresBackend: jobs in the database that you have already, shared by any number of machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, Unpack

import psycopg

from neoq.backend import Backend
from neoq.config import query_of, refuse_twice
from neoq.postgres.config import PostgresConfig, PostgresSettings
from neoq.postgres.store import PostgresStore


class PostgresBackend(Backend):
    """Jobs in PostgreSQL 13 or newer: ``PostgresBackend("postgresql://...")``, or `neoq.connect`.

    Takes every setting of `Config`, and ``schema``, ``pool_size``, ``wait_for_server`` and ``migrate``, as
    keywords. Any number of processes on any number of machines may share the database. Safe to use from many
    threads.

    Raises ConfigError for a setting that is unknown or out of range, and at the first call BackendUnavailable
    where the server cannot be reached, BackendError where its tables cannot be used.
    """

    config_class = PostgresConfig
    store_class = PostgresStore
    store: PostgresStore
    config: PostgresConfig

    def __init__(self, url: str = "", **options: Unpack[PostgresSettings]) -> None:
        super().__init__(url=url, **options)

    @classmethod
    def from_url(cls, url: str, options: Mapping[str, Any]) -> Self:
        """A backend as its URL says; what of its query is no setting of ours is libpq's."""
        from urllib.parse import unquote

        # Only libpq knows its URLs: without a host one leads to a socket, and there may be several hosts.
        place, _, query = url.partition("?")
        parts = [(unquote(part.partition("=")[0]), part) for part in query.split("&") if part]
        refuse_twice(name for name, _ in parts)
        driver = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
        theirs = "&".join(part for name, part in parts if name in driver)  # as it is written: libpq reads it
        ours = query_of("&".join(part for name, part in parts if name not in driver))
        rest = f"{place}?{theirs}" if theirs else place
        return cls._of(cls.config_class.load({"url": rest} | dict(options), ours))
