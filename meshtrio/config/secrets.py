"""Masks what is secret in texts of a config, or may be. Pure.

Rather too much is masked than too little: the result is for people to read, and all who may use the
control of a mesh see it. No rule finds a secret that looks like any other word; those belong in
environment variables, all of which are masked, and in files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"
"""What stands for a secret."""

_SECRET_WORDS = frozenset(
    (
        *("pass", "passcode", "pwd", "pw", "pin", "otp", "salt", "key", "keys", "dsn", "auth"),
        *("authorization", "bearer", "creds", "cookie", "cookies", "session", "sid", "sig"),
        *("signature", "jwt", "license", "header", "headers"),
    )
)
"""Words of a name that say that what it names is secret."""
_SECRET_PARTS = (
    *("password", "passwd", "passphrase", "requirepass", "secret", "token", "credential"),
    *("apikey", "accesskey", "privatekey", "webhook"),
)
"""The same, as any part of a name without its signs."""
_FILE_WORDS = frozenset(("file", "path", "dir", "folder", "directory"))
"""Last words of the names of files with secrets, which are no secrets."""
_NAME_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_VALUE_OPTIONS = frozenset(("-H", "-p", "-u", "-U", "-a", "--user", "--proxy-user"))
"""Options whose values often are secret, or have a secret in them."""
_PASSWORD_OPTION = re.compile(r"-p(?![0-9]+$)\S")
"""The beginning of a password in the style of MySQL: `-phunter2`."""
_OPTION_NAME = re.compile(r"-*[A-Za-z][A-Za-z0-9_.-]*")
_ASSIGNMENT = re.compile(
    r"(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]++)[\"'\]]*+\s*+(?:=>|:=|\+=|=|:)\s*+(?=\S)"
)
"""A name, and what is between it and a value."""
_OPTION = re.compile(r"(?<!\S)(?P<name>--?[A-Za-z][A-Za-z0-9_.-]*+)\s++(?=\S)")
"""An option, and what is between it and the next word."""
_QUERY = re.compile(r"(?<=[?#]).+")
_QUERY_VALUE = re.compile(r"(?<==)[^&;#]+")
_TEXT_WORD = re.compile(r"\S+")
_TOKEN = re.compile(r"[A-Za-z0-9_+/=~-]{16,}")
_TOKEN_PREFIX = re.compile(
    r"(?:sk|pk|rk|gh[a-z]|xox[a-z]|glpat|hvs|npm|pypi)[_-]|eyJ|AKIA|ASIA|AIza"
)
_HEXADECIMAL = re.compile(r"[0-9a-fA-F-]{32,}")
_MIN_TOKEN_LENGTH = 20
_MIN_TOKEN_LENGTH_WITH_SLASH = 40
"""Characters of a word of digits and letters of both cases from which on it looks random; those
with slashes may be paths."""


def is_secret_name(name: str) -> bool:
    """Whether a name says that what it names is secret, such as `DB_PASSWORD` or `apiKey`."""
    words = [each.lower() for each in _NAME_WORD.findall(name)]
    if not words or words[-1] in _FILE_WORDS:
        return False
    joined = "".join(words)
    has_part = any(part in joined for part in _SECRET_PARTS)
    return has_part or any(each in _SECRET_WORDS or each.endswith("pass") for each in words)


def mask_url(text: str) -> str:
    """Mask the users and the queries of URLs in a text, and what precedes the `@` of others."""
    if "@" not in text and "//" not in text:
        return text
    return _TEXT_WORD.sub(lambda found: _mask_url_word(found[0]), text)


def _mask_url_word(word: str) -> str:
    before, at, rest = word.rpartition("@")
    scheme, slashes, _ = before.partition("//")
    # A mail address has no password, nor has a path.
    if at and (slashes or (":" in before and not before.startswith("unix:/"))):
        word = f"{scheme}{slashes}{MASK}@{rest}" if slashes else f"{MASK}@{rest}"
    if "//" in word:
        word = _QUERY.sub(_mask_query, word, count=1)
    return word


def _mask_query(found: re.Match[str]) -> str:
    query = found[0]
    return _QUERY_VALUE.sub(MASK, query) if "=" in query else MASK


def mask_text(text: str) -> str:
    """Mask what may be secret in a text.

    Of what is assigned to the name of a secret nothing is left, to the end of the text: where a
    value ends depends on the language that the text is in.
    """
    ends = [
        found.end()
        for pattern in (_ASSIGNMENT, _OPTION)
        for found in pattern.finditer(text)
        if is_secret_name(found["name"])
    ]
    if ends:
        text = f"{text[: min(ends)]}{MASK}"
    return _TOKEN.sub(lambda found: MASK if _looks_random(found[0]) else found[0], mask_url(text))


def _looks_random(word: str) -> bool:
    if _TOKEN_PREFIX.match(word) or _HEXADECIMAL.fullmatch(word):
        return True
    has_slash = "/" in word
    if has_slash and word.startswith("/"):
        return any(map(_looks_random, word.split("/")))
    least = _MIN_TOKEN_LENGTH_WITH_SLASH if has_slash else _MIN_TOKEN_LENGTH
    kinds = (str.isdigit, str.isupper, str.islower)
    return len(word) >= least and all(any(map(kind, word)) for kind in kinds)


def mask_words(words: Iterable[str]) -> list[str]:
    """Mask what may be secret in the words of a command."""
    masked: list[str] = []
    is_value = False
    for position, word in enumerate(words):
        if is_value:
            masked.append(MASK)
        elif _PASSWORD_OPTION.match(word):
            masked.append(f"-p{MASK}")
        else:
            masked.append(mask_text(word))
        is_name = position > 0 and not is_value and _OPTION_NAME.fullmatch(word) is not None
        is_value = is_name and (word in _VALUE_OPTIONS or is_secret_name(word))
    return masked
