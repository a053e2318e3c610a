"""How much text of a handler's making a store is given: an error may hold a whole page, or a statement."""

from __future__ import annotations

MAX_TYPE = 1024  # bytes of an exception's class
MAX_ERROR = 8 * 1024  # bytes of an exception's message
MAX_TRACEBACK = 64 * 1024  # bytes


def cut(text: str, limit: int) -> str:
    """A text of at most ``limit`` bytes and a mark: its beginning and its end, where it is longer."""
    if len(text) * 4 <= limit:
        return text
    size = len(text.encode("utf-8", "surrogatepass"))
    if size <= limit:
        return text
    tail = limit // 4
    head = _part(text[: limit - tail], limit - tail, last=False)
    end = _part(text[-tail:], tail, last=True) if tail else ""
    return f"{head}\n... [cut here: {size:,} bytes in all] ...\n{end}"


def _part(text: str, limit: int, *, last: bool) -> str:
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limit:
        return text
    data = data[-limit:] if last else data[:limit]
    return data.decode("utf-8", "ignore")  # without a character that was cut through
