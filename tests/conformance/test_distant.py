"""The conformance suite over a store that counts as a round trip away, behind fetcher and settler."""

from __future__ import annotations

from typing import Any, ClassVar

from neoq import MemBackend
from neoq.memory.store import MemStore
from neoq.testing import BackendConformance


class DistantStore(MemStore):
    """Jobs in memory, which no runner claims or settles itself."""

    features: ClassVar[frozenset[str]] = frozenset()


class DistantBackend(MemBackend):
    """A backend whose store counts as a round trip away."""

    store_class = DistantStore


class TestDistantBackend(BackendConformance):
    """What is above the seam keeps every promise when claims and settles come from threads of their own."""

    features = DistantBackend.features

    def make_backend(self, **options: Any) -> MemBackend:
        """Return a backend without any job."""
        return DistantBackend(**options)
