"""What a worker answers to a scrape of its metrics."""

from __future__ import annotations

import socket

from prometheus_client.parser import text_string_to_metric_families

from tests.cli.workers import Worker


def scrape(worker: Worker, path: str = "/metrics", method: str = "GET") -> tuple[int, str, str]:
    """The code, the head and the body of an answer on the worker's port."""
    (port, *_) = worker.says(r"http://127\.0\.0\.1:(\d+)/livez")
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        pieces = []
        while piece := client.recv(65536):
            pieces.append(piece)
    head, _, body = b"".join(pieces).decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def samples(worker: Worker) -> dict[tuple[str, ...], float]:
    """The samples of a scrape, by name and the values of their labels in the order of the labels' names."""
    code, _, body = scrape(worker)
    assert code == 200, body
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(body)
        for one in family.samples
    }
