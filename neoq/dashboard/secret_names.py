"""Which names of values look like secrets: password, apiKey, X-Auth-Token and their like."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
# A part of the name, written together or apart.
_PARTS = re.compile(
    "pass(?:word|wd|phrase|code|_?key)|passwort|kennwort|contrase|mot_?de_?passe|secret|token|credential|authoriz"
    "|(?:api|access|private|priv|ssh|signing|encryption)_?key|authentic|cookie|session|csrf|bearer|signature"
)
_WORDS = frozenset("auth pwd pw pass pin otp totp sig cvv cvc ssn jwt creds dsn".split())
_NO_VALUES = frozenset("error exception warning required expired".split())  # as in TokenError
_KEYS = frozenset({"key", "keys"})  # as the last word, unless the one before says what it is for
_HARMLESS_KEYS = frozenset(
    "primary foreign sort partition cache routing public idempotency lookup group order unique dedup".split()
)


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether the value under a name is likely to be a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _NO_VALUES:
        return False
    if _PARTS.search("_".join(words)) or _PARTS.search("".join(words)) or not _WORDS.isdisjoint(words):
        return True
    return words[-1] in _KEYS and not (len(words) > 1 and words[-2] in _HARMLESS_KEYS)
