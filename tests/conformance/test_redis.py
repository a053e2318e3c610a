"""The conformance suite over jobs in a Redis server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.redis_backend import RedisBackend
from neoq.testing import BackendConformance


class TestRedisBackend(BackendConformance):
    """RedisBackend keeps every promise of a durable, shared store."""

    features = RedisBackend.features

    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str, redis_prefix: Callable[[], str]) -> None:
        self._url = redis_url
        self._prefix = redis_prefix

    def make_backend(self, **options: Any) -> RedisBackend:
        """Return a backend under a prefix of its own."""
        return RedisBackend(self._url, prefix=self._prefix(), **options)

    def reopen(self, backend: Backend, **options: Any) -> RedisBackend:
        """Return a backend on the jobs of one that was shut down."""
        return self.another(backend, **options)

    def another(self, backend: Backend, **options: Any) -> RedisBackend:
        """Return a second backend on the jobs of a live one."""
        assert isinstance(backend, RedisBackend)
        return RedisBackend(self._url, prefix=backend.config.prefix, **options)
