"""Payloads as they are given to a command."""

from __future__ import annotations

import sys
from typing import Any

from neoq.cli.exits import CommandError, Exit


def payload_in(text: str) -> dict[str, Any]:
    """The payload that a text of JSON is; ``-``: standard input has it. Raises CommandError for none."""
    import orjson

    try:
        payload = orjson.loads(_standard_input() if text == "-" else text)
    except ValueError as error:
        raise CommandError(f"the payload is not JSON: {error}", Exit.USAGE) from error
    if not isinstance(payload, dict):
        raise CommandError('the payload is a JSON object, such as \'{"to": "ada@example.com"}\'', Exit.USAGE)
    return payload


def _standard_input() -> str:
    if sys.stdin is None:
        raise CommandError("standard input is closed, so there is no payload to read", Exit.USAGE)
    return sys.stdin.read()
