"""The secrets of a URL, and how they are removed from texts and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

MASK = "***"
HOW_TO_WRITE = (
    "in a user or a password write / as %2F, ? as %3F, # as %23, @ as %40, % as %25, [ as %5B, ] as %5D and "
    "a blank as %20 (urllib.parse.quote(password, safe='') does it); elsewhere write @ as %40"
)
_FILES = frozenset({"sqlite", "memory"})  # URLs without a password; the name of a file may contain an @
_USERINFO = re.compile(r"(?:[^\x00-\x20\x7f/?#@\[\]\\%]|%[0-9A-Fa-f]{2})*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SECRET_NAME = re.compile(r"passw|secret|token|passfile", re.IGNORECASE)
_CONNINFO_SECRET = re.compile(r"(?:\w*passw\w*)\s*=\s*('(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)+)", re.IGNORECASE)
_HOST = re.compile(r"([^:\[\]]*|\[[0-9A-Fa-f:.%]*\])(:\d*)?")
_SHORT = 4  # characters; a shorter secret is masked only as a whole word


class Url(str):
    """A URL whose repr hides its secrets, also inside a dict or a dataclass."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shown(self))


class Secret(str):
    """A string whose repr is a mask."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


class Hider:
    """Removes secrets from texts and errors."""

    def __init__(self, secrets: Iterable[str | None] = ()) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        patterns = [
            re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
            for form in sorted(forms, key=len, reverse=True)
        ]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def text(self, text: str) -> str:
        """The text, with each secret replaced by a mask."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

    def error(self, error: BaseException) -> None:
        """Remove the secrets from an exception, and from those that it is chained to."""
        seen: set[int] = set()
        todo: list[BaseException | None] = [error]
        while todo:
            found = todo.pop()
            if found is None or id(found) in seen:
                continue
            seen.add(id(found))
            self._own_text(found)
            found.__cause__ = self._kept(found.__cause__)
            found.__context__ = self._kept(found.__context__)
            todo += [found.__cause__, found.__context__]

    def _own_text(self, error: BaseException) -> None:
        if self._shows(error):
            error.args = tuple(self.text(part) if isinstance(part, str) else part for part in error.args)

    def _kept(self, error: BaseException | None) -> BaseException | None:
        """An exception of a chain, or None if its text shows a secret that cannot be removed."""
        if error is None:
            return None
        self._own_text(error)
        return None if self._shows(error) else error

    def _shows(self, error: BaseException) -> bool:
        try:
            shown = f"{error} {error!r}"
        except Exception:  # an exception's own code may do anything
            return True
        return self.text(shown) != shown


def _forms(secret: str) -> set[str]:
    """The forms in which a secret may appear: as it is, in a URL, in a repr."""
    plain = unquote(secret)
    forms = {secret, plain, quote(plain, safe="", errors="replace"), repr(plain)[1:-1], repr(secret)[1:-1]}
    return {form for form in forms if form.strip()}


def shown(url: str) -> str:
    """A URL for display: everything before its last @ is masked, and so are passwords in its query."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _NAME.fullmatch(scheme.replace("+", "_")):
        return MASK
    before, at, rest = rest.rpartition("@") if scheme.lower() not in _FILES else ("", "", rest)
    place, mark, query = rest.partition("?")
    if "?" in before:  # the @ may stand in a value, or in a password with a ? in it
        return f"{scheme}://{MASK}"
    parts = [_shown_part(part) for part in query.split("&")]
    if not at and not all(map(_HOST.fullmatch, place.partition("/")[0].split(","))):
        place = MASK
    return f"{scheme}://{MASK if at else ''}{at}{place}{mark}{'&'.join(parts)}"


def _shown_part(part: str) -> str:
    name, equals, _ = part.partition("=")
    return f"{name}={MASK}" if equals and _SECRET_NAME.search(unquote(name)) else part


def secrets_of(url: str, known: Iterable[str] = ()) -> list[str]:
    """The parts of a URL, or of a libpq connection string, that must never be shown.

    That is its password. If the query contains an @, it may be the end of a password: then everything before
    the last @ is secret, except for the ``known`` names.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or " " in scheme or "=" in scheme:
        found = [match.strip("'") for match in _CONNINFO_SECRET.findall(url)]
        return [form for text in found for form in (text, re.sub(r"\\(.)", r"\1", text))]
    authority, tail = _split(rest)
    user, colon, password = authority.rpartition("@")[0].partition(":")
    secrets = [password if colon or scheme.startswith("postgres") else user]
    query = tail.partition("?")[2]
    parts = [part.partition("=")[::2] for part in query.split("&")]
    secrets += [value for name, value in parts if _SECRET_NAME.search(unquote(name))]
    if "@" in query:
        known = frozenset(known)
        late = [part.partition("=")[::2] for part in query.rpartition("@")[0].split("&")]
        secrets += [name for name, _ in late if name not in known]
        secrets += [value for _, value in late]
        after = query.rpartition("@")[2].partition("&")[0]
        secrets += [f"{name}@{after}" if not value else f"{value}@{after}" for name, value in late[-1:]]
    return [secret for secret in secrets if secret]


def _split(rest: str) -> tuple[str, str]:
    """Split what follows the scheme into the user and the hosts, and the path with everything after it."""
    end = re.search(r"[/?#]", rest)
    return (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])


def misread(url: str) -> str | None:
    """What is wrong with the characters of a URL: an unencoded password may look like another part."""
    try:
        url.encode()
    except UnicodeEncodeError:
        return "the URL contains a character that UTF-8 cannot encode"
    if re.search(r"[\x00-\x1f\x7f]", url):
        return "the URL contains a control character, such as a line end or a tab; remove it"
    scheme, _, rest = url.partition("://")
    authority, tail = _split(rest)
    userinfo, at, _ = authority.rpartition("@")
    if at and not _USERINFO.fullmatch(userinfo):
        return f"the user or the password contains a character that must be encoded: {HOW_TO_WRITE}"
    if "@" in tail and not _may_have_an_at(scheme.lower(), authority, tail):
        return f"the URL has an @ after what looks like its host: {HOW_TO_WRITE}"
    return None


def _may_have_an_at(scheme: str, authority: str, tail: str) -> bool:
    path, _, query = tail.partition("?")
    if scheme not in _FILES and ("@" in path or "#" in query or "#" in path):
        return False
    names = [part.partition("=")[0] for part in query.split("&") if part]
    if "@" in query and not all(map(_NAME.fullmatch, names)):
        return False
    has_port = re.fullmatch(r"(?:[^@]*@)?(?:[^:@]*(?::\d*)?|\[[^\]]*\](?::\d*)?)", authority) is not None
    return "@" in authority or "," in authority or has_port
