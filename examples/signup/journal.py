"""A file of the promised and the delivered mails, which survives if the demo is killed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Self

Mails = defaultdict[str, Counter[str]]  # for each kind, how many mails each job sent


class Journal:
    """One line for each mail that was promised to a client, and for each that the mail server accepted.

    Without a path nothing is stored: jobs in memory do not survive the demo either.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.promised: Mails = defaultdict(Counter)  # by the runs before this one
        self.delivered: Mails = defaultdict(Counter)
        if path is not None:
            self._read(path)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @classmethod
    def of(cls, url: str) -> Self:
        """The journal of the jobs at a URL."""
        name = hashlib.sha256(f"{url} {Path.cwd()}".encode()).hexdigest()[:12]
        return cls(Path(tempfile.gettempdir()) / f"neoq-demo-{name}.journal")

    def write(self, what: str, kind: str, job_id: str) -> None:
        """Record that a mail was ``promised`` or ``delivered``; the record survives this process."""
        if self.path is not None:
            os.write(self._file, f"{what} {kind} {job_id}\n".encode())

    def clear(self) -> None:
        """Empty the file: its mails are accounted for."""
        if self.path is not None:
            os.truncate(self._file, 0)

    def close(self) -> None:
        """Close the file, and delete it if it is empty."""
        if self.path is not None:
            os.close(self._file)
            if not self.path.stat().st_size:
                self.path.unlink()

    def _read(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for what, kind, job_id in map(str.split, lines):
            (self.promised if what == "promised" else self.delivered)[kind][job_id] += 1
