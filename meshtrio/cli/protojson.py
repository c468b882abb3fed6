"""Conversion of any message to ProtoJSON, with the field names of the proto.

Values that ProtoJSON cannot represent are shown all the same, as by grpcurl: an `Any` of an unknown
type as bytes, a non-finite number in a `Struct` by its name, and a well-known type with values out
of range as a plain message.
Source: protobuf's "ProtoJSON Format".
"""

from __future__ import annotations

import base64
import ctypes
import math
from collections.abc import Callable, Mapping, MutableSequence
from functools import partial
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from meshtrio.cli.json_output import to_plain

_MAX_DEPTH = 120
"""Maximum nesting. Protobuf's parser has a limit of 100, but each `Any` starts a new count."""
_INT64_CPP_TYPES = FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64
_CALENDAR_CYCLE = 146097 * 86400
"""Seconds in 400 years, after which the Gregorian calendar repeats."""


def message_to_json_value(message: Any, depth: int = 0) -> Any:
    """Convert a message to JSON values, usually a dict; types within `Any` are of its own pool.

    `depth`: the number of messages that it is nested in.
    """
    special = _WELL_KNOWN_TYPES.get(message.DESCRIPTOR.full_name)
    if special is not None:
        try:
            return special(message, depth)
        except (AttributeError, KeyError, TypeError, ValueError):
            # It has no such form, or reflection describes a type of this name differently.
            pass
    try:
        fields = message.ListFields()
        values = (_convert_value(field, value, depth) for field, value in fields)
        names = (f"[{f.full_name}]" if f.is_extension else f.name for f, _ in fields)
        return dict(zip(names, values, strict=True))
    except UnicodeDecodeError:  # proto2 does not validate strings.
        return _undecodable(message.SerializeToString(), "a string in it is not UTF-8")


def _convert_value(field: FieldDescriptor, value: Any, depth: int) -> Any:
    if isinstance(value, Message):
        return message_to_json_value(value, depth + 1)
    if isinstance(value, Mapping):
        kind: Any = field.message_type
        of = kind.fields_by_name["value"]
        items = sorted(value.items())
        return {_convert_map_key(k): _convert_value(of, v, depth) for k, v in items}
    if isinstance(value, MutableSequence):
        return [_convert_value(field, each, depth) for each in value]
    return _convert_scalar(field, value)


# -- well known types ------------------------------------------------------------------------


def _convert_any(message: Any, depth: int) -> Any:
    url, data = message.type_url, message.value
    if not url and not data:
        return {}
    name = url.rpartition("/")[2]
    try:
        pool = message.DESCRIPTOR.file.pool
        inner: Any = GetMessageClass(pool.FindMessageTypeByName(name))()
    except KeyError:
        why = f"{name} is not recognized; see @value for raw binary message data"
        return {"@type": url} | _undecodable(data, why)
    try:
        inner.MergeFromString(data)
    except DecodeError:
        return {"@type": url} | _undecodable(data, f"@value is not a {name}")
    if depth >= _MAX_DEPTH:
        return {"@type": url} | _undecodable(data, "nested too deeply")
    shown = message_to_json_value(inner, depth + 1)
    if name in _WELL_KNOWN_TYPES or not isinstance(shown, dict):
        return {"@type": url, "value": shown}
    return {"@type": url} | shown


def _convert_to_field(message: Any, depth: int, *, name: str) -> Any:
    """Convert a message to the value of one of its fields."""
    field = message.DESCRIPTOR.fields_by_name[name]
    return _convert_value(field, getattr(message, name), depth)


def _convert_dynamic(message: Any, depth: int) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    return _convert_to_field(message, depth, name=kind)


def _convert_timestamp(message: Any, depth: int) -> str:
    cycles, seconds = divmod(message.seconds, _CALENDAR_CYCLE)
    text = type(message)(seconds=seconds, nanos=message.nanos).ToJsonString()
    return f"{int(text[:4]) + 400 * cycles:04}{text[4:]}"


def _convert_field_mask(message: Any, depth: int) -> Any:
    if any("," in path for path in message.paths):
        raise ValueError("the comma separates paths")
    return message.ToJsonString()


_WRAPPERS = ("Double", "Float", "Bool", "String", "Bytes", "Int64", "UInt64", "Int32", "UInt32")
_VALUE_FIELDS = {
    "Struct": "fields",
    "ListValue": "values",
    **dict.fromkeys((f"{kind}Value" for kind in _WRAPPERS), "value"),
}
"""Types that are converted to the value of their only field."""
_WELL_KNOWN_TYPES: dict[str, Callable[[Any, int], Any]] = {
    "google.protobuf.Any": _convert_any,
    "google.protobuf.Value": _convert_dynamic,
    "google.protobuf.Timestamp": _convert_timestamp,
    "google.protobuf.Duration": lambda message, _: message.ToJsonString(),
    "google.protobuf.FieldMask": _convert_field_mask,
    **{
        f"google.protobuf.{kind}": partial(_convert_to_field, name=name)
        for kind, name in _VALUE_FIELDS.items()
    },
}


def _undecodable(data: bytes, why: str) -> dict[str, Any]:
    return {"@error": why, "@value": base64.b64encode(data).decode()}


def _convert_map_key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _convert_scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None and field.enum_type.full_name == "google.protobuf.NullValue":
        return None
    if field.cpp_type in _INT64_CPP_TYPES:
        return str(value)
    if field.type == FieldDescriptor.TYPE_FLOAT and math.isfinite(value):
        return _shortest_float32(value)
    return to_plain(value, field)


def _shortest_float32(value: float) -> float:
    """Return the shortest decimal number that has the same 32-bit value."""
    for digits in range(6, 9):
        shorter = float(f"{value:.{digits}g}")
        if ctypes.c_float(shorter).value == value:
            return shorter
    return float(f"{value:.9g}")
