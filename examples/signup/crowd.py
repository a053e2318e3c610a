"""The people who sign up: a few browsers that post over HTTP, each on one connection."""

from __future__ import annotations

import csv
import http.client
import json
import threading
from collections import Counter, defaultdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from journal import Journal

RECIPIENTS = Path(__file__).with_name("recipients.csv")
BROWSERS = 4
PAUSE = 0.1  # seconds between two posts of a browser: about 40 signups a second in all

Person = dict[str, str]


def read_people(limit: int | None = None) -> list[Person]:
    """The people of the recipients file, at most ``limit``."""
    with RECIPIENTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[:limit]


class Crowd:
    """Posts every person to ``/signup`` and keeps each answer: ``with Crowd(address, people) as crowd``."""

    def __init__(self, address: tuple[str, int], people: list[Person], journal: Journal) -> None:
        self.address = address
        self.size = len(people)
        self._journal = journal
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self._waiting: SimpleQueue[Person] = SimpleQueue()
        for person in people:
            self._waiting.put(person)
        self._leave = threading.Event()
        self._browsers = [threading.Thread(target=self._browse) for _ in range(BROWSERS)]

    def __enter__(self) -> Self:
        for browser in self._browsers:
            browser.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave.set()
        for browser in self._browsers:
            browser.join()

    @property
    def busy(self) -> bool:
        return any(browser.is_alive() for browser in self._browsers)

    def statuses(self) -> Counter[int]:
        """How many answers had which HTTP status."""
        return Counter(status for status, _ in self.answers)

    def accepted(self) -> dict[str, list[str]]:
        """The ids of the jobs that the answers promised, by queue."""
        ids = defaultdict(list)
        for _, body in self.answers:
            for queue, job_id in body.get("accepted", {}).items():
                ids[queue].append(str(job_id))
        return ids

    def _browse(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            while not self._leave.wait(PAUSE):
                self._post(connection, self._waiting.get_nowait())
        except Empty:
            pass  # everybody has posted
        finally:
            connection.close()

    def _post(self, connection: http.client.HTTPConnection, person: Person) -> None:
        body = json.dumps(person)
        connection.request("POST", "/signup", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        promises = json.loads(answer.read())
        for queue, job_id in promises.get("accepted", {}).items():
            self._journal.write("promised", queue, str(job_id))
        self.answers.append((answer.status, promises))
