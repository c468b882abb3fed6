"""Converts objects of attrs classes and records to plain data, as JSON has it, and back by type.

A field that the data lacks gets its default, and a key that the class lacks is ignored, so that
another version of the program can read what this one has written.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

from meshtrio.util.record import FrozenRecord

T = TypeVar("T")


class PlainDataError(ValueError):
    """The data is not what the type requires; the text names the field."""


def to_plain(value: Any) -> Any:
    """Convert a value to what `json.dumps` takes. Bytes become text of the same code points."""
    match value:
        case None | bool() | int() | float() | str():
            return value.value if isinstance(value, Enum) else value
        case Enum():
            return value.value
        case bytes() | bytearray():
            return value.decode("latin-1")
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            if all(type(key) is str for key in value):
                return {key: to_plain(each) for key, each in value.items()}
            return [[to_plain(key), to_plain(each)] for key, each in value.items()]
        case tuple() | list() | set() | frozenset():
            return [to_plain(each) for each in value]
    kind: Any = type(value)
    fields = _fields(kind)
    if fields is None:
        raise TypeError(f"{kind.__qualname__} cannot be converted to plain data")
    return {alias: to_plain(getattr(value, name)) for name, (alias, _) in fields.items()}


def from_plain(kind: type[T], data: Any) -> T:
    """Convert plain data to a type.

    Raises:
        PlainDataError: The data does not fit, or a validator rejects a value.
    """
    return cast("T", _convert(kind, data, kind.__name__))


@cache
def _fields(kind: Any) -> dict[str, tuple[str, Any]] | None:
    """Return the argument's name and the type of each field; None for other classes."""
    if attrs.has(kind):
        hints = get_type_hints(kind)
        fields = (each for each in attrs.fields(kind) if each.init)
        return {each.name: (each.alias or each.name, hints[each.name]) for each in fields}
    if issubclass(kind, FrozenRecord):
        hints, names = get_type_hints(kind), tuple(kind.__slots__)
        return {name: (name, hints[name]) for name in names}
    return None


def _convert(kind: Any, data: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        if data is None:
            return None
        (kind,) = (each for each in get_args(kind) if each is not type(None))
        return _convert(kind, data, where)
    if origin is not None:
        return _convert_collection(origin, get_args(kind), data, where)
    if _fields(kind) is not None:
        return _make_object(kind, data, where)
    return _convert_scalar(kind, data, where)


def _convert_scalar(kind: Any, data: Any, where: str) -> Any:
    try:
        if kind is bytes:
            return data.encode("latin-1")
        if issubclass(kind, Enum | Path):
            return kind(data)
        if kind is float and type(data) is int:
            return float(data)
    except (ValueError, TypeError, AttributeError) as exc:
        raise PlainDataError(f"{where}: {exc}") from None
    if type(data) is not kind:
        raise PlainDataError(f"{where}: is {type(data).__name__}, not {kind.__name__}")
    return data


def _convert_collection(origin: Any, args: tuple[Any, ...], data: Any, where: str) -> Any:
    if issubclass(origin, Mapping):
        if not isinstance(data, (dict, list)):
            raise PlainDataError(f"{where}: is no mapping")
        try:
            pairs = list(data.items()) if isinstance(data, dict) else [(k, v) for k, v in data]
        except (TypeError, ValueError):
            raise PlainDataError(f"{where}: is no mapping") from None
        key_kind, kind = args
        return {
            _convert(key_kind, key, where): _convert(kind, each, f"{where}[{key!r}]")
            for key, each in pairs
        }
    if not isinstance(data, list):
        raise PlainDataError(f"{where}: is {type(data).__name__}, not a list")
    if origin is tuple and args[-1] is not Ellipsis:
        if len(args) != len(data):
            raise PlainDataError(f"{where}: has {len(data)} items, not {len(args)}")
        return tuple(_convert(kind, each, where) for kind, each in zip(args, data, strict=True))
    return origin(_convert(args[0], each, f"{where}[{n}]") for n, each in enumerate(data))


def _make_object(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise PlainDataError(f"{where}: is {type(data).__name__}, not an object")
    fields = _fields(kind)
    assert fields is not None
    values = {
        alias: _convert(hint, data[alias], f"{where}.{alias}")
        for alias, hint in fields.values()
        if alias in data
    }
    try:
        return kind(**values)
    except (TypeError, ValueError) as exc:
        raise PlainDataError(f"{where}: {exc}") from None
