"""Secrets in payloads, results and errors are hidden; everything else is shown."""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from neoq.dashboard.mask import Mask
from neoq.wording.redact import MASK

SECRET = "hunter2"
SHOWN = Mask()


@pytest.mark.parametrize(
    "key",
    "password PASSWORD db_passwd userPassword passphrase secret client-secret token accessToken"
    " X-Auth-Token api_key apikey APIKey key signingKey private_key AWS_ACCESS_KEY authorization Cookie"
    " set-cookie credentials session sessionid auth pwd jwt pin"
    " \uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44".split(),
)
def test_the_value_of_a_secret_key_is_hidden(key: str) -> None:
    """The value of a key that looks like a secret is hidden, however it is written and however deep it is."""
    for value in (SECRET, [SECRET], {"a": SECRET}, 1234):
        payload = {"a": [{"b": {key: value, "c": 1}}], "d": "e"}
        assert SHOWN.value(payload) == {"a": [{"b": {key: MASK, "c": 1}}], "d": "e"}


def test_what_is_no_secret_is_shown() -> None:
    """Other keys are shown as they are, and so are booleans and nothing under a secret key."""
    payload = {
        "author": "ada", "monkey": 1, "primary_key": 7, "cache-key": "a", "keyboard": "de", "passed": 3,
        "max_tokens": 100, "password": None, "token": "", "secret": False, "big": 2**63, "text": "a: b = c",
    }  # fmt: skip
    assert SHOWN.value(payload) == payload
    assert json.dumps(payload) == json.dumps(SHOWN.value(payload))


@pytest.mark.parametrize(
    "text",
    [
        f"connect(password='{SECRET}', user='ada')",
        f"connect(password={SECRET}), user='ada'",
        f"login failed: token = \"{SECRET}\"; user=ada",
        f"{{'user': 'ada', 'password': '{SECRET}'}}",
        f"{{'user': 'ada', 'password': {{'it\\'s': ['{SECRET}', '}}']}}}}",
        f"SecretError: api_key: {SECRET} of ada",
        f"postgresql://ada:{SECRET}@db/x",
        f"redis://ada:a@{SECRET}@cache:6379",
        f"postgresql://ada:a/{SECRET}@db/x",
        f"https://db/x?user=ada&password={SECRET}&n=1",
        f"https://{SECRET}@git/ada",
        f"user: ada\nAuthorization: Bearer {SECRET}",
        f"GET /ada with Bearer {SECRET}abc",
        f"for ada eyJ{SECRET}abc.{SECRET}abc.{SECRET}",
        f"ada DETAIL: Key (session_token)=({SECRET}) already exists.",
        f"ada [(b'cookie', b'{SECRET}')]",
        f"ada Command ['mysql', '--password', '{SECRET}'] returned 1",
        f"ada: assert password == '{SECRET}'",
        f"ada password=SecretStr('{SECRET}')",
        f"ada -----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f'ada: invalid password "{SECRET}"',
        f"ada token => {SECRET}",
        f"ada <password>{SECRET}</password>",
        f"ada %22password%22%3A%22{SECRET}%22",
        f'ada headers: [["authorization", "Basic {SECRET}"]]',
        f"ada https://s3/x?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
        f"ada AccountName=a;AccountKey={SECRET}==;EndpointSuffix=core",
        f"ada AWS_SECRET_ACCESS_KEY={SECRET}",
        f'ada password = """{SECRET}"""',
        f"ada password=a\"b,{SECRET}",
        f'{{"user": "ada", "password": "a\\"{SECRET}',
        f'{{"user": "ada", "api_key": {{"a": [1, "]}}", "{SECRET}…',
        f'{{"user": "ada", "body": "{{\\"password\\": \\"x\\\\\\"{SECRET}\\", …',
    ],
)  # fmt: skip
def test_secrets_in_texts_are_hidden(text: str) -> None:
    """An error, a traceback and the beginning of a payload show neither secret values nor passwords."""
    shown = SHOWN.text(text)
    assert SECRET not in shown
    assert "ada" in shown
    assert SECRET in SHOWN.text(text, revealed=True)
    assert SECRET not in json.dumps(SHOWN.value({"text": [text]}))


def test_json_in_a_string_is_searched() -> None:
    """JSON within strings of JSON is searched too, and stays as it was written where it has no secret."""
    inner = json.dumps({"deep": json.dumps({"password": SECRET, "n": 1})})
    assert SECRET not in json.dumps(SHOWN.value({"body": inner}))
    assert SHOWN.value({"body": '{ "n":  1 }'}) == {"body": '{ "n":  1 }'}
    assert SHOWN.value({"headers": [["Cookie", SECRET]]}) == {"headers": [["Cookie", MASK]]}
    assert SHOWN.value({"env": [{"name": "DB_PASSWORD", "value": SECRET}]})["env"][0]["value"] == MASK


def test_a_mask_takes_more_names() -> None:
    """A pattern, names, or a function of a key hide more; a function may show what the mask would hide."""
    payload = {"iban": "DE1", "phone": "030", "token": SECRET}
    hidden = {"iban": MASK, "phone": "030", "token": MASK}
    for names in ("^IBAN$", re.compile("iban"), ["Iban"], lambda key: True if key == "iban" else None):
        assert Mask(names).value(payload) == hidden
    assert Mask(lambda key: key == "iban").value(payload) == {**payload, "iban": MASK}
    with pytest.raises(ValueError, match="no regular expression"):
        Mask("(")


def test_a_mask_that_raises_hides(caplog: pytest.LogCaptureFixture) -> None:
    """A function that raises for a key hides its value, and a formatter that raises shows nothing."""

    def fails(*_: Any) -> Any:
        raise KeyError("x")

    assert Mask(fails).value({"name": SECRET}) == {"name": MASK}
    assert SECRET not in str(Mask(formatter=fails).value({"name": SECRET}, revealed=True))
    assert SECRET not in Mask(formatter=fails).text(f"is {SECRET}", job=SimpleNamespace(id=7))
    assert "of job 7" in caplog.text


def test_a_formatter_changes_what_is_shown() -> None:
    """The formatter sees the field, the value and the job; what it returns is masked, unless revealed."""
    job = SimpleNamespace(id=7)
    seen: list[Any] = []

    def formatter(field: str, value: Any, job: Any) -> Any:
        seen.append((field, job.id))
        return {**value, "token": SECRET, "name": value["name"].upper()}

    mask = Mask(formatter=formatter)
    assert mask.value({"name": "ada"}, field="result", job=job) == {"name": "ADA", "token": MASK}
    assert mask.value({"name": "ada"}, job=job, revealed=True) == {"name": "ADA", "token": SECRET}
    assert seen == [("result", 7), ("payload", 7)]


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ("user.id", False),
        ("a.Password.x", True),
        ("api.key", True),
        ("n.0", False),
        ("env.0.value", True),
        ("a.value", False),
    ],
)
def test_hidden_values_cannot_be_searched_for(path: str, refused: bool) -> None:
    """A filter by a hidden value is refused, since its answer would show whether a guess is right."""
    assert bool(SHOWN.refusal_of(path)) is refused


def test_a_value_with_a_secret_in_it_cannot_be_searched_for() -> None:
    """A filter by a value of which a part is hidden is refused too."""
    assert SHOWN.refusal_of("url", "redis://ada:guess@cache")
    assert SHOWN.refusal_of("body", '{"password": "guess"}')
    assert SHOWN.refusal_of("url", "redis://cache") is None


def test_an_error_is_found_by_what_is_shown_of_it() -> None:
    """A search of errors finds no secret that is hidden in them."""
    assert SHOWN.finds("refused", f"refused: password={SECRET}")
    assert not SHOWN.finds("=hunt", f"refused: password={SECRET}")


@pytest.mark.parametrize(
    "part",
    [
        "\\",
        '"',
        "://",
        '"a":',
        "password=",
        "password=(",
        "eyJ-",
        "a",
        "--a ",
        "('a',",
        '"password":"\\',
        "'''",
        " ",
        '{"a":',
        "-----BEGIN ",
    ],
)
def test_no_text_takes_long(part: str) -> None:
    """The time for a hostile text grows no faster than its length."""
    start = time.process_time()
    SHOWN.text("@" + part * (32_000 // len(part)) + "@")
    SHOWN.value({"a": part * (32_000 // len(part))})
    assert time.process_time() - start < 3


def test_deep_json_is_hidden_and_breaks_nothing() -> None:
    """JSON that is nested very deep is hidden as a whole from some level on."""
    deep: Any = SECRET
    for _ in range(900):
        deep = [deep]
    assert SECRET not in json.dumps(SHOWN.value(deep))
