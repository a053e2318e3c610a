"""A mail server that delivers nothing: it counts mails, and temporarily rejects some."""

from __future__ import annotations

import asyncio
import email
import threading
from collections import Counter, defaultdict
from typing import Any, Self

from aiosmtpd.smtp import SMTP
from journal import Journal

BUSY_EVERY = 6  # each sixth new recipient is rejected once, with "try again later"
DELIVERY_SECONDS = 0.02


class Sink:
    """An SMTP server on a free port: ``with Sink() as sink: smtplib.SMTP(*sink.address)``.

    ``delivered`` counts the mails of each kind by their job's id, so that one delivered twice shows.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.delivered: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.turned_away = 0
        self._recipients: set[str] = set()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        listening = self._loop.create_server(self._session, "127.0.0.1", 0)
        self._server = self._loop.run_until_complete(listening)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.close()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.sockets[0].getsockname()
        return host, port

    def _session(self) -> SMTP:
        return SMTP(self, hostname="sink.example", loop=self._loop)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address not in self._recipients:
            self._recipients.add(address)
            if len(self._recipients) % BUSY_EVERY == 0:
                self.turned_away += 1
                return "451 4.7.1 Greylisted, please try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        await asyncio.sleep(DELIVERY_SECONDS)
        mail = email.message_from_bytes(envelope.content)
        self.delivered[mail["X-Kind"]][mail["X-Job"]] += 1
        self._journal.write("delivered", mail["X-Kind"], mail["X-Job"])
        return "250 OK"
