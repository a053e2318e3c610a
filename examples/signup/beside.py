"""The worker command in processes of its own, beside the web process, with its log on the screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from rich.console import Console

HERE = Path(__file__).parent
COMMAND = ["neoq", "worker", "worker:backend", "--processes", "2"]


class Worker:
    """Runs `neoq worker`: ``with Worker(console, mail_server) as worker``."""

    def __init__(self, console: Console, mail_server: tuple[str, int], *, verbose: bool = False) -> None:
        self._console = console
        self._mail_server = mail_server
        self._verbose = verbose

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        self._console.print(f"$ {' '.join(COMMAND)}", style="bold")
        host, port = self._mail_server
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        found = {
            "PYTHONPATH": os.pathsep.join(paths),
            "SIGNUP_SMTP": f"{host}:{port}",
            "SIGNUP_DEMO": str(os.getpid()),
        }
        options = ["--log-format", "json", "--name", f"demo-{os.getpid()}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *COMMAND, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | found,
            start_new_session=True,  # Ctrl-C is for the demo, which stops the worker
        )
        self._reader = threading.Thread(target=self._show)
        self._reader.start()

    def stop(self) -> None:
        """Stop it as a deploy does, by SIGTERM: jobs that run may end."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _show(self) -> None:
        """Print how the worker is; of the jobs that fail only when asked."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                entry = {"level": "INFO", "message": line.rstrip()}  # what is printed rather than logged
                if line.startswith("{"):
                    entry = json.loads(line)
                if self._verbose or entry["level"] == "INFO":
                    self._console.print(
                        f"  worker: {entry['message']}", markup=False, soft_wrap=True, style="cyan"
                    )
