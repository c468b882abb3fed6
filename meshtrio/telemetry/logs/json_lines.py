"""Values of any kind as one line of JSON, of a bounded length: it never fails, and is never two.

All of it is ASCII, so that no encoding, and nothing that takes U+2028 for the end of a line, can
break it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from meshtrio.texts import whole

# json is imported with the first line: a plugin that logs nothing starts without it.

_DEEPEST = 8
_MOST_VALUES = 2000
"""In one line; of what has more, the rest is left out."""
_LARGEST_NUMBER_BITS = 256
_LEFT_OUT = "…"
_SHORT = 64
"""Characters that every text may have: a dozen of them are no long line."""
_END_FIRST = frozenset({"exception"})
"""Of this the end is kept, where all is too much: the last line names the error."""


def line_of(values: Mapping[str, Any], most: int, rest: Mapping[str, Any] | None = None) -> str:
    """One JSON object of at most `most` bytes; what is too much for that is cut, or left out.

    `values` are a dozen at the most, and come first; those of `rest` are beside them, with a `_`
    after a name that is one of `values`. What JSON has no word for (NaN, bytes, objects of any
    class, circles) is told as text.
    """
    from json import dumps

    room = most
    while True:
        plain = {key: _cut(_Plain(room).of(value), key, room) for key, value in values.items()}
        for key, value in _Plain(room).pairs(rest or {}):
            plain[f"{key}_" if key in values else key] = value
        line = dumps(plain, separators=(",", ":"))
        if len(line) <= most or not room:
            return line
        room //= 2


def _cut(value: Any, key: str, room: int) -> Any:
    """A text within so many characters; of anything else as much as `_Plain` has let through."""
    room = max(room, _SHORT)
    if not isinstance(value, str) or len(value) <= room:
        return value
    mark = f"… ({len(value) - room} more characters)"
    return f"{mark} {value[-room:]}" if key in _END_FIRST else f"{value[:room]} {mark}"


class _Plain:
    """Makes values that JSON has a word for, as long as there is room for their texts."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._left = min(_MOST_VALUES, room)

    def of(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _LARGEST_NUMBER_BITS else self._text(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else _name_of(value)
        if isinstance(value, str):
            return self._text(value) if depth else text_of(value)
        if depth >= _DEEPEST or self._left <= 0:
            return _LEFT_OUT
        if isinstance(value, Mapping):
            return dict(self.pairs(value, depth + 1))
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.of(each, depth + 1) for each in self._some(value)]
        return self._text(value)

    def pairs(self, values: Mapping[Any, Any], depth: int = 1) -> Iterable[tuple[str, Any]]:
        for key, value in self._some(values.items()):
            yield self._text(key), self.of(value, depth)

    def _some(self, values: Iterable[Any]) -> Iterable[Any]:
        for value in values:
            if self._left <= 0:
                return
            yield value

    def _text(self, value: object) -> str:
        text, room = text_of(value), self._room
        self._room -= len(text)
        if self._room >= 0:
            return text
        self._room = self._left = 0
        return text[:room] + _LEFT_OUT


def _name_of(value: float) -> str:
    """As protobuf's JSON has them."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def text_of(value: object) -> str:
    """What Python shows of it, in characters that there are: no half of a surrogate pair."""
    try:
        if isinstance(value, int) and value.bit_length() > _LARGEST_NUMBER_BITS:
            return hex(value)
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception as exc:
        return f"<{type(value).__name__} that cannot be shown: {type(exc).__name__}>"
    return whole(text)
