"""The conformance suite over jobs in memory."""

from __future__ import annotations

from typing import Any

from neoq import MemBackend
from neoq.testing import BackendConformance


class TestMemBackend(BackendConformance):
    """MemBackend keeps every promise that a store in one process can make."""

    features = MemBackend.features

    def make_backend(self, **options: Any) -> MemBackend:
        """Return a backend without any job."""
        return MemBackend(**options)
