"""Fields of requests from the query of a URL, or from the JSON body of an action. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from meshtrio.dashboard.requests_check import RefusedError

_MAX_FIELDS = 50
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_ALL = ("", "*")


def parse_query(query: str) -> dict[str, str]:
    """Return the parameters of a query; of repeated ones, the last. Raises RefusedError."""
    try:
        return dict(parse_qsl(query, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError as exc:
        raise invalid(f"the query cannot be used: {exc}") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the object that a body has as JSON. Raises RefusedError."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise invalid(f"the body is not JSON: {exc}") from None
    if not isinstance(found, dict):
        raise invalid("the body has to be a JSON object")
    return found


def split_names(text: str) -> list[str]:
    """Return the names of a list with commas; none for `*`, which stands for all."""
    return [] if text in _ALL else [name for name in text.split(",") if name]


def make_request(descriptor: Any, values: dict[str, Any], allowed: Collection[str]) -> Any:
    """Make the request of a method from values of its fields, texts or those of JSON.

    Raises RefusedError if a field is not allowed or its value is wrong.
    """
    request: Any = GetMessageClass(descriptor)()
    for name, value in values.items():
        if name not in allowed:
            known = f"choose from {', '.join(allowed)}" if allowed else "there are none"
            raise invalid(f"unknown parameter {name[:100]!r}; {known}")
        field = descriptor.fields_by_name[name]
        try:
            if field.is_repeated:
                getattr(request, name).extend(split_names(value))
            else:
                setattr(request, name, _convert(field, value))
        except (AttributeError, TypeError, ValueError):
            raise invalid(f"{name}: {str(value)[:100]!r} cannot be used") from None
    return request


def _convert(field: FieldDescriptor, value: Any) -> Any:
    """Convert a text, or a value of JSON, to a field's type. Raises ValueError or TypeError."""
    if not isinstance(value, str) or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return value
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"1": True, "true": True, "0": False, "false": False}.get(value)
    return float(value) if field.cpp_type in _FLOATS else int(value)


def parse_number(values: dict[str, str], name: str, *, highest: int) -> int:
    """Return a parameter that is a whole number from 0 to `highest`; 0 if it is missing.

    Raises RefusedError.
    """
    text = values.get(name) or "0"
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise invalid(f"{name}: {text[:100]!r} is not a number")
    return min(int(text), highest)


def parse_float(values: dict[str, str], name: str) -> float:
    """Return a parameter that is a number of at least 0; 0 if it is missing.

    Raises RefusedError.
    """
    text = values.get(name) or "0"
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise invalid(f"{name}: {text[:100]!r} is not a number")
    return found


def invalid(text: str) -> RefusedError:
    """Return the refusal of a request that is wrong."""
    return RefusedError(400, "INVALID_ARGUMENT", text)
