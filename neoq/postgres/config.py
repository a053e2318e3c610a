"""The settings of PostgresBackend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from neoq.config import FLAG, Config, Kind, Settings, count, setting, span, url_kind
from neoq.postgres.connections import bad_conninfo, describe
from neoq.wording.redact import misread


def _schema(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[a-z_][a-z0-9_]{0,49}", value):
        raise ValueError(value)
    return value


class PostgresSettings(Settings, total=False):
    """The keywords of `PostgresBackend` beside its URL."""

    schema: str
    pool_size: int
    wait_for_server: timedelta | float
    migrate: bool


@dataclass(frozen=True)
class PostgresConfig(Config):
    """The settings of `PostgresBackend`: those of every backend, and the database's."""

    of_others = {  # noqa: RUF012  # as in Config
        "pgbouncer": "leave it out: neoq finds out by itself whether it goes through a PgBouncer",
        **dict.fromkeys(
            ("ssl", "tls", "ssl_mode", "sslaccept"), "write sslmode=require, or sslmode=verify-full"
        ),
        **dict.fromkeys(("ssl_ca", "ssl_ca_certs", "sslca"), "write sslrootcert=..."),
        **dict.fromkeys(("connection_limit", "max_overflow", "pool_max", "max_size"), "see pool_size"),
        **dict.fromkeys(("search_path", "currentschema"), "write schema=..., the schema of neoq's tables"),
        **dict.fromkeys(
            ("username", "pass", "database", "name"), "write postgresql://user:password@host/database"
        ),
        **dict.fromkeys(
            """prepare_threshold prepared_statements statement_cache_size prepared_statement_cache_size
            pool_timeout pool_recycle pool_pre_ping autocommit conn_max_age""".split(),
            "leave it out: neoq opens its connections as it needs them",
        ),
    }

    url: str = setting(
        "",
        url_kind("a URL such as postgresql://user@host/database"),
        "Where the database is, as libpq reads it.",
    )
    schema: str = setting(
        "neoq",
        Kind("a name of up to 50 small letters, digits and underscores", _schema),
        "The schema that has neoq's tables; it is made where it does not exist.",
    )
    pool_size: int = setting(
        10,
        count(2, 1000),
        "Connections of a process to enqueue and look with, beside the few that run its jobs.",
    )
    wait_for_server: float = setting(
        0.0,
        span(0.0, 86400),
        "How long an enqueue waits while the server is away, before BackendUnavailable.",
    )
    migrate: bool = setting(
        True, FLAG, "Make or update the tables at the first use; False leaves that to neoq.migrate(url)."
    )

    def _contradictions(self) -> list[str]:
        problems = super()._contradictions()
        problem = misread(self.url) or bad_conninfo(self.url)
        return [*problems, problem] if problem else problems

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults; the URL without its password."""
        changed = super().changed()
        if "url" in changed:
            changed["url"] = describe(self.url)
        return changed
