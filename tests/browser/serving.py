"""A WSGI application behind a server in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

PATIENCE = 10.0


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as by a real server

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (werkzeug names it)
        """Say nothing about requests."""


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application on a free port of this machine; its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="test-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
