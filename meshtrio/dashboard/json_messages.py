"""JSON of protobuf messages for the page.

All fields are there except for unset ones with presence, 64-bit integers are numbers, which the
page's scripts have with 53 bits, and what JSON cannot represent is text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from meshtrio.util.text import nonfinite_name

_Convert = Callable[[Any], Any]


def to_json_value(message: Any) -> dict[str, Any]:
    """Convert a message to values that JSON has."""
    result: dict[str, Any] = {}
    for name, has_presence, convert in _fields_of(message.DESCRIPTOR):
        if has_presence and not message.HasField(name):
            continue
        value = getattr(message, name)
        result[name] = value if convert is None else convert(value)
    return result


@cache
def _fields_of(descriptor: Descriptor) -> tuple[tuple[str, bool, _Convert | None], ...]:
    """Return name, presence and conversion of each field: looking them up each time is slow."""
    return tuple(
        (field.name, field.has_presence, _find_conversion(field)) for field in descriptor.fields
    )


def _find_conversion(field: FieldDescriptor) -> _Convert | None:
    message_type = field.message_type
    if message_type is not None and message_type.GetOptions().map_entry:
        convert_value = _find_scalar_conversion(message_type.fields_by_name["value"])
        return lambda items: _convert_map(items, convert_value)
    convert = _find_scalar_conversion(field)
    if field.is_repeated:
        return list if convert is None else lambda values: [convert(each) for each in values]
    return convert


def _convert_map(items: Any, convert: _Convert | None) -> dict[str, Any]:
    pairs: Iterable[tuple[Any, Any]] = items.items()
    return {str(key): value if convert is None else convert(value) for key, value in pairs}


def _find_scalar_conversion(field: FieldDescriptor) -> _Convert | None:
    if field.message_type is not None:
        return to_json_value
    if (enum := field.enum_type) is not None:
        names = {each.number: each.name for each in enum.values}
        return lambda value: names.get(value, value)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return lambda value: value if math.isfinite(value) else nonfinite_name(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: value.decode("utf-8", "replace")
    return None
