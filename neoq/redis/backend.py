"""RedisBackend: jobs in Redis or Valkey, shared by every process that can reach it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from neoq.backend import Backend
from neoq.redis.config import RedisConfig, RedisSettings
from neoq.redis.store import RedisStore

if TYPE_CHECKING:
    from urllib.parse import SplitResult


class RedisBackend(Backend):
    """Jobs in Redis: ``RedisBackend("redis://localhost:6379/0")``, or ``neoq.connect`` with such a URL.

    Takes every setting of `Config`, and ``prefix``, ``socket_timeout``, ``wait_replicas`` and ``tls_...``, as
    keywords. Any number of processes on any machines may share a server. Safe to use from many threads.

    Raises ConfigError for a setting that is unknown or out of range, and at the first call BackendUnavailable
    where the server cannot be reached, ConfigError where it would evict jobs.
    """

    config_class = RedisConfig
    store_class = RedisStore
    store: RedisStore
    config: RedisConfig

    def __init__(self, url: str | None = None, **options: Unpack[RedisSettings]) -> None:
        super().__init__(**({} if url is None else {"url": url}), **options)

    @classmethod
    def url_settings(cls, parts: SplitResult) -> dict[str, Any]:
        """The server in a URL; its query holds settings."""
        url = f"{parts.scheme}://{parts.netloc}{parts.path}"
        return {"url": url + (f"#{parts.fragment}" if parts.fragment else "")}
