"""What `neoq worker worker:backend` runs beside the demo: the handlers, on the store that NEOQ_URL names."""

from __future__ import annotations

import os
import signal
import threading
import time

import jobs

import neoq

host, _, port = os.environ["SIGNUP_SMTP"].rpartition(":")
backend = neoq.connect()
jobs.listen(backend, (host, int(port)))


def end_with_the_demo() -> None:
    """Die when the demo is killed, as if the whole machine had failed; its mail server is gone, too."""
    demo = int(os.environ["SIGNUP_DEMO"])
    try:
        while True:
            os.kill(demo, 0)
            time.sleep(0.1)
    except ProcessLookupError:
        os.killpg(0, signal.SIGKILL)


threading.Thread(target=end_with_the_demo, daemon=True).start()
