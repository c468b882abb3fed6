"""stderr of the commands: whatever is written there cannot control a terminal.

What commands print on purpose is escaped where it is made, and has colours of their own. But
Python writes to stderr as well: tracebacks, with the messages and last lines of stderr of others in
them, warnings, and log records that no handler takes.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from meshtrio.util.text import escape_unprintable_lines


class EscapingStream:
    """A text stream that writes to another one, with control characters as escapes."""

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
    """Have everything that is written to `sys.stderr` from now on escaped."""
    if not isinstance(sys.stderr, EscapingStream):
        sys.stderr = EscapingStream(sys.stderr)


def unescaped_stderr() -> TextIO:
    """Return stderr for what draws on a terminal, and escapes the texts of others itself."""
    stream: Any = sys.stderr
    return stream.stream if isinstance(stream, EscapingStream) else stream
