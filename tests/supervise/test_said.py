"""What a line of output says, by the names that loggers of many languages have."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from meshtrio.supervise.processes.output import fields_of
from meshtrio.supervise.said import Said, said_in


def said(line: str) -> Said:
    return said_in(line, fields_of(line))


@pytest.mark.parametrize("line", ["plain", "", '{"cut": ', "[1]", "ERROR: no"])
def test_a_line_in_plain_text_says_what_it_is_and_counts_as_info(line: str) -> None:
    assert said(line) == Said(line, logging.INFO)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (
            {"level": "warning", "message": "m", "n": 1},
            Said("m", logging.WARNING, fields={"n": 1}),
        ),
        (
            {"severity": "Fatal", "msg": "m", "logger_name": "l", "stack_trace": "t"},
            Said("m", logging.CRITICAL, "l", exception="t", fields={}),
        ),
        (
            {"lvl": "trace", "event": "e", "traceId": "t", "spanId": "s"},
            Said("e", logging.DEBUG, trace_id="t", span_id="s", fields={}),
        ),
        ({"level": 30, "message": "m"}, Said("m", fields={"level": 30})),
        ({"level": "loud", "message": ""}, Said("", fields={"level": "loud"})),
        ({"message": "\ud800", "msg": "x"}, Said("\ufffd", fields={"msg": "x"})),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_line_of_json_is_taken_apart(fields: Any, found: Said) -> None:
    assert said(json.dumps(fields)) == found


def test_one_without_a_message_is_its_own() -> None:
    assert said('{"n": 1}') == Said('{"n": 1}', fields={"n": 1})


def test_the_lines_that_people_read() -> None:
    assert Said("a\nb", exception="Traceback\nOSError: c\n").lines == [
        "a", "b", "Traceback", "OSError: c",
    ]  # fmt: skip
    assert Said("", exception="c").lines == ["c"]
    assert Said("").lines == [""]
