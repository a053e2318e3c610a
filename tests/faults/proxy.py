"""A TCP proxy between a worker and its server that can be made to stall, reset and lose replies."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 65_536
RST = struct.pack("ii", 1, 0)  # linger for no time: close() sends a reset


class Proxy:
    """Passes everything on until it is told otherwise; what it is told goes for all connections at once."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0  # bytes of replies that never arrived
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._open = threading.Event()
        self._open.set()
        self._replies_lost = False
        self._refusing = False

    def stall(self) -> None:
        """Let nothing pass, in either direction, as a network does that drops every packet."""
        self._open.clear()

    def drop_replies(self) -> None:
        """Pass requests on and lose what comes back, so that what was asked happens unheard."""
        self._replies_lost = True

    def refuse(self) -> None:
        """Reset what is connected, and everything that connects."""
        self._refusing = True
        self.reset()

    def heal(self) -> None:
        """Pass everything on again; connections that have lost a reply are reset."""
        if self._replies_lost:
            self._replies_lost = False
            self.reset()
        self._refusing = False
        self._open.set()

    def reset(self) -> None:
        """Reset all that are connected."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _reset(end)

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Accept connections for a while."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self.reset()
            self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._server)
            except OSError:  # the server is away: so is whoever asks here
                _reset(client)
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            for source, sink, reply in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, reply), daemon=True).start()

    def _is_connected(self, end: socket.socket) -> bool:
        with self._lock:
            return any(end in pair for pair in self._pairs)

    def _pump(self, source: socket.socket, sink: socket.socket, reply: bool) -> None:
        try:
            while data := source.recv(CHUNK):
                self._open.wait()
                if reply and self._replies_lost:
                    self.lost += len(data)
                else:
                    sink.sendall(data)
            self._open.wait()
            if self._is_connected(source):  # else it is being reset, and an orderly end would forestall that
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                _reset(end)


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        end.shutdown(socket.SHUT_RD)  # wakes whoever reads from it
    except OSError:
        pass
    end.close()
