"""Secrets in running text: in JSON and reprs that may be cut off, in key=value, in URLs and headers.

Every repetition in the patterns has a bound, or gives nothing back, so that no text of a job makes them slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from neoq.wording.redact import MASK

_QUOTE = r"""\\{0,15}+["']"""
_NAME = r"[A-Za-z_][\w.-]*+"
_KEY = re.compile(
    rf"""
      (?P<quote>{_QUOTE})(?P<quoted>[^"'\\\n]{{1,100}}+)(?P=quote)\s{{0,20}}(?:[:=]>?|:=)\s{{0,20}}
    | [(\[][bru]?(?P<other>["'])(?P<pair>{_NAME})(?P=other),\s{{0,20}}                     # ('token', 'abc')
    | --(?P<flag>{_NAME})(?:=|["']?,?\s{{1,20}})                                        # --token abc
    | <(?P<tag>{_NAME})>(?=[^<])                                                        # <token>abc</token>
    | (?<![\w.-])(?P<bare>{_NAME})(?:{_QUOTE})?
      (?:\)?[ \t]{{0,20}}(?:={{1,2}}>?|:=)[ \t]{{0,20}}|:[ \t]{{0,20}}(?!//)|[ ]{{1,3}}(?=["']))
    | (?:(?<![\w.-])|(?<=%22)|(?<=%27))(?P<coded>{_NAME})(?:%22|%27)?%3[AaDd](?:%20|\+)?  # token%3Dabc
    """,
    re.VERBOSE,
)
_URL = re.compile(
    r"(?<=://)(?:[^\s/'\"<>?#]{0,256}|[^\s/:@'\"<>]{0,100}:(?!\d{1,5}[/?#])[^\s'\"<>]{0,256})(?=@)"
)
_HEADER = re.compile(r"\b(Bearer|Basic)(\s{1,5})(?!auth|token|valid|scheme)[\w.~+/=-]{6,}", re.IGNORECASE)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}-----|\Z)", re.DOTALL)
_COLON = re.compile(rf"({_NAME}):[ ]")
_OPEN = {"{": "}", "[": "]", "(": ")"}
_NOTHING = re.compile(r"(?:null|true|false|None|True|False)(?![\w.-])")
# A quote or a comma within it belongs to it where no blank and no other key follows.
_BARE = re.compile(r"""(?:[^\s,;&()\[\]{}"'<>]|["'](?=\w)|[,;](?=\w)(?![\w.-]{1,80}[ ]?[=:]))+""")
_TAGGED = re.compile(r"[^<]+(?=</)")
_LINE = re.compile(r"[^\n]+")
_STRING = re.compile(r"""[bru]{0,2}(\\{0,15}(?:\"""|'''|["']))""")
_WHOLE_LINE = re.compile(r"(?:proxy.?)?authorization|(?:set.?)?cookie", re.IGNORECASE)


def hide(text: str, hides: Callable[[str], bool]) -> str:
    """The text with each value masked whose key ``hides`` names, and passwords in URLs and headers."""
    if "BEGIN" in text:
        text = _PEM.sub(MASK, text)
    text = _keys_hidden(text, hides)
    text = _JWT.sub(MASK, _HEADER.sub(rf"\1\2{MASK}", text))
    return _URL.sub(_userinfo, text) if "://" in text and "@" in text else text


def _userinfo(match: re.Match[str]) -> str:
    user, colon, _ = match[0].partition(":")
    return f"{user}:{MASK}" if colon else MASK


def _keys_hidden(text: str, hides: Callable[[str], bool]) -> str:
    parts: list[str] = []
    done = at = 0
    while match := _KEY.search(text, at):
        start = match.end()
        name = str(match[match.lastgroup or 0])
        follows = _COLON.match(text, start)  # token: password: abc
        if hides(name) and not (follows and hides(follows[1])):
            end = _end_of_value(text, start, name)
            parts += [text[done:start], MASK if end > start else ""]
            done = at = end
        else:
            at = match.start() + 1  # what looks like a key may hold another one
    parts.append(text[done:])
    return "".join(parts)


def _end_of_value(text: str, start: int, name: str) -> int:
    """Where the value that begins here ends; where it begins, for one with nothing to hide."""
    if _NOTHING.match(text, start):
        return start
    if quoted := _STRING.match(text, start):
        return _end_of_string(text, quoted.end(), quoted[1])
    if text[start - 1] == ">" and (tagged := _TAGGED.match(text, start)):
        return tagged.end()
    if _WHOLE_LINE.fullmatch(name) and (line := _LINE.match(text, start)):
        return line.end()
    end = start
    while end < len(text):  # a name and what it is called with: SecretStr('abc')
        bare = _BARE.match(text, end)
        after = bare.end() if bare else end
        if text[after : after + 1] in _OPEN:
            after = _end_of_block(text, after)
        if after == end:
            break
        end = after
    return end


def _end_of_string(text: str, start: int, quote: str) -> int:
    """Past the closing quote: the same one, with as many backslashes before it.

    A repr doubles the backslashes of JSON in a string, so a quote before a letter may be one of the value.
    """
    mark = quote.lstrip("\\")
    level = len(quote) - len(mark)
    at = start
    while (at := text.find(mark, at)) >= 0:
        before = at
        while before > start and text[before - 1] == "\\":
            before -= 1
        after = text[at + len(mark) : at + len(mark) + 2].lstrip("\\")
        if (at - before) % (2 * level + 2) == level and not (after[:1].isalnum() and before < at):
            return at + len(mark)
        at += 1
    return len(text)


def _end_of_block(text: str, start: int) -> int:
    """Past the bracket that closes the one here; the end of the text where it is cut off."""
    open_ones: list[str] = []
    at = start
    while at < len(text):
        if text[at] in _OPEN:
            open_ones.append(_OPEN[text[at]])
        elif open_ones and text[at] == open_ones[-1]:
            open_ones.pop()
            if not open_ones:
                return at + 1
        elif text[at] in "\\\"'" and (quoted := _STRING.match(text, at)):
            at = _end_of_string(text, quoted.end(), quoted[1])
            continue
        at += 1
    return len(text)
