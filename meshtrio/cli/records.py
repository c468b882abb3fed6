"""Messages as JSON for scripts: the names of the proto, every field, and numbers as numbers."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, MutableSequence
from typing import Any

from google.protobuf.message import Message


def record(message: Message) -> dict[str, Any]:
    """A message of ours as plain values; what is not set is None, an enum's value its name."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if isinstance(value, Mapping):
        return {key: _single(each, field) for key, each in value.items()}
    if isinstance(value, MutableSequence):
        return [_single(each, field) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _single(value: Any, field: Any) -> Any:
    if isinstance(value, Message):
        return record(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")  # as protobuf's JSON has bytes
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


def print_document(value: Any) -> None:
    """One JSON document, for people to read, too."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_line(value: Any) -> None:
    """One of a stream of objects, each on a line of its own; whoever reads it gets it now."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
