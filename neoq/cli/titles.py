"""What a process does, shown in ps and top where setproctitle is installed."""

from __future__ import annotations


def entitle(title: str) -> None:
    """Give this process a title."""
    try:
        import setproctitle
    except ImportError:
        return
    setproctitle.setproctitle(f"neoq: {title}")
