"""Payloads as they are given to a command."""

from __future__ import annotations

from typing import Any

from neoq.cli.exits import CommandError, Exit


def payload_in(text: str) -> dict[str, Any]:
    """The payload that a text of JSON is. Raises CommandError for what is none."""
    import orjson

    try:
        payload = orjson.loads(text)
    except ValueError as error:
        raise CommandError(f"the payload is not JSON: {error}", Exit.USAGE) from error
    if not isinstance(payload, dict):
        raise CommandError('the payload is a JSON object, such as \'{"to": "ada@example.com"}\'', Exit.USAGE)
    return payload
