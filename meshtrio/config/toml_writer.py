"""Writes a config as TOML, with its secrets masked: what `toml_reader` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from meshtrio.config.dependency import Dependency, DependencyCondition
from meshtrio.config.mesh import MeshConfig
from meshtrio.config.secrets import MASK, is_secret_name, mask_text, mask_url, mask_words
from meshtrio.util.text import UNPRINTABLE, replace_surrogates

_ARRAYS = {"plugins": "plugin", "groups": "group", "services": "service", "tasks": "task"}
"""Fields of MeshConfig that are arrays of tables, with their names."""
PLAIN_FIELDS = frozenset(
    (
        *("name", "members", "depends_on", "services", "subjects", "users", "groups", "user"),
        *("group", "sha256", "script_sha256", "preload", "inherit_env", "schedule", "timezone"),
        *("prefix", "node", "zone", "server_name", "binary_log", "hosts"),
    )
)
"""Fields with names and patterns, which are no secrets."""
ADDRESS_FIELDS = frozenset(
    (
        *("listen", "advertise", "endpoints", "metrics", "servers", "ready", "check", "etcd"),
        *("traces", "dashboard"),
    )
)
"""Fields with addresses and URLs, of which a part may be secret. In all others, and in those that
are not listed here yet, whatever may be a secret is masked."""
_OCTAL_FIELDS = frozenset(("umask",))
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@attrs.frozen
class WrittenConfig:
    """A config as text."""

    toml: str
    """The TOML."""
    masked: int
    """Number of values that are masked."""


def write_config(config: MeshConfig, *, with_defaults: bool = False) -> WrittenConfig:
    """Write a config as TOML that can be read again, except for its secrets.

    Args:
        config: The config.
        with_defaults: Whether to write values that are the defaults.
    """
    writer = _Writer(with_defaults=with_defaults)
    writer.write_table("mesh", config, skip=frozenset((*_ARRAYS, "source")))
    for field, name in _ARRAYS.items():
        for table in getattr(config, field):
            writer.write_table(name, table, is_in_array=True)
    return WrittenConfig("\n".join(writer.lines).lstrip("\n") + "\n", writer.masked)


class _Writer:
    def __init__(self, *, with_defaults: bool) -> None:
        self.lines: list[str] = []
        self.masked = 0
        self._with_defaults = with_defaults

    def write_table(
        self,
        path: str,
        table: Any,
        *,
        is_in_array: bool = False,
        skip: frozenset[str] = frozenset(),
    ) -> None:
        """Write a table with its values, then the tables in it."""
        values, tables = [], []
        for field, value in self._fields(table):
            is_secret_table = isinstance(value, Mapping) and not field.repr
            if field.name in skip:
                continue
            if is_secret_table or attrs.has(type(value)):
                tables.append((field.name, value))
            else:
                values.append(f"{field.name} = {self._format_field(field, value)}")
        # A table that another value has made is there without its line, unless it is empty.
        if values or is_in_array or not (tables or skip):
            self.lines += ["", f"[[{path}]]" if is_in_array else f"[{path}]", *values]
        for name, value in tables:
            if isinstance(value, Mapping):
                self._write_secrets(f"{path}.{name}", value)
            else:
                self.write_table(f"{path}.{name}", value)

    def _fields(self, table: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the fields that are to be written, with their values."""
        for field in attrs.fields(type(table)):
            value = getattr(table, field.name)
            is_default = value == _default_of(field)
            if value is not None and (self._with_defaults or not is_default):
                yield field, value

    def _write_secrets(self, path: str, values: Mapping[str, str]) -> None:
        self.lines += ["", f"[{path}]"]
        self.lines += [f"{_format_key(key)} = {self._mask()}" for key in values]

    def _mask(self) -> str:
        self.masked += 1
        return _quote(MASK)

    # -- values ------------------------------------------------------------------------------

    def _format_field(self, field: Any, value: Any) -> str:
        name = field.name
        if not field.repr or (is_secret_name(name) and isinstance(value, str)):
            return self._mask()
        if name == "command":
            return self._format_list(value, mask_words(value))
        if name in _OCTAL_FIELDS:
            return f"0o{value:03o}"
        return self._format_value(value, name)

    def _format_value(self, value: Any, name: str) -> str:
        """Format a value, or one of a list or mapping; `name` is that of the field."""
        match value:
            case Enum():
                return _quote(str(value.value))
            case bool():
                return "true" if value else "false"
            case int() | float():
                return repr(value)
            case Path():
                return _quote(str(value))
            case str():
                return self._format_text(value, name)
            case Mapping():
                return self._format_mapping(value, name)
            case tuple() if value and all(isinstance(each, Dependency) for each in value):
                return self._format_dependencies(value, name)
        return f"[{', '.join(self._format_value(each, name) for each in value)}]"

    def _format_text(self, text: str, name: str) -> str:
        if name in PLAIN_FIELDS:
            return _quote(text)
        shown = mask_url(text) if name in ADDRESS_FIELDS else mask_text(text)
        self.masked += shown != text
        return _quote(shown)

    def _format_list(self, texts: tuple[str, ...], shown: list[str]) -> str:
        self.masked += sum(text != each for text, each in zip(texts, shown, strict=True))
        return f"[{', '.join(map(_quote, shown))}]"

    def _format_mapping(self, values: Mapping[str, Any], name: str) -> str:
        parts = []
        for key, value in values.items():
            if value is None:
                continue  # Not in TOML.
            is_secret = is_secret_name(key) and isinstance(value, str)
            shown = self._mask() if is_secret else self._format_value(value, name)
            parts.append(f"{_format_key(key)} = {shown}")
        return f"{{ {', '.join(parts)} }}" if parts else "{}"

    def _format_dependencies(self, dependencies: tuple[Dependency, ...], name: str) -> str:
        if all(each.condition is DependencyCondition.READY for each in dependencies):
            return self._format_value(tuple(each.name for each in dependencies), name)
        return self._format_mapping({each.name: each.condition for each in dependencies}, name)


def _default_of(field: Any) -> Any:
    default = field.default
    return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]


def _format_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quote(key)


def _quote(text: str) -> str:
    """Quote a text; what must not be shown to people is escaped."""
    # JSON's escapes are those of TOML, except for characters beyond U+FFFF.
    quoted = json.dumps(replace_surrogates(text), ensure_ascii=False)
    return re.sub(UNPRINTABLE, _escape, quoted)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
