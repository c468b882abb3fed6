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


def message_to_dict(message: Message) -> dict[str, Any]:
    """Convert a message to plain values: unset fields to None, enum values to names."""
    return {
        field.name: None
        if field.has_presence and not message.HasField(field.name)
        else _to_plain(getattr(message, field.name), field)
        for field in message.DESCRIPTOR.fields
    }


def _to_plain(value: Any, field: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_plain(each, field) for key, each in value.items()}
    if isinstance(value, MutableSequence):
        return [_to_plain(each, field) for each in value]
    if isinstance(value, Message):
        return message_to_dict(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")  # as in ProtoJSON
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value


def print_json(value: Any) -> None:
    """Print one indented JSON document."""
    print(to_json_text(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON object on a line, and flush."""
    print(to_json_text(value), flush=True)


def to_json_text(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON without control characters, in ASCII unless stdout is UTF-8.

    NaN and infinities are strings, as in ProtoJSON.
    """
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_replace_nonfinite(value), indent=indent, ensure_ascii=not utf8)
    return escape_unprintable_json(text)


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nonfinite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_replace_nonfinite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return nonfinite_name(value)
    return value
