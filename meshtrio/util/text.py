"""Makes text of unknown origin safe for terminals, JSON and UTF-8."""

from __future__ import annotations

import math
import re

# Compiled by `re` when first needed, which takes 0.5 ms: few processes have such text.
_SURROGATE = "[\ud800-\udfff]"
UNPRINTABLE = (
    "["
    "\x00-\x08\x0a-\x1f\x7f-\x9f"  # C0 except the tab, and C1: they control terminals
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text after them
    "\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible
    "\u2028\u2029"  # end lines
    "\ud800-\udfff"  # not encodable
    "]"
)
"""Matches a character that must not be shown to people."""


def escape_unprintable(text: str) -> str:
    """Escape characters that must not be shown to people, on a terminal or elsewhere.

    Characters that control terminals, end lines, reverse or hide text, or cannot be encoded are
    replaced by their escapes in Python, such as `\\x1b`. Tabs are kept.
    """
    if text.isprintable():
        return text
    return re.sub(UNPRINTABLE, lambda found: ascii(found[0])[1:-1], text)


def escape_unprintable_lines(text: str) -> str:
    """Escape each line of a text with `escape_unprintable`."""
    return "\n".join(map(escape_unprintable, text.split("\n")))


def escape_unprintable_json(document: str) -> str:
    """Escape the characters of `escape_unprintable` in a JSON document, or a part of one.

    The escapes are those of JSON. Newlines are kept, since JSON strings contain none.
    """
    return re.sub(UNPRINTABLE, _json_escape, document)


def _json_escape(found: re.Match[str]) -> str:
    if found[0] == "\n":
        return "\n"
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def nonfinite_name(value: float) -> str:
    """Return the name of NaN or an infinity in protobuf's JSON format."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD: JSON may contain them, UTF-8 and protobuf may not."""
    if re.search(_SURROGATE, text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
