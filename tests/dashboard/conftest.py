"""A backend with jobs in memory, and a browser without JavaScript that looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

import neoq
from neoq.backend import Backend
from neoq.dashboard import Access, wsgi

ALL = frozenset({"retry", "cancel", "delete", "run", "pause", "limit", "reveal"})


def client_of(backend: Backend, rights: Any = ALL, **options: Any) -> Client:
    """A browser on this machine that may do everything, unless ``rights`` says less."""
    options.setdefault("access", lambda environ: Access(rights, user="ada"))
    return Client(wsgi(backend, **options))


def text_of(response: TestResponse, status: int = 200) -> str:
    text = response.get_data(as_text=True)
    assert response.status_code == status, text
    return text


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Jobs in memory: nothing runs until the test starts it."""
    with neoq.connect("memory://", autostart=False) as made:
        yield made
        made.shutdown(0)


@pytest.fixture
def client(backend: Backend) -> Client:
    return client_of(backend)
