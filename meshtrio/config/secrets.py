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
        *("signature", "jwt", "license", "headers"),
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

_VALUE_OPTIONS = frozenset(("-H", "--header", "-a"))
"""Options whose values often are secret: header fields, and the password of redis-cli."""
_USER_OPTIONS = frozenset(("-u", "-U", "--user", "--proxy-user"))
"""Options whose values have a secret in them if they have a colon."""
_JOINED_OPTION = re.compile(r"(?P<option>-p)(?![0-9]+$)\S|(?P<header>-H)\S|(?P<user>-[uU])\S*:")
"""The beginning of an option with its value: `-phunter2` in the style of MySQL."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=")
"""The beginning of an environment variable, as for env(1)."""
_OPTION_NAME = re.compile(r"-*[A-Za-z][A-Za-z0-9_.-]*")
_ASSIGNMENT = re.compile(
    r"(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]++)[\"'\]]*+\s*+(?:=>|:=|\+=|=|:)\s*+(?=\S)"
)
"""A name, and what is between it and a value."""
_OPTION = re.compile(r"(?<!\S)(?P<name>--?[A-Za-z][A-Za-z0-9_.-]*+)\s++(?=\S)")
"""An option, and what is between it and the next word."""
_QUERY = re.compile(r"(?<=[?#]).+")
_QUERY_PART = re.compile(r"(?P<name>[^&;#?=]*=)?[^&;#?]+")
_TEXT_WORD = re.compile(r"\S+")
_TOKEN = re.compile(r"[A-Za-z0-9_+/=~-]{16,}")
_PATH = re.compile(r"(?<![^\s=:\"'(,])(?:~|\.{1,2})?/[^\s\"']*")
"""A path, also as the value of an option, or as what follows the scheme of a URL."""
_TOKEN_PREFIX = re.compile(
    r"(?:sk|pk|rk|gh[a-z]|xox[a-z]|glpat|hvs|npm|pypi)[_-]|eyJ|AKIA|ASIA|AIza"
)
_HEXADECIMAL = re.compile(r"[0-9a-fA-F-]{32,}")
_NUMBER = re.compile(r"[0-9]+")
_MIN_NUMBERS = 5
"""Number of groups of digits from which on a long word looks random."""
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
    return _QUERY_PART.sub(lambda part: f"{part['name'] or ''}{MASK}", found[0])


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
    return _mask_random(mask_url(text))


def _mask_random(text: str) -> str:
    masked, start = [], 0
    for path in _PATH.finditer(text):
        masked.append(_mask_tokens(text[start : path.start()]))
        # One by one: together, the names of folders such as those of mktemp(1) look random.
        masked.append("/".join(map(_mask_tokens, path[0].split("/"))))
        start = path.end()
    return "".join((*masked, _mask_tokens(text[start:])))


def _mask_tokens(text: str) -> str:
    return _TOKEN.sub(lambda found: MASK if _looks_random(found[0]) else found[0], text)


def _looks_random(word: str) -> bool:
    if _TOKEN_PREFIX.match(word) or _HEXADECIMAL.fullmatch(word):
        return True
    has_slash = "/" in word
    if word.startswith("/"):
        return any(map(_looks_random, word.split("/")))
    if len(word) < (_MIN_TOKEN_LENGTH_WITH_SLASH if has_slash else _MIN_TOKEN_LENGTH):
        return False
    kinds = (str.isdigit, str.isupper, str.islower)
    has_all_kinds = all(any(map(kind, word)) for kind in kinds)
    return has_all_kinds or len(_NUMBER.findall(word)) >= _MIN_NUMBERS


def mask_words(words: Iterable[str]) -> list[str]:
    """Mask what may be secret in the words of a command."""
    masked: list[str] = []
    option = ""  # The word before, if it is an option, or may be the name of a secret.
    for position, word in enumerate(words):
        if option and _is_secret_value(option, word):
            masked.append(MASK)
            option = ""
            continue
        masked.append(_mask_word(word))
        option = word if position > 0 and _OPTION_NAME.fullmatch(word) else ""
    return masked


def _is_secret_value(option: str, value: str) -> bool:
    """Whether a word is a secret by the one before it."""
    if option == "-p":
        return not value.isdecimal()
    if option in _USER_OPTIONS:
        return ":" in value
    return option in _VALUE_OPTIONS or is_secret_name(option)


def _mask_word(word: str) -> str:
    name, sign, value = word.partition("=")
    if sign and _is_secret_value(name, value):
        return f"{name}={MASK}"
    if found := _VARIABLE.match(word):
        return f"{found[0]}{MASK}"
    if found := _JOINED_OPTION.match(word):
        return f"{next(filter(None, found.groups()))}{MASK}"
    return mask_text(word)
