"""Servers that speak TLS: a certificate, a proxy before a Redis, and sentinels."""

from __future__ import annotations

import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Certificate:
    """A certificate that signs itself, for the names given."""

    def __init__(self, directory: Path, *names: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl makes the certificates, and is not installed")
        self.file, self.key = directory / "certificate.pem", directory / "key.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=test",
                ),
                *("-keyout", str(self.key), "-out", str(self.file)),
                *("-addext", "subjectAltName=" + ",".join(names)),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


@contextmanager
def serving(context: ssl.SSLContext | None, serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server whose connections are each served by a thread; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []
        opened: list[socket.socket] = []

        def one(plain: socket.socket) -> None:
            try:
                with context.wrap_socket(plain, server_side=True) if context else plain as connection:
                    opened.append(connection)
                    serve(connection)
            except OSError:  # a client that does not trust us, or has gone
                plain.close()

        def accept() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                plain.settimeout(30)
                threads.append(threading.Thread(target=one, args=(plain,)))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in opened:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            for thread in threads:
                thread.join()


@contextmanager
def tls_before(port: int, certificate: Certificate) -> Iterator[int]:
    """What speaks TLS, and passes all on to a port that does not."""

    def pass_on(client: socket.socket) -> None:
        # One thread does both ways: before Python 3.13 two threads may not use one TLS connection at a time.
        assert isinstance(client, ssl.SSLSocket)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as server:
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for source, target in ((client, server), (server, client)):
                    if source in ready:
                        if not (data := source.recv(65536)):
                            return
                        target.sendall(data)

    with serving(certificate.context(), pass_on) as secure:
        yield secure


def _bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


@contextmanager
def sentinel(master: int, heard: list[list[str]], certificate: Certificate | None) -> Iterator[int]:
    """A sentinel that names one master, and keeps what it was told."""
    state = {
        "name": "mymaster", "ip": "127.0.0.1", "port": str(master), "flags": "master", "num-slaves": "0",
        "num-other-sentinels": "0", "quorum": "1",
    }  # fmt: skip
    flat = [_bulk(text) for pair in state.items() for text in pair]
    masters = b"*1\r\n*%d\r\n" % len(flat) + b"".join(flat)

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            while header := lines.readline():
                words = [repr(header)]
                if not header.startswith(b"*"):  # no Redis, perhaps TLS
                    heard.append(words)
                    return
                words = []
                for _ in range(int(header[1:])):
                    size = int(lines.readline()[1:])
                    words.append(lines.read(size + 2)[:-2].decode())
                heard.append(words)
                connection.sendall(masters if words[0].upper() == "SENTINEL" else b"+OK\r\n")

    with serving(certificate.context() if certificate else None, serve) as port:
        yield port
