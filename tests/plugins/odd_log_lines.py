"""Writes all that a log could break on, then a last line, and is never ready."""

import json
import os
import time

LINES = [
    b"plain",
    b"",
    b"\xff\xfe \x00 \x1b[31mred\x07 \r",
    "next line \x85, separator \u2028, \U0001f600".encode(),
    b'{"message": "two\\nlines \\u001b[2J", "n": NaN, "big": 1e999, "huge": -Infinity}',
    b'{"message": "half a pair \\ud800", "level": "warning", "x": "\\udfff"}',
    b'{"level": {"not": "a text"}, "message": ["neither"]}',
    b'{"message": "' + b"x" * 10_000 + b'"}',
    b'{"message": "' + b"\\u0000" * 1300 + b'"}',
    b'{"fields": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b"{" * 4000 + b"}" * 4000,
    b'{"plugin": "another", "time": "then", "event": "ready", "instance": {}}',
    b'{"message": "m", "number": ' + b"9" * 4000 + b"}",
    json.dumps(
        {
            "level": "error",
            "message": "it failed",
            "logger": "shop.orders",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "span_id": "00f067aa0ba902b7",
            "exception": "Traceback (most recent call last):\n  in f\nOSError: no such table",
            "order": 17,
            "why": "no such table",
        }
    ).encode(),
    b"the end",
]

if __name__ == "__main__":
    for line in LINES:
        os.write(1, line + b"\n")
    time.sleep(3600)
