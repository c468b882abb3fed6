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

from meshtrio.address import ServerTlsFiles, TlsFiles
from meshtrio.config.group import GroupConfig
from meshtrio.config.mesh import MeshConfig, Source
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.program import problem_of
from meshtrio.config.relations import Relations
from meshtrio.config.service import ServiceTable
from meshtrio.errors import ConfigError
from meshtrio.regular_files import read_regular

T = TypeVar("T")

_MAX_SIZE = 1024 * 1024
"""Bytes of a config file."""
_MAX_PROBLEMS = 100
"""Mistakes after which the rest of a file is not read."""

_TABLES = ("mesh", "plugin", "group", "service")
_NOT_IN_MESH = frozenset({"plugins", "groups", "services", "source"})
_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}
"""What TOML's types are called in messages."""
_TWICE = {
    "plugin": "make it one with more instances, or rename it",
    "group": "make it one with the members of both, or rename it",
}


def load(path: Path | str, *, runtime_dir: Path | None = None) -> MeshConfig:
    """Read a mesh's TOML file. Raises ConfigError with every mistake found in it.

    `runtime_dir` goes before the one it says, now and whenever the file is read again.
    """
    path = Path(path)
    try:
        data = tomllib.loads(read_regular(path, _MAX_SIZE).decode("utf-8"))
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply"]) from None
    except ValueError as exc:  # TOMLDecodeError, UnicodeDecodeError, or a number of 5,000 digits
        raise ConfigError([f"{path}: is not TOML: {exc}"]) from None
    reader = _Reader(path)
    try:
        config = reader.mesh(data)
    except _TooManyProblemsError:
        raise ConfigError([*reader.problems, f"{path}: there may be more mistakes"]) from None
    if reader.problems or config is None:
        raise ConfigError(reader.problems)
    return attrs.evolve(
        config,
        runtime_dir=runtime_dir or config.runtime_dir,
        source=Source(Path(os.path.abspath(path)), runtime_dir),
    )


class _TooManyProblemsError(Exception):
    """A file that is no config at all has a mistake on each line."""


class _Reader:
    """Turns parsed TOML into the classes above, collecting what is wrong on the way."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._path = path
        self._folder = path.resolve().parent

    def mesh(self, data: dict[str, Any]) -> MeshConfig | None:
        for key in data.keys() - set(_TABLES):
            self._unknown(key, key, _TABLES)
        plugins = self._each(data, "plugin", self._plugin)
        groups = self._each(data, "group", self._group)
        services = self._each(data, "service", self._service)
        mesh = data.get("mesh", {})
        if not isinstance(mesh, dict):
            self._problem("mesh", "is written as a table: [mesh]")
            mesh = {}
        values = self._values("mesh", mesh, MeshConfig, skip=_NOT_IN_MESH)
        if self.problems:
            return None
        for problem in Relations(plugins, groups).problems():
            self.problems.append(f"{self._path}: {problem}")
        if self.problems:
            return None
        try:
            return MeshConfig(plugins, groups, services, **values)
        except ConfigError as exc:
            self.problems += [f"{self._path}: {problem}" for problem in exc.problems]
            return None

    def _each(
        self, data: dict[str, Any], kind: str, read: Callable[[int, dict[str, Any]], T | None]
    ) -> list[T]:
        """The tables [[kind]], those that are right."""
        tables = data.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            self._problem(kind, f"is written as one [[{kind}]] table for each {kind}")
            tables = []
        names = Counter(str(table["name"]) for table in tables if "name" in table)
        twice = {name for name, count in names.items() if count > 1}
        for name in sorted(twice) if kind in _TWICE else ():
            self._problem(kind, f"two {kind}s are named {name!r}; {_TWICE[kind]}")
        found = [read(number, table) for number, table in enumerate(tables)]
        return [one for one in found if one is not None]

    def _group(self, number: int, table: dict[str, Any]) -> GroupConfig | None:
        return self._table("group", number, table, GroupConfig)

    def _service(self, number: int, table: dict[str, Any]) -> ServiceTable | None:
        return self._table("service", number, table, ServiceTable)

    def _table(self, kind: str, number: int, table: dict[str, Any], cls: type[T]) -> T | None:
        name = table.get("name")
        where = f"{kind} {name!r}" if isinstance(name, str) else f"{kind} number {number + 1}"
        before = len(self.problems)
        values = self._values(where, table, cls)
        return cls(**values) if len(self.problems) == before else None

    def _plugin(self, number: int, table: dict[str, Any]) -> PluginConfig | None:
        name = table.get("name")
        where = f"plugin {name!r}" if isinstance(name, str) else f"plugin number {number + 1}"
        before = len(self.problems)
        values = self._values(where, table, PluginConfig)
        values.setdefault("cwd", self._folder)
        if not values["cwd"].is_dir():
            self._problem(f"{where}: cwd", f"{values['cwd']} is not a folder")
        if len(self.problems) > before:
            return None
        plugin = PluginConfig(**values)
        problem = problem_of(plugin)
        if problem:
            self._problem(f"{where}: command", problem)
        return plugin

    def _values(
        self,
        where: str,
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
                self._unknown(f"{where}: {key}", key, fields)
                continue
            try:
                value = self._value(f"{where}: {key}", hints[key], raw)
                if fields[key].validator is not None:
                    fields[key].validator(None, fields[key], value)
            except ValueError as exc:
                hint = fields[key].metadata.get("hint")
                self._problem(f"{where}: {key}", f"{exc}; {hint}" if hint else str(exc))
            else:
                values[key] = value
        for name, field in fields.items():
            if field.default is attrs.NOTHING and name not in table:
                self._problem(where, f"{name} is missing")
        return values

    def _value(self, where: str, hint: Any, raw: Any) -> Any:
        """Turn a TOML value into what a field of type `hint` holds. Raises ValueError."""
        if type(None) in get_args(hint):
            hint = next(arg for arg in get_args(hint) if arg is not type(None))
        if attrs.has(hint):
            if not isinstance(raw, dict):
                raise ValueError("is written as a table")
            before = len(self.problems)
            values = self._values(where, raw, hint)
            if hint in (TlsFiles, ServerTlsFiles):
                self._check_files(where, values)
            # Where something is wrong with it, nobody will see the value.
            return hint(**values) if len(self.problems) == before else None
        if isinstance(hint, type) and issubclass(hint, Enum):
            allowed = [member.value for member in hint]
            if raw not in allowed:
                raise ValueError(f"must be one of {', '.join(allowed)}, not {_shown(raw)}")
            return hint(raw)
        if hint is Path:
            return self._folder / Path(_typed(raw, str, "a path in quotes")).expanduser()
        return _plain(hint, raw)

    def _check_files(self, where: str, values: dict[str, Any]) -> None:
        for key, path in values.items():
            if isinstance(path, Path) and not path.is_file():
                self._problem(f"{where}: {key}", f"there is no file {path}")

    def _unknown(self, where: str, key: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(key, list(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        self._problem(where, f"is not a key that meshtrio knows{hint}")

    def _problem(self, where: str, reason: str) -> None:
        self.problems.append(f"{self._path}: {where}: {reason}")
        if len(self.problems) >= _MAX_PROBLEMS:
            raise _TooManyProblemsError


def _plain(hint: Any, raw: Any) -> Any:
    if hint in (float, int):
        return _number(hint, raw)
    if hint is bool:
        return _truth(raw)
    if hint is str:
        return _typed(raw, str, "text in quotes")
    if get_origin(hint) is tuple:
        return _items(get_args(hint)[0], raw)
    if get_args(hint)[1] is Any:
        return _collection(raw, dict, "a table")
    table = _collection(raw, dict, "a table of texts")
    return {key: _item(value, str, "a table of texts", key) for key, value in table.items()}


def _number(hint: Any, raw: Any) -> Any:
    """TOML's whole numbers have 64 bits; tomllib reads longer ones, which nothing could hold."""
    if hint is int:
        raw = _typed(raw, int, "a whole number")
    else:
        raw = _typed(raw, (int, float), "a number")
    if isinstance(raw, int) and abs(raw) >= 2**63:
        raise ValueError("must be a number of at most 64 bits")
    return hint(raw)


def _items(hint: Any, raw: Any) -> tuple[Any, ...]:
    what = "a list of texts, each in quotes" if hint is str else "a list of whole numbers"
    items = enumerate(_collection(raw, list, what), start=1)
    found = [_item(item, hint, what, f"number {number}") for number, item in items]
    return tuple(_number(int, item) if hint is int else item for item in found)


def _collection(raw: Any, kind: type, what: str) -> Any:
    """A list or table. Environment variables, headers and arguments may be secrets: of what is in
    the place of such a thing, and of what is in it, only the type is reported."""
    if not isinstance(raw, kind):
        raise ValueError(f"must be {what}, not {_type_of(raw)}")
    return raw


def _item(raw: Any, kind: type, what: str, where: str) -> Any:
    if not isinstance(raw, kind) or isinstance(raw, bool):
        raise ValueError(f"must be {what}, but {where} is {_type_of(raw)}")
    return raw


def _shown(raw: Any) -> str:
    """A value in a message: of lists and tables only the type."""
    return _type_of(raw) if isinstance(raw, (list, dict)) else repr(raw)


def _type_of(raw: Any) -> str:
    return _TYPES.get(type(raw), "a date or time")


def _truth(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"must be true or false, not {_shown(raw)}")
    return raw


def _typed(raw: Any, kind: Any, what: str) -> Any:
    if not isinstance(raw, kind) or isinstance(raw, bool):
        raise ValueError(f"must be {what}, not {_shown(raw)}")
    return raw
