"""Reading a mesh's TOML file; all of its errors are reported at once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import attrs

from meshtrio.config.dependency import Dependency, to_dependencies
from meshtrio.config.mesh import ConfigSource, MeshConfig, find_duplicates
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.static_service import StaticServiceConfig
from meshtrio.config.task import TaskConfig
from meshtrio.config.topology import GroupConfig
from meshtrio.util.descriptors import read_regular_file
from meshtrio.util.errors import ConfigError
from meshtrio.util.executable_check import explain_not_executable
from meshtrio.util.object_reader import (
    DocumentFormat,
    ErrorList,
    MismatchError,
    ObjectReader,
    TooManyErrorsError,
)
from meshtrio.util.tls_config import ClientTlsConfig, ServerTlsConfig

T = TypeVar("T")

_MAX_FILE_SIZE = 1024 * 1024
"""Maximum size of a config file, in bytes."""
_PROGRAMS = (PluginConfig, TaskConfig)
"""Tables with a command and a working directory."""
_MAX_ERRORS = 100
"""Number of errors after which the rest of a file is not read."""

_NOT_MESH_KEYS = frozenset({"plugins", "groups", "services", "tasks", "source"})
"""Fields of MeshConfig that are not keys of [mesh]."""
_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}
"""Names of TOML's types in messages."""
_EXPECTED = {**_TYPE_NAMES, str: "text in quotes", Path: "a path in quotes"}
"""Names of the types of fields in messages."""
_ACCEPTED_TYPES = {float: (int, float), Path: (str,)}
"""TOML's types by that of a field, if that is another one."""
_COLLECTIONS: dict[Any, tuple[Any, Any, str]] = {
    tuple[str, ...]: (list, str, "a list of texts, each in quotes"),
    tuple[int, ...]: (list, int, "a list of whole numbers"),
    Mapping[str, str]: (dict, str, "a table of texts"),
    Mapping[str, Any]: (dict, Any, "a table"),
}
"""TOML's type, the type of items, and the name in messages, by the type of a field."""


def load(path: Path | str, *, runtime_dir: Path | None = None) -> MeshConfig:
    """Read a mesh's TOML file.

    Args:
        path: The file.
        runtime_dir: Overrides that of the file, now and whenever the file is read again.

    Returns:
        The config, with relative paths resolved from the file's folder.

    Raises:
        ConfigError: With every error of the file, up to 100, each with file, key and reason.
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
    reader = _MeshReader(path)
    try:
        return reader.read_mesh(data, runtime_dir)
    except TooManyErrorsError:
        raise ConfigError(
            [*reader.errors, f"{path}: more than {_MAX_ERRORS} errors; only these are shown"]
        ) from None


class _MeshReader:
    """Converts parsed TOML to the config classes, by their fields' types and validators."""

    def __init__(self, path: Path) -> None:
        self.errors = ErrorList(_MAX_ERRORS)
        self._path = path
        self._directory = path.resolve().parent

    def read_mesh(self, data: dict[str, Any], runtime_dir: Path | None) -> MeshConfig:
        """Return the config. Raises ConfigError, or TooManyErrorsError."""
        root = ObjectReader(data, str(self._path), self.errors, _TOML)
        plugins = self._read_tables(root, "plugin", PluginConfig)
        groups = self._read_tables(root, "group", GroupConfig)
        services = self._read_tables(root, "service", StaticServiceConfig)
        tasks = self._read_tables(root, "task", TaskConfig)
        read_mesh_table = partial(self._read_values, cls=MeshConfig, skip=_NOT_MESH_KEYS)
        values = root.read_object("mesh", read_mesh_table) or {}
        root.reject_unknown_keys()
        if self.errors:
            raise ConfigError(self.errors)
        values["source"] = ConfigSource(Path(os.path.abspath(self._path)), runtime_dir)
        if runtime_dir is not None:
            values["runtime_dir"] = runtime_dir
        try:
            return MeshConfig(plugins, groups, services, tasks=tasks, **values)
        except ConfigError as exc:
            raise ConfigError([f"{self._path}: {p}" for p in exc.problems]) from None

    def _read_tables(self, root: ObjectReader, kind: str, cls: type[T]) -> list[T]:
        """Read the tables [[kind]]; those with errors are omitted."""

        def check_tables(raw: Any) -> list[dict[str, Any]]:
            if not isinstance(raw, list) or not all(isinstance(table, dict) for table in raw):
                raise ValueError(f"is written as one [[{kind}]] table for each {kind}")
            return raw

        tables = root.get(kind, check_tables, [])
        names = (str(table["name"]) for table in tables if "name" in table)
        for problem in find_duplicates(kind, names):
            self.errors.append(f"{self._path}: {problem}")
        found = []
        for number, table in enumerate(tables, start=1):
            name = table.get("name")
            subject = f"{kind} {name!r}" if isinstance(name, str) else f"{kind} number {number}"
            reader = ObjectReader(table, root.path(subject), self.errors, _TOML)
            found.append(self._read_table(cls, reader))
            reader.reject_unknown_keys()
        return [one for one in found if one is not None]

    def _read_table(self, cls: type[Any], reader: ObjectReader) -> Any:
        """Read a table as an attrs class; None if it has errors."""
        before = len(self.errors)
        values = self._read_values(reader, cls)
        if cls in (ClientTlsConfig, ServerTlsConfig):
            for key, file in values.items():
                if isinstance(file, Path) and not file.is_file():
                    reader.add_error(key, f"there is no file {file}")
        elif cls in _PROGRAMS and not values.setdefault("cwd", self._directory).is_dir():
            reader.add_error("cwd", f"{values['cwd']} is not a folder")
        if len(self.errors) > before:
            return None
        table = cls(**values)
        if cls in _PROGRAMS and (problem := explain_not_executable(table.program())):
            reader.add_error("command", problem)
        return table

    def _read_values(
        self, reader: ObjectReader, cls: type, skip: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Return the valid values of a table, by the fields of an attrs class."""
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in attrs.fields(cls):
            if field.name in skip:
                continue
            target_type = hints[field.name]
            if type(None) in get_args(target_type):
                target_type = next(arg for arg in get_args(target_type) if arg is not type(None))
            if attrs.has(target_type):
                value = reader.read_object(field.name, partial(self._read_table, target_type))
            else:
                value = reader.get(
                    field.name,
                    partial(self._parse, field, target_type),
                    required=field.default is attrs.NOTHING,
                    hint=field.metadata.get("hint", ""),
                )
            if value is not None:
                values[field.name] = value
        return values

    def _parse(self, field: Any, target_type: Any, raw: Any) -> Any:
        """Convert a value and validate it as a field."""
        value = self._convert(target_type, raw)
        if field.validator is not None:
            field.validator(None, field, value)
        return value

    def _convert(self, target_type: Any, raw: Any) -> Any:
        if isinstance(target_type, type) and issubclass(target_type, Enum):
            allowed = [member.value for member in target_type]
            if raw not in allowed:
                raise MismatchError(f"must be one of {', '.join(allowed)}")
            return target_type(raw)
        if target_type == tuple[Dependency, ...]:
            return _convert_dependencies(raw)
        if target_type is Path:
            try:
                return self._directory / _convert_scalar(Path, raw).expanduser()
            except RuntimeError:
                raise ValueError(f"there is no home directory for {raw!r}") from None
        convert = _convert_collection if target_type in _COLLECTIONS else _convert_scalar
        return convert(target_type, raw)


def _convert_scalar(target_type: type, raw: Any) -> Any:
    """Convert a value; TOML's whole numbers have 64 bits, which tomllib does not check."""
    if type(raw) not in _ACCEPTED_TYPES.get(target_type, (target_type,)):
        raise MismatchError(f"must be {_EXPECTED[target_type]}")
    if isinstance(raw, int) and abs(raw) >= 2**63:
        raise ValueError("must be a number of at most 64 bits")
    return target_type(raw)


def _convert_collection(target_type: Any, raw: Any) -> Any:
    """Convert a list or table.

    Environment variables, headers and arguments may be secrets: of a wrong value here, and of its
    items, only the type is reported.
    """
    kind, item_type, expected = _COLLECTIONS[target_type]
    if not isinstance(raw, kind):
        raise ValueError(f"must be {expected}, not {_type_name(raw)}")
    items = enumerate(raw, start=1) if kind is list else raw.items()
    for key, item in items:
        if item_type not in (Any, type(item)):
            position = f"number {key}" if kind is list else key
            raise ValueError(f"must be {expected}, but {position} is {_type_name(item)}")
    return tuple(_convert_scalar(item_type, item) for item in raw) if kind is list else raw


def _convert_dependencies(raw: Any) -> tuple[Dependency, ...]:
    """Convert a list of names, or a table of names and conditions."""
    is_table = isinstance(raw, dict)
    items = raw.values() if is_table else raw if isinstance(raw, list) else [None]
    if not all(isinstance(each, str) for each in items):
        raise MismatchError('must be a list of names, or a table as { db = "ready" }')
    return to_dependencies(raw)


def _display(raw: Any) -> str:
    """Describe a value in a message; a list or table by its type only."""
    return _type_name(raw) if isinstance(raw, (list, dict)) else repr(raw)


def _type_name(raw: Any) -> str:
    return _TYPE_NAMES.get(type(raw), "a date or time")


_TOML = DocumentFormat(": ", "a table", _display)
