"""Escaping of control characters in everything that is written to stderr.

Commands escape what they print themselves. Python writes to stderr as well: tracebacks that quote
messages and output of plugins, warnings, and log records that have no handler.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from meshtrio.util.text import escape_unprintable_lines


class EscapingStream:
    """A text stream that escapes control characters and writes to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(escape_unprintable_lines(text))
        return len(text)

    def writelines(self, texts: Any) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def escape_stderr() -> None:
    """Escape everything that is written to `sys.stderr` from now on."""
    if not isinstance(sys.stderr, EscapingStream):
        sys.stderr = EscapingStream(sys.stderr)


def unescaped_stderr() -> TextIO:
    """Return the original stderr, for code that controls the terminal and escapes by itself."""
    stream: Any = sys.stderr
    return stream.stream if isinstance(stream, EscapingStream) else stream
