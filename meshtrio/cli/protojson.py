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
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from meshtrio.cli.json_output import to_plain

_MAX_DEPTH = 120
"""Maximum nesting. Protobuf's parser has a limit of 100, but each `Any` starts a new count."""
_INT64_CPP_TYPES = FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64
_CALENDAR_CYCLE = 146097 * 86400
"""Seconds in 400 years, after which the Gregorian calendar repeats."""


def message_to_json_value(message: Message, pool: DescriptorPool | None = None) -> Any:
    """Convert a message to JSON values, usually a dict; `pool` has the types within `Any`."""
    known: Any = pool or message.DESCRIPTOR.file.pool
    return _Converter(known).convert_message(message, 0)


class _Converter:
    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def convert_message(self, message: Any, depth: int) -> Any:
        special = _WELL_KNOWN_TYPES.get(message.DESCRIPTOR.full_name)
        if special is not None:
            try:
                return special(self, message, depth)
            except (AttributeError, KeyError, TypeError, ValueError):
                # It has no such form, or reflection describes a type of this name differently.
                pass
        return self._convert_fields(message, depth)

    def _convert_fields(self, message: Any, depth: int) -> dict[str, Any]:
        try:
            fields = message.ListFields()
            values = (self._convert_value(field, value, depth) for field, value in fields)
            names = (f"[{f.full_name}]" if f.is_extension else f.name for f, _ in fields)
            return dict(zip(names, values, strict=True))
        except UnicodeDecodeError:  # proto2 does not validate strings.
            return _undecodable(message.SerializeToString(), "a string in it is not UTF-8")

    def _convert_value(self, field: FieldDescriptor, value: Any, depth: int) -> Any:
        if isinstance(value, Message):
            return self.convert_message(value, depth + 1)
        if isinstance(value, Mapping):
            kind: Any = field.message_type
            of = kind.fields_by_name["value"]
            items = sorted(value.items())
            return {_convert_map_key(k): self._convert_value(of, v, depth) for k, v in items}
        if isinstance(value, MutableSequence):
            return [self._convert_value(field, each, depth) for each in value]
        return _convert_scalar(field, value)

    # -- well known types --------------------------------------------------------------------

    def convert_any(self, message: Any, depth: int) -> Any:
        url, data = message.type_url, message.value
        if not url and not data:
            return {}
        name = url.rpartition("/")[2]
        try:
            inner: Any = GetMessageClass(self._pool.FindMessageTypeByName(name))()
        except KeyError:
            why = f"{name} is not recognized; see @value for raw binary message data"
            return {"@type": url} | _undecodable(data, why)
        try:
            inner.MergeFromString(data)
        except DecodeError:
            return {"@type": url} | _undecodable(data, f"@value is not a {name}")
        if depth >= _MAX_DEPTH:
            return {"@type": url} | _undecodable(data, "nested too deeply")
        shown = self.convert_message(inner, depth + 1)
        if name in _WELL_KNOWN_TYPES or not isinstance(shown, dict):
            return {"@type": url, "value": shown}
        return {"@type": url} | shown

    def convert_field(self, message: Any, depth: int, *, name: str) -> Any:
        """Convert a message to the value of one of its fields."""
        field = message.DESCRIPTOR.fields_by_name[name]
        return self._convert_value(field, getattr(message, name), depth)

    def convert_value(self, message: Any, depth: int) -> Any:
        kind = message.WhichOneof("kind")
        if kind is None or kind == "null_value":
            return None
        return self.convert_field(message, depth, name=kind)

    def convert_timestamp(self, message: Any, depth: int) -> str:
        cycles, seconds = divmod(message.seconds, _CALENDAR_CYCLE)
        text = type(message)(seconds=seconds, nanos=message.nanos).ToJsonString()
        return f"{int(text[:4]) + 400 * cycles:04}{text[4:]}"

    def convert_duration(self, message: Any, depth: int) -> str:
        text: str = message.ToJsonString()
        return text

    def convert_field_mask(self, message: Any, depth: int) -> str:
        if any("," in path for path in message.paths):
            raise ValueError("the comma separates paths")
        return self.convert_duration(message, depth)


_WRAPPERS = ("Double", "Float", "Bool", "String", "Bytes", "Int64", "UInt64", "Int32", "UInt32")
_VALUE_FIELDS = {
    "Struct": "fields",
    "ListValue": "values",
    **dict.fromkeys((f"{kind}Value" for kind in _WRAPPERS), "value"),
}
"""Types that are converted to the value of their only field."""
_WELL_KNOWN_TYPES: dict[str, Callable[[_Converter, Any, int], Any]] = {
    "google.protobuf.Any": _Converter.convert_any,
    "google.protobuf.Value": _Converter.convert_value,
    "google.protobuf.Timestamp": _Converter.convert_timestamp,
    "google.protobuf.Duration": _Converter.convert_duration,
    "google.protobuf.FieldMask": _Converter.convert_field_mask,
    **{
        f"google.protobuf.{kind}": partial(_Converter.convert_field, name=name)
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
