"""Messages of protobuf as compact JSON. Pure.

Field names are those of the proto, 64-bit integers are numbers, fields without presence are always
there, unset fields with presence are left out, enum values have their names, and bytes are text.
NaN and infinities, which JSON does not have, are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

Converter = Callable[[Any], Any]


def to_json(value: Any) -> bytes:
    """Encode a value of JSON types, in UTF-8 on one line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def message_to_plain(message: Any) -> dict[str, Any]:
    """Convert a message to a dict of JSON types."""
    return _convert_message(message)


def _convert_message(message: Any) -> dict[str, Any]:
    found = {}
    for name, has_presence, convert in _plan(message.DESCRIPTOR):
        if not has_presence or message.HasField(name):
            value = getattr(message, name)
            found[name] = value if convert is None else convert(value)
    return found


@cache
def _plan(descriptor: Descriptor) -> list[tuple[str, bool, Converter | None]]:
    """Return how the fields of a message are converted: name, presence, conversion."""
    return [(field.name, field.has_presence, _converter(field)) for field in descriptor.fields]


def _converter(field: Any) -> Converter | None:
    kind: Any = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return partial(_convert_map, _item_converter(kind.fields_by_name["value"]))
    convert = _item_converter(field)
    return partial(_convert_list, convert) if field.is_repeated else convert


def _convert_list(convert: Converter | None, value: Iterable[Any]) -> list[Any]:
    return list(value) if convert is None else [convert(each) for each in value]


def _convert_map(convert: Converter | None, value: Mapping[Any, Any]) -> dict[Any, Any]:
    return dict(value) if convert is None else {key: convert(value[key]) for key in value}


def _item_converter(field: FieldDescriptor) -> Converter | None:
    """Return the conversion of one value; None if it needs none."""
    if field.message_type is not None:
        return _convert_message
    if field.enum_type is not None:
        names = {number: each.name for number, each in field.enum_type.values_by_number.items()}
        return lambda value: names.get(value, value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: value.decode("utf-8", "replace")
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return lambda value: value if math.isfinite(value) else None
    return None
