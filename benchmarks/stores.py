"""The four stores, each behind one backend: a new file, an empty server, or memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from contest import LeftOut
from on_servers import URL

STORES = ("memory", "sqlite", "postgres", "redis")
SERVER_OF = {"postgres": "postgres", "redis": "redis"}
PACKAGE_OF = {"postgres": "psycopg", "redis": "redis"}
CAPACITY = 10_000_000


@contextmanager
def opened(store: str, **settings: Any) -> Iterator[Any]:
    """A backend that runs nothing before its start."""
    import neoq

    if store == "memory":
        settings["queue_capacity"] = CAPACITY
    with TemporaryDirectory(prefix="neoq-bench-") as directory:
        url = {"memory": "memory://", "sqlite": f"sqlite:///{directory}/jobs.db"}.get(store)
        backend = neoq.connect(url or os.environ[URL], autostart=False, **settings)
        try:
            yield backend
        except neoq.UnsupportedError as missing:
            raise LeftOut(str(missing)) from None
        finally:
            backend.shutdown(timeout=5)
