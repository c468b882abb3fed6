"""Reading a mesh's TOML file, with every mistake in it told at once."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import attrs

from meshtrio.config.executable_check import explain_not_executable
from meshtrio.config.group import GroupConfig
from meshtrio.config.mesh import ConfigSource, MeshConfig
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.service import StaticServiceConfig
from meshtrio.config.topology import Topology
from meshtrio.errors import ConfigError
from meshtrio.util.regular_files import read_regular_file
from meshtrio.util.tls_config import ClientTlsConfig, ServerTlsConfig

T = TypeVar("T")

_MAX_FILE_SIZE = 1024 * 1024
"""Bytes of a config file."""
_MAX_ERRORS = 100
"""Mistakes after which the rest of a file is not read."""

_TOP_LEVEL_TABLES = ("mesh", "plugin", "group", "service")
_NOT_MESH_KEYS = frozenset({"plugins", "groups", "services", "source"})
_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}
"""What TOML's types are called in messages."""
_DUPLICATE_HINTS = {
    "plugin": "make it one with more instances, or rename it",
    "group": "make it one with the members of both, or rename it",
}


def load(path: Path | str, *, runtime_dir: Path | None = None) -> MeshConfig:
    """Read a mesh's TOML file. Raises ConfigError with every mistake found in it.

    `runtime_dir` goes before the one it says, now and whenever the file is read again.
    """
    path = Path(path)
    try:
        data = tomllib.loads(read_regular_file(path, _MAX_FILE_SIZE).decode("utf-8"))
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply"]) from None
    except ValueError as exc:  # TOMLDecodeError, UnicodeDecodeError, or a number of 5,000 digits
        raise ConfigError([f"{path}: is not TOML: {exc}"]) from None
    reader = _Reader(path)
    try:
        config = reader.read_mesh(data)
    except _TooManyErrorsError:
        raise ConfigError([*reader.errors, f"{path}: there may be more mistakes"]) from None
    if reader.errors or config is None:
        raise ConfigError(reader.errors)
    return attrs.evolve(
        config,
        runtime_dir=runtime_dir or config.runtime_dir,
        source=ConfigSource(Path(os.path.abspath(path)), runtime_dir),
    )


class _TooManyErrorsError(Exception):
    """A file that is no config at all has a mistake on each line."""


class _Reader:
    """Turns parsed TOML into the classes above, collecting what is wrong on the way."""

    def __init__(self, path: Path) -> None:
        self.errors: list[str] = []
        self._path = path
        self._directory = path.resolve().parent

    def read_mesh(self, data: dict[str, Any]) -> MeshConfig | None:
        for key in data.keys() - set(_TOP_LEVEL_TABLES):
            self._report_unknown_key(key, key, _TOP_LEVEL_TABLES)
        plugins = self._read_tables(data, "plugin", self._read_plugin)
        groups = self._read_tables(data, "group", self._read_group)
        services = self._read_tables(data, "service", self._read_service)
        mesh = data.get("mesh", {})
        if not isinstance(mesh, dict):
            self._error("mesh", "is written as a table: [mesh]")
            mesh = {}
        values = self._read_values("mesh", mesh, MeshConfig, skip=_NOT_MESH_KEYS)
        if self.errors:
            return None
        for problem in Topology(plugins, groups).validate():
            self.errors.append(f"{self._path}: {problem}")
        if self.errors:
            return None
        try:
            return MeshConfig(plugins, groups, services, **values)
        except ConfigError as exc:
            self.errors += [f"{self._path}: {problem}" for problem in exc.problems]
            return None

    def _read_tables(
        self, data: dict[str, Any], kind: str, read: Callable[[int, dict[str, Any]], T | None]
    ) -> list[T]:
        """The tables [[kind]], those that are right."""
        tables = data.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            self._error(kind, f"is written as one [[{kind}]] table for each {kind}")
            tables = []
        names = Counter(str(table["name"]) for table in tables if "name" in table)
        twice = {name for name, count in names.items() if count > 1}
        for name in sorted(twice) if kind in _DUPLICATE_HINTS else ():
            self._error(kind, f"two {kind}s are named {name!r}; {_DUPLICATE_HINTS[kind]}")
        found = [read(number, table) for number, table in enumerate(tables)]
        return [one for one in found if one is not None]

    def _read_group(self, index: int, table: dict[str, Any]) -> GroupConfig | None:
        return self._read_table("group", index, table, GroupConfig)

    def _read_service(self, index: int, table: dict[str, Any]) -> StaticServiceConfig | None:
        return self._read_table("service", index, table, StaticServiceConfig)

    def _read_table(self, kind: str, index: int, table: dict[str, Any], cls: type[T]) -> T | None:
        name = table.get("name")
        where = f"{kind} {name!r}" if isinstance(name, str) else f"{kind} number {index + 1}"
        before = len(self.errors)
        values = self._read_values(where, table, cls)
        return cls(**values) if len(self.errors) == before else None

    def _read_plugin(self, index: int, table: dict[str, Any]) -> PluginConfig | None:
        name = table.get("name")
        where = f"plugin {name!r}" if isinstance(name, str) else f"plugin number {index + 1}"
        before = len(self.errors)
        values = self._read_values(where, table, PluginConfig)
        values.setdefault("cwd", self._directory)
        if not values["cwd"].is_dir():
            self._error(f"{where}: cwd", f"{values['cwd']} is not a folder")
        if len(self.errors) > before:
            return None
        plugin = PluginConfig(**values)
        problem = explain_not_executable(plugin)
        if problem:
            self._error(f"{where}: command", problem)
        return plugin

    def _read_values(
        self,
        key_path: str,
        table: dict[str, Any],
        cls: type,
        skip: frozenset[str] | set[str] = frozenset(),
    ) -> dict[str, Any]:
        """The values of a table that are right; the others are reported."""
        hints = get_type_hints(cls)
        fields = {f.name: f for f in attrs.fields(cls) if f.name not in skip}
        values: dict[str, Any] = {}
        for key, raw in table.items():
            if key not in fields:
                self._report_unknown_key(f"{key_path}: {key}", key, fields)
                continue
            try:
                value = self._convert(f"{key_path}: {key}", hints[key], raw)
                if fields[key].validator is not None:
                    fields[key].validator(None, fields[key], value)
            except ValueError as exc:
                hint = fields[key].metadata.get("hint")
                self._error(f"{key_path}: {key}", f"{exc}; {hint}" if hint else str(exc))
            else:
                values[key] = value
        for name, field in fields.items():
            if field.default is attrs.NOTHING and name not in table:
                self._error(key_path, f"{name} is missing")
        return values

    def _convert(self, key_path: str, target_type: Any, raw: Any) -> Any:
        """Turn a TOML value into what a field of type `hint` holds. Raises ValueError."""
        if type(None) in get_args(target_type):
            target_type = next(arg for arg in get_args(target_type) if arg is not type(None))
        if attrs.has(target_type):
            if not isinstance(raw, dict):
                raise ValueError("is written as a table")
            before = len(self.errors)
            values = self._read_values(key_path, raw, target_type)
            if target_type in (ClientTlsConfig, ServerTlsConfig):
                self._check_files_exist(key_path, values)
            # Where something is wrong with it, nobody will see the value.
            return target_type(**values) if len(self.errors) == before else None
        if isinstance(target_type, type) and issubclass(target_type, Enum):
            allowed = [member.value for member in target_type]
            if raw not in allowed:
                raise ValueError(f"must be one of {', '.join(allowed)}, not {_display(raw)}")
            return target_type(raw)
        if target_type is Path:
            return self._directory / Path(_require_type(raw, str, "a path in quotes")).expanduser()
        return _convert_plain(target_type, raw)

    def _check_files_exist(self, key_path: str, values: dict[str, Any]) -> None:
        for key, path in values.items():
            if isinstance(path, Path) and not path.is_file():
                self._error(f"{key_path}: {key}", f"there is no file {path}")

    def _report_unknown_key(self, key_path: str, key: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(key, list(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        self._error(key_path, f"is not a key that meshtrio knows{hint}")

    def _error(self, key_path: str, reason: str) -> None:
        self.errors.append(f"{self._path}: {key_path}: {reason}")
        if len(self.errors) >= _MAX_ERRORS:
            raise _TooManyErrorsError


def _convert_plain(target_type: Any, raw: Any) -> Any:
    if target_type in (float, int):
        return _convert_number(target_type, raw)
    if target_type is bool:
        return _require_bool(raw)
    if target_type is str:
        return _require_type(raw, str, "text in quotes")
    if get_origin(target_type) is tuple:
        return _convert_list(get_args(target_type)[0], raw)
    if get_args(target_type)[1] is Any:
        return _require_collection(raw, dict, "a table")
    table = _require_collection(raw, dict, "a table of texts")
    return {key: _require_item(value, str, "a table of texts", key) for key, value in table.items()}


def _convert_number(target_type: Any, raw: Any) -> Any:
    """TOML's whole numbers have 64 bits; tomllib reads longer ones, which nothing could hold."""
    if target_type is int:
        raw = _require_type(raw, int, "a whole number")
    else:
        raw = _require_type(raw, (int, float), "a number")
    if isinstance(raw, int) and abs(raw) >= 2**63:
        raise ValueError("must be a number of at most 64 bits")
    return target_type(raw)


def _convert_list(item_type: Any, raw: Any) -> tuple[Any, ...]:
    what = "a list of texts, each in quotes" if item_type is str else "a list of whole numbers"
    items = enumerate(_require_collection(raw, list, what), start=1)
    found = [_require_item(item, item_type, what, f"number {number}") for number, item in items]
    return tuple(_convert_number(int, item) if item_type is int else item for item in found)


def _require_collection(raw: Any, kind: type, expected: str) -> Any:
    """A list or table. Environment variables, headers and arguments may be secrets: of what is in
    the place of such a thing, and of what is in it, only the type is reported."""
    if not isinstance(raw, kind):
        raise ValueError(f"must be {expected}, not {_type_name(raw)}")
    return raw


def _require_item(raw: Any, kind: type, expected: str, position: str) -> Any:
    if not isinstance(raw, kind) or isinstance(raw, bool):
        raise ValueError(f"must be {expected}, but {position} is {_type_name(raw)}")
    return raw


def _display(raw: Any) -> str:
    """A value in a message: of lists and tables only the type."""
    return _type_name(raw) if isinstance(raw, (list, dict)) else repr(raw)


def _type_name(raw: Any) -> str:
    return _TYPE_NAMES.get(type(raw), "a date or time")


def _require_bool(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"must be true or false, not {_display(raw)}")
    return raw


def _require_type(raw: Any, kind: Any, expected: str) -> Any:
    if not isinstance(raw, kind) or isinstance(raw, bool):
        raise ValueError(f"must be {expected}, not {_display(raw)}")
    return raw
