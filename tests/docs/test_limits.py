"""docs/reference/limits.md has every limit, and the texts in it are those of the code."""

from __future__ import annotations

import ast
import re
import signal
import sys
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from meshtrio.grpc.status import StatusCode
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.frames import FrameType, Setting
from tests import ROOT

sys.path.insert(0, str(ROOT / "docs"))
limits = import_module("limits")
limit_rows = import_module("limit_rows")
PACKAGE = ROOT / "meshtrio"
_MAX_PIECES = 4
"""Number of strings that a text of a message may be put together from."""
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|%[sdgr]|%\(\w+\)s")
_NOT_CODES = {"EMFILE", "ENOMEM", "HTTP", "NOT_SERVING"}


def _missing(found: set[str]) -> list[str]:
    return sorted(found - {*limit_rows.LIMITS} - {*limit_rows.NO_LIMITS})


def test_no_numeric_field_of_a_config_is_forgotten() -> None:
    found = {*limits.numeric_fields()}
    assert len(found) > 80
    assert _missing(found) == [], "each is a limit, or in no_limits of docs/limits.toml"


def test_no_constant_is_forgotten() -> None:
    found = {*limits.limit_constants(PACKAGE)}
    assert len(found) > 150
    assert _missing(found) == [], "each is a limit, or in no_limits of docs/limits.toml"


def test_what_is_no_limit_exists_and_is_none() -> None:
    assert [key for key in limit_rows.NO_LIMITS if key in limit_rows.LIMITS] == []
    for key in limit_rows.NO_LIMITS:
        limits.value_of(key)


# -- texts -------------------------------------------------------------------------------------


@cache
def _texts_by_module() -> dict[Path, str]:
    """By module, its strings; "\\0" stands for what varies, and ends each of them."""
    return {path: "\0".join(_strings(path)) for path in PACKAGE.rglob("*.py")}


def _strings(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (each.value if isinstance(each, ast.Constant) else "\0" for each in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(_PLACEHOLDER.sub("\0", node.value))
    return found


def _is_composed(text: str, strings: str) -> bool:
    """Whether a text can be put together from a few parts of the strings.

    Each part is the longest that there is, since parts of parts are in the strings, too.
    """
    pieces, rest = 0, text
    while rest and pieces < _MAX_PIECES:
        fitting = next((n for n in range(len(rest), 0, -1) if rest[:n] in strings), 0)
        if not fitting:
            return False
        pieces, rest = pieces + 1, rest[fitting:]
    return not rest


def _quotes() -> list[str]:
    texts = [limit.reached for limit in limit_rows.LIMITS.values()]
    texts += [limit_rows.INTRODUCTION, *(table.text for table in limit_rows.TABLES)]
    spans = [span for text in texts for span in re.findall(r"`([^`]+)`", re.sub(r"\s+", " ", text))]
    return sorted({span for span in spans if " " in span and not span.startswith("meshtrio ")})


@pytest.mark.parametrize("quote", _quotes())
def test_a_text_is_one_of_the_code(quote: str) -> None:
    fragments = [part.strip() for part in quote.split("…") if part.strip(" :;,.()")]
    assert any(
        all(_is_composed(fragment, strings) for fragment in fragments)
        for strings in _texts_by_module().values()
    ), f"no module has the strings for {fragments}"


def test_codes_exist() -> None:
    known = _NOT_CODES | {each.name for kind in (StatusCode, ErrorCode) for each in kind}
    known |= {each.name for each in FrameType} | {each.name for each in signal.Signals}
    known |= {f"SETTINGS_{each.name}" for each in Setting}
    words = {
        word
        for limit in limit_rows.LIMITS.values()
        for word in re.findall(r"\b[A-Z][A-Z_]{3,}\b", limit.reached)
    }
    assert "RESOURCE_EXHAUSTED" in words
    assert sorted(words - known) == []


# -- defaults ----------------------------------------------------------------------------------


def test_defaults_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `?(\w+)`?:[^|]+\| ([^|]+) \|", limits.page(), re.MULTILINE))
    assert rows["max_concurrent_streams"] == "1,000 streams"
    assert rows["stream_window"] == "256 KiB"
    assert rows["max_send_header_list_size"] == "65,535 bytes"
    assert rows["keepalive_time"] == "none"
    assert rows["reset_grace"] == "0.01 s"


def test_a_default_that_is_written_by_hand_is_not_a_number_of_the_code() -> None:
    """Those that are have to be the same number."""
    for key, limit in limit_rows.LIMITS.items():
        written = re.match(r"([\d,]+)( KiB)?", limit.default)
        value = limits.value_of(key)
        if written and type(value) is int:
            number = int(written[1].replace(",", "")) * (1024 if written[2] else 1)
            assert number == value, key


def test_tables_have_limits_in_sections() -> None:
    assert limit_rows.TABLES[0].section
    assert all(table.limits for table in limit_rows.TABLES)
    headings = [table.heading or table.section for table in limit_rows.TABLES]
    assert all(one != other for one, other in pairwise(headings))
