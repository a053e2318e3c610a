"""The fault harness itself: the proxy has the faults that it says, and the accounting finds what is wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import neoq
from tests.faults.accounting import Load
from tests.faults.proxy import Proxy

SHORT = 0.2
LONG = 10.0


@pytest.fixture
def heard() -> list[bytes]:
    """What has reached the server."""
    return []


@pytest.fixture
def echo(heard: list[bytes]) -> Iterator[socket.socket]:
    """A server that sends back whatever it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(100):
                    heard.append(data)
                    connection.sendall(data)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: socket.socket) -> Iterator[Proxy]:
    with Proxy(*echo.getsockname()).running() as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), LONG) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        yield client


def test_a_stall_ends(proxy: Proxy, client: socket.socket) -> None:
    """What was sent during a stall arrives once it is over, and not before."""
    proxy.stall()
    client.sendall(b"late")
    client.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        client.recv(100)
    proxy.heal()
    client.settimeout(LONG)
    assert client.recv(100) == b"late"


def test_a_reset_is_felt(proxy: Proxy, client: socket.socket) -> None:
    """A reset connection fails; the next one works."""
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    with socket.create_connection(("127.0.0.1", proxy.port), LONG) as again:
        again.sendall(b"again")
        assert again.recv(100) == b"again"


def test_a_lost_reply_was_asked_for(proxy: Proxy, client: socket.socket, heard: list[bytes]) -> None:
    """The server hears what is asked while replies are lost, and the connection is reset when that ends."""
    proxy.drop_replies()
    client.sendall(b"unheard")
    give_up = time.monotonic() + LONG
    while proxy.lost < len(b"unheard"):
        assert time.monotonic() < give_up
        time.sleep(0.005)
    assert heard[-1] == b"unheard"
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_the_accounting_finds_what_is_wrong(tmp_path: Path) -> None:
    """A job that never ran, one the store does not know, and one that ran again without a kill are told."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with ExitStack() as stack, neoq.connect(url) as backend:
        backend.listen("q", lambda job: None)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(5)]
        assert backend.drain()
        load = Load(stack, tmp_path, url)
        ids = {n: job.id for n, job in enumerate(jobs)} | {5: 1_000_000}
        load.accepted.write_text("".join(f"accepted {n} {job_id}\n" for n, job_id in ids.items()))
        ran = [(n, 1) for n in (0, 1, 2, 4, 5)] + [(1, 7), (2, 1)]  # 3 never; 1 again elsewhere; 2 again
        load.record.write_text(
            "".join(f"start {n} {pid} {at}.0\nend {n} {pid} {at}.5\n" for at, (n, pid) in enumerate(ran))
            + "start 0 1 9"  # a line that is being written
        )
        load.killed.add(1)
        found = load.account()
        assert (found.accepted, found.finished, found.lost, found.doubled) == (6, 5, 2, 2)
        assert found.unexcused == 0
        load.killed.clear()
        assert load.account().unexcused == 2
        with pytest.raises(AssertionError):
            found.check()
