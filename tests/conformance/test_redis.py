"""The conformance suite over jobs in a Redis server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from neoq.backend import Backend
from neoq.job import Job
from neoq.redis.backend import RedisBackend
from neoq.testing import BackendConformance
from tests.raw_stores import dump_redis, replace_in_redis
from tests.redis_ledger import check_ledger


class TestRedisBackend(BackendConformance):
    """RedisBackend keeps every promise of a durable, shared store."""

    features = RedisBackend.features

    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str, redis_prefix: Callable[[], str]) -> Iterator[None]:
        self._url = redis_url
        self._new_prefix = redis_prefix
        self._prefixes: list[str] = []
        yield
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            for prefix in self._prefixes:
                check_ledger(client, prefix)

    def make_backend(self, **options: Any) -> RedisBackend:
        """Return a backend under a prefix of its own."""
        self._prefixes.append(self._new_prefix())
        return RedisBackend(self._url, prefix=self._prefixes[-1], **options)

    def reopen(self, backend: Backend, **options: Any) -> RedisBackend:
        """Return a backend on the jobs of one that was shut down."""
        return self.another(backend, **options)

    def another(self, backend: Backend, **options: Any) -> RedisBackend:
        """Return a second backend on the jobs of a live one."""
        assert isinstance(backend, RedisBackend)
        return RedisBackend(self._url, prefix=backend.config.prefix, **options)

    def spoil(self, backend: Backend, job: Job) -> bool:
        """Write a life that is no JSON; its fingerprint can still be read, and given up."""
        assert isinstance(backend, RedisBackend)
        with redis.Redis.from_url(self._url, protocol=2) as client:
            client.hset(f"{{{backend.config.prefix}:{job.queue}}}:life", str(job.id), "{")
        return True

    def dump(self, backend: Backend) -> list[bytes]:
        """Read all keys."""
        assert isinstance(backend, RedisBackend)
        with redis.Redis.from_url(self._url, protocol=2) as client:
            return dump_redis(client, backend.config.prefix)

    def damage(self, backend: Backend, old: bytes | str, new: bytes | str) -> bool:
        """Replace a value in the hashes."""
        assert isinstance(backend, RedisBackend)
        with redis.Redis.from_url(self._url, protocol=2) as client:
            return replace_in_redis(client, backend.config.prefix, old, new)
