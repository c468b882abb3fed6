"""Parsing lines of structured logging, by the keys of loggers of many languages."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from meshtrio.supervisor.log_line import ParsedLine, parse_line
from meshtrio.supervisor.process.output.output_lines import parse_json_fields


def parse(line: str) -> ParsedLine:
    return parse_line(line, parse_json_fields(line))


@pytest.mark.parametrize("line", ["plain", "", '{"cut": ', "[1]", "ERROR: no"])
def test_a_line_in_plain_text_says_what_it_is_and_counts_as_info(line: str) -> None:
    assert parse(line) == ParsedLine(line, logging.INFO)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (
            {"level": "warning", "message": "m", "n": 1},
            ParsedLine("m", logging.WARNING, fields={"n": 1}),
        ),
        (
            {"severity": "Fatal", "msg": "m", "logger_name": "l", "stack_trace": "t"},
            ParsedLine("m", logging.CRITICAL, "l", exception="t", fields={}),
        ),
        (
            {"lvl": "trace", "event": "e", "traceId": "t", "spanId": "s"},
            ParsedLine("e", logging.DEBUG, trace_id="t", span_id="s", fields={}),
        ),
        ({"level": 30, "message": "m"}, ParsedLine("m", fields={"level": 30})),
        ({"level": "loud", "message": ""}, ParsedLine("", fields={"level": "loud"})),
        ({"message": "\ud800", "msg": "x"}, ParsedLine("\ufffd", fields={"msg": "x"})),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_of_json_is_taken_apart(fields: Any, found: ParsedLine) -> None:
    assert parse(json.dumps(fields)) == found


def test_one_without_a_message_is_its_own() -> None:
    assert parse('{"n": 1}') == ParsedLine('{"n": 1}', fields={"n": 1})


def test_the_lines_that_people_read() -> None:
    assert ParsedLine("a\nb", exception="Traceback\nOSError: c\n").lines == [
        "a", "b", "Traceback", "OSError: c",
    ]  # fmt: skip
    assert ParsedLine("", exception="c").lines == ["c"]
    assert ParsedLine("").lines == [""]
