"""Values of any kind as exactly one line of JSON, of bounded length, without ever raising.

The line is ASCII, so that neither the stream's encoding nor readers that split lines at U+2028 can
break it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from meshtrio.util.text import nonfinite_name, replace_surrogates

# json is imported when the first line is written: not at the start of each plugin.

_MAX_DEPTH = 8
_MAX_VALUES = 2000
"""Maximum number of values in a line; further ones are omitted."""
_MAX_INT_BITS = 256
_ELLIPSIS = "…"
_MIN_TEXT_LENGTH = 64
"""Characters that each top-level text may have, however long the line is."""


def format_json_line(
    values: Mapping[str, Any], max_size: int, extra: Mapping[str, Any] | None = None
) -> str:
    """Return a JSON object of at most `max_size` bytes; texts are truncated, values omitted to fit.

    `values`, a dozen at most, come first; those of `extra` follow, with `_` appended to keys that
    are in `values` too. Values that JSON cannot represent (NaN, bytes, objects, cycles) become
    text.
    """
    from json import dumps

    room = max_size
    while True:
        plain = {
            key: _truncate(_JsonSanitizer(room).sanitize(value), key, room)
            for key, value in values.items()
        }
        for key, value in _JsonSanitizer(room).sanitize_items(extra or {}):
            plain[f"{key}_" if key in values else key] = value
        line = dumps(plain, separators=(",", ":"))
        if len(line) <= max_size or not room:
            return line
        room //= 2


def _truncate(value: Any, key: str, max_length: int) -> Any:
    """Truncate a text to `max_length` characters; return other values as they are."""
    max_length = max(max_length, _MIN_TEXT_LENGTH)
    if not isinstance(value, str) or len(value) <= max_length:
        return value
    mark = f"… ({len(value) - max_length} more characters)"
    # A traceback's last line names the error.
    tail = key == "exception"
    return f"{mark} {value[-max_length:]}" if tail else f"{value[:max_length]} {mark}"


class _JsonSanitizer:
    """Converts values to ones that JSON can represent, within limits of size and number."""

    def __init__(self, max_chars: int) -> None:
        self._remaining_chars = max_chars
        self._remaining_values = min(_MAX_VALUES, max_chars)

    def sanitize(self, value: Any, depth: int = 0) -> Any:
        self._remaining_values -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _MAX_INT_BITS else self._sanitize_text(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else nonfinite_name(value)
        if isinstance(value, str):
            return self._sanitize_text(value) if depth else safe_str(value)
        if depth >= _MAX_DEPTH or self._remaining_values <= 0:
            return _ELLIPSIS
        if isinstance(value, Mapping):
            return dict(self.sanitize_items(value, depth + 1))
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.sanitize(each, depth + 1) for each in self._within_limit(value)]
        return self._sanitize_text(value)

    def sanitize_items(
        self, values: Mapping[Any, Any], depth: int = 1
    ) -> Iterable[tuple[str, Any]]:
        for key, value in self._within_limit(values.items()):
            yield self._sanitize_text(key), self.sanitize(value, depth)

    def _within_limit(self, values: Iterable[Any]) -> Iterable[Any]:
        for value in values:
            if self._remaining_values <= 0:
                return
            yield value

    def _sanitize_text(self, value: object) -> str:
        text, room = safe_str(value), self._remaining_chars
        self._remaining_chars -= len(text)
        if self._remaining_chars >= 0:
            return text
        self._remaining_chars = self._remaining_values = 0
        return text[:room] + _ELLIPSIS


def safe_str(value: object) -> str:
    """Return str(value) without lone surrogates; a placeholder if that raises."""
    try:
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            return hex(value)
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception as exc:
        return f"<{type(value).__name__} that cannot be shown: {type(exc).__name__}>"
    return replace_surrogates(text)
