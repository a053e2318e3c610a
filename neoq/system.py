"""Functions of the system that not every system has: Windows has no fork, no uname and no poll."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Collection

from neoq.threads.boundary import entrance


def at_fork(
    *,
    before: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
) -> None:
    """Register functions to be called around every fork, if the system has forks."""
    if not hasattr(os, "register_at_fork"):
        return
    hooks = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    os.register_at_fork(**{name: entrance(hook) for name, hook in hooks.items() if hook is not None})


def host_name() -> str:
    """The name of this machine."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket

    return socket.gethostname()


def memory_used() -> int | None:
    """How many bytes of this process are in RAM, where the system tells it in a file, as Linux does."""
    if not hasattr(os, "sysconf"):
        return None
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, LookupError):
        return None


def wait_to_read(descriptors: Collection[int], seconds: float) -> bool:
    """Wait until one of these can be read or its other end is closed. Return False after ``seconds``."""
    if not hasattr(select, "poll"):
        return any(select.select(descriptors, [], [], seconds))
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(seconds * 1000))
