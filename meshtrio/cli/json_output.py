"""JSON for scripts: field names of the proto, all fields, and numbers as numbers."""

from __future__ import annotations

import json
import math
import sys
from base64 import b64encode
from collections.abc import Mapping, MutableSequence
from typing import Any

from google.protobuf.message import Message

from meshtrio.util.text import escape_unprintable_json, nonfinite_name


def to_plain(value: Any, field: Any = None) -> Any:
    """Convert messages, in lists and mappings as well, to values that JSON has.

    Unset fields become None, enum values their names, and NaN and infinities strings, as in
    ProtoJSON. `field` is the descriptor of the field that the value is of.
    """
    if isinstance(value, Message):
        return {
            each.name: None
            if each.has_presence and not value.HasField(each.name)
            else to_plain(getattr(value, each.name), each)
            for each in value.DESCRIPTOR.fields
        }
    if isinstance(value, Mapping):
        return {key: to_plain(each, field) for key, each in value.items()}
    if isinstance(value, MutableSequence):
        return [to_plain(each, field) for each in value]
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")  # as in ProtoJSON
    if isinstance(value, float) and not math.isfinite(value):
        return nonfinite_name(value)
    known = field.enum_type.values_by_number.get(value) if field and field.enum_type else None
    return value if known is None else known.name


def print_json(value: Any) -> None:
    """Print one indented JSON document."""
    print(to_json_text(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON object on a line, and flush."""
    print(to_json_text(value), flush=True)


def to_json_text(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON without control characters, in ASCII unless stdout is UTF-8.

    Messages in `value` are converted by `to_plain`.
    """
    ensure_ascii = not writes_utf8()
    text = json.dumps(to_plain(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    return escape_unprintable_json(text)


def writes_utf8() -> bool:
    """Whether stdout is UTF-8, and so has all characters."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
