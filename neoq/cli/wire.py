"""What the supervisor and its children tell each other: objects of JSON, one a line, over a pair of sockets.

The end of file says that the other side is gone, however it died.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

Message = dict[str, Any]
PIECE = 65536


class Wire:
    """One end of the connection."""

    def __init__(self, own: socket.socket) -> None:
        self.socket = own
        self._rest = b""
        self._sending = threading.Lock()  # or the pieces of two long messages would mix

    def fileno(self) -> int:
        """Its descriptor, for a selector."""
        return self.socket.fileno()

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self.socket.fileno() < 0

    def send(self, kind: str, **fields: Any) -> bool:
        """Send a message; False where the other side is gone, or does not read."""
        message = json.dumps({"is": kind, **fields}).encode() + b"\n"
        try:
            with self._sending:
                self.socket.sendall(message)
        except OSError:
            return False
        return True

    def receive(self) -> list[Message] | None:
        """The messages that have come, perhaps none yet; None once the other side is gone."""
        try:
            piece = self.socket.recv(PIECE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not piece:
            return None
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
