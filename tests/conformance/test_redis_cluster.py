"""The conformance suite over jobs in Redis clusters of one node and of three."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.job import Job
from neoq.redis.backend import RedisBackend
from neoq.testing import BackendConformance
from tests.raw_stores import dump_redis, replace_in_redis
from tests.redis_ledger import check_ledger
from tests.servers import RedisServer, cluster_client, cluster_url, running_cluster

_cases = itertools.count(1)


@pytest.fixture(scope="module", params=[1, 3], ids=["one node", "three nodes"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[RedisServer]]:
    """The cluster that all cases share; each keeps to keys of its own."""
    with running_cluster(request.param, "--appendonly", "yes", "--appendfsync", "no") as nodes:
        yield nodes


@pytest.mark.faults  # each takes as long as the suite itself; tests/test_redis.py has a short one
class TestRedisCluster(BackendConformance):
    """RedisBackend keeps every promise in a cluster, also where queues are on different nodes."""

    features = RedisBackend.features

    @pytest.fixture(autouse=True)
    def _server(self, nodes: list[RedisServer]) -> Iterator[None]:
        self._nodes = nodes
        self._url = cluster_url(nodes)
        self._prefixes: list[str] = []
        yield
        with cluster_client(nodes) as client:
            for prefix in self._prefixes:
                check_ledger(client, prefix)

    def make_backend(self, **options: Any) -> RedisBackend:
        """Return a backend under a prefix of its own."""
        self._prefixes.append(f"c{next(_cases)}")
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
        with cluster_client(self._nodes) as client:
            client.hset(f"{{{backend.config.prefix}:{job.queue}}}:life", str(job.id), "{")
        return True

    def dump(self, backend: Backend) -> list[bytes]:
        """Read all keys."""
        assert isinstance(backend, RedisBackend)
        with cluster_client(self._nodes) as client:
            return dump_redis(client, backend.config.prefix)

    def damage(self, backend: Backend, old: bytes | str, new: bytes | str) -> bool:
        """Replace a value in the hashes."""
        assert isinstance(backend, RedisBackend)
        with cluster_client(self._nodes) as client:
            return replace_in_redis(client, backend.config.prefix, old, new)
