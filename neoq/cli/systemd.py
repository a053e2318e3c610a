"""sd_notify: tells systemd that a service with Type=notify is ready, reloads, stops and lives."""

from __future__ import annotations

import os
import socket
import time


class Systemd:
    """The socket of systemd, or nothing where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")  # the children are not to speak to it
        pid, micros = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
        mine = self._address and pid in {"", str(os.getpid())} and micros.isdigit()
        self.watchdog_every = int(micros) / 2e6 if mine else None
        self._said = ""

    def tell(self, *lines: str) -> None:
        """Send lines such as READY=1; what cannot be sent concerns nobody."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass

    def status(self, text: str) -> None:
        """Say what is going on, if that is new."""
        if text != self._said:
            self._said = text
            self.tell(f"STATUS={text}")

    def reloading(self) -> None:
        """Say that the processes are being replaced; READY=1 ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
