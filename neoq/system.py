"""What not every system has. Windows has no fork, no uname and no poll."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Collection

from neoq.boundary import entrance


def at_fork(
    *,
    before: Callable[[], object] | None = None,
    after_in_parent: Callable[[], object] | None = None,
    after_in_child: Callable[[], object] | None = None,
) -> None:
    """Have functions called around every fork, where there are forks."""
    if not hasattr(os, "register_at_fork"):
        return
    hooks = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    os.register_at_fork(**{name: entrance(hook) for name, hook in hooks.items() if hook is not None})


def host_name() -> str:
    """What this machine calls itself."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket

    return socket.gethostname()


def wait_to_read(descriptors: Collection[int], seconds: float) -> bool:
    """Wait until there is something to read of one of these, or its other end is closed; whether there is."""
    if not hasattr(select, "poll"):
        return any(select.select(descriptors, [], [], seconds))
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(seconds * 1000))
