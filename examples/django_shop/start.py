"""Start the whole shop, as a process manager would: a mail server, the web process and a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MAIL = os.environ.setdefault("SHOP_SMTP", "127.0.0.1:8025")
MIGRATE = ["manage.py", "migrate", "--verbosity", "0"]
COMMANDS = {
    "mail": ["-u", "-m", "aiosmtpd", "--nosetuid", "--listen", MAIL],  # prints each mail
    "web": ["manage.py", "runserver", "--noreload", os.environ.get("PORT", "8000")],
    "worker": ["manage.py", "neoq", "worker", "--processes", "2"],
}


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as with Ctrl-C
    print(f"first: python {' '.join(MIGRATE)}", flush=True)
    subprocess.run([sys.executable, *MIGRATE], cwd=HERE, check=True)
    processes = []
    for name, command in COMMANDS.items():
        print(f"{name}: python {' '.join(command)}", flush=True)
        processes.append(subprocess.Popen([sys.executable, *command], cwd=HERE))
    try:
        processes[1].wait()
    except KeyboardInterrupt:  # a terminal has told all of them, and a kill only this one
        pass
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


if __name__ == "__main__":
    main()
