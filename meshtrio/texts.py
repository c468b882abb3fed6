"""Texts that come from outside, as they can be passed on."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def whole(text: str) -> str:
    """With U+FFFD for each half of a surrogate pair: JSON may have one, UTF-8 and protobuf not."""
    if _SURROGATE.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
