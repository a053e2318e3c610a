"""The probes of a worker: /livez, /readyz and /status, answered in the supervisor's own loop.

That they are answered at all says that this loop lives. They never ask the store, and no client can hold
the loop up: its sockets do not block, and one that says nothing is closed after a while.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from neoq.cli.exits import CommandError, Exit
from neoq.cli.runtime_dir import make_folder

MOST = 4096  # bytes of a request
PATIENCE = 5.0  # seconds for one
CLIENTS = 64  # at once
_REASONS = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

Answer = Callable[[str], tuple[int, str] | None]
Serve = Callable[[socket.socket, str], None]


def head_of(code: int, kind: str, length: int) -> bytes:
    """The head of an answer whose body has that type and length."""
    return (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode()


class Probes:
    """The sockets that probes come in by, and those who ask just now."""

    def __init__(
        self, selector: selectors.BaseSelector, answer: Answer, served_apart: Mapping[str, Serve]
    ) -> None:
        self._selector = selector
        self._answer = answer
        self._served_apart = served_apart  # by path: who takes the client over, with its method
        self._listening: list[socket.socket] = []
        self._clients: dict[socket.socket, tuple[bytes, float]] = {}
        self._path: Path | None = None

    def listen_on(self, port: str) -> str:
        """Listen on a port, or on ADDRESS:PORT; only for this machine unless an address says otherwise."""
        host, _, number = port.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            own = socket.create_server((host, int(number)), family=family)
        except (OSError, ValueError, OverflowError) as error:
            raise CommandError(f"--port {port}: cannot listen there: {error}", Exit.USAGE) from error
        self._add(own)
        return f"{host}:{own.getsockname()[1]}"

    def listen_at(self, path: Path) -> None:
        """Listen on a socket of the file system. Raises OSError, also where another worker has it."""
        make_folder(path)
        own = socket.socket(socket.AF_UNIX)
        try:
            try:
                own.connect(str(path))
            except OSError:  # nobody is there any more
                path.unlink(missing_ok=True)
            else:
                raise FileExistsError(f"another worker of this name answers at {path}")
            own.close()
            own = socket.socket(socket.AF_UNIX)
            own.bind(str(path))
            own.listen()
        except BaseException:
            own.close()
            raise
        self._path = path
        self._add(own)

    def _add(self, own: socket.socket) -> None:
        own.setblocking(False)
        self._listening.append(own)
        self._selector.register(own, selectors.EVENT_READ, lambda: self._accept(own))

    def _accept(self, own: socket.socket) -> None:
        try:
            client, _ = own.accept()
        except OSError:
            return
        if len(self._clients) >= CLIENTS:
            client.close()
            return
        client.setblocking(False)
        self._clients[client] = (b"", 0.0)
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: socket.socket) -> None:
        before, since = self._clients[client]
        try:
            piece = client.recv(MOST)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        said = before + piece
        if piece and b"\r\n\r\n" not in said and len(said) < MOST:
            self._clients[client] = (said, since)
            return
        if piece and self._hand_over(client, said):
            return
        if piece:
            self._reply(client, said)
        self._drop(client)

    def _hand_over(self, client: socket.socket, said: bytes) -> bool:
        method, path = _asked(said)
        serve = self._served_apart.get(path)
        if serve is None or method not in {"GET", "HEAD"}:
            return False
        self._selector.unregister(client)
        del self._clients[client]
        serve(client, method)
        return True

    def _reply(self, client: socket.socket, said: bytes) -> None:
        method, path = _asked(said)
        paths = ["/livez", "/readyz", "/status", *self._served_apart]
        code, text = self._answer(path) or (
            404,
            f"the probes are {', '.join(paths[:-1])} and {paths[-1]}\n",
        )
        if method not in {"GET", "HEAD"}:
            code, text = 405, "GET or HEAD\n"
        body = text.encode()
        kind = "application/json" if text.startswith("{") else "text/plain; charset=utf-8"
        try:
            client.sendall(head_of(code, kind, len(body)) + (body if method != "HEAD" else b""))
        except OSError:  # gone, or it does not read: a reply fits into the socket's buffer
            pass

    def _drop(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._clients[client]
        client.close()

    def drop_silent(self, now: float) -> bool:
        """Close those who have not said what they want for long; True while somebody is to be watched."""
        for client, (said, since) in list(self._clients.items()):
            if not since:
                self._clients[client] = (said, now)
            elif now - since > PATIENCE:
                self._drop(client)
        return bool(self._clients)

    def close(self) -> None:
        """Listen no more."""
        for client in list(self._clients):
            self._drop(client)
        for own in self._listening:
            self._selector.unregister(own)
            own.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _asked(said: bytes) -> tuple[str, str]:
    """The method and the path of a request."""
    method, _, rest = said.decode("latin-1").partition(" ")
    return method, rest.partition(" ")[0].partition("?")[0]


def ask(path: Path, what: str, seconds: float = 5.0) -> tuple[int, str]:
    """Ask the worker at a socket; its code and text. Raises OSError where nobody answers."""
    with socket.socket(socket.AF_UNIX) as own:
        own.settimeout(seconds)
        own.connect(os.fspath(path))
        own.sendall(f"GET /{what} HTTP/1.1\r\n\r\n".encode())
        pieces = []
        while piece := own.recv(MOST):
            pieces.append(piece)
    head, _, body = b"".join(pieces).decode().partition("\r\n\r\n")
    if not head.startswith("HTTP/1.1 "):
        raise OSError("it hung up")
    return int(head.split(" ", 2)[1]), body
