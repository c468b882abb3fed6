"""What a mesh is to run: attrs classes, and the same in TOML with the same names.

`load(path)` reports every mistake of a file at once, each with file, key and reason. Times are
seconds throughout.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import attrs

from meshtrio.backoff import Backoff
from meshtrio.errors import ConfigError

PYTHON = "{python}"
"""As a word of a command: the interpreter that the mesh itself runs on."""

LONGEST_SOCKET_PATH = 107
"""Bytes; a longer one does not fit the kernel's sockaddr_un."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class RestartPolicy(Enum):
    """Whether a plugin whose process ended by itself is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


def _check_name(_: object, __: object, value: str) -> None:
    if not _NAME.fullmatch(value) or len(value) > 64:
        raise ValueError(
            f"{value!r} is not a name: it has up to 64 letters, digits, '-' and '_', and does not "
            "begin with a sign"
        )


def _check_command(_: object, __: object, value: tuple[str, ...]) -> None:
    if not value or not value[0]:
        raise ValueError('must name a program, as in ["python", "plugin.py"]')


def _check_env(_: object, __: object, value: Mapping[str, str]) -> None:
    for key in value:
        if not key or "=" in key or "\0" in key + value[key]:
            raise ValueError(f"{key!r} cannot be the name of an environment variable")
        if key in RESERVED_ENV:
            raise ValueError(f"{key} is set by the mesh")


def _at_least(least: float, *, inclusive: bool = True) -> Any:
    def check(_: object, __: object, value: float) -> None:
        if value != value or value < least or (value == least and not inclusive):
            bound = f"at least {least}" if inclusive else f"more than {least}"
            raise ValueError(f"must be {bound}, not {value}")

    return check


RESERVED_ENV = frozenset(
    {"PLUGIN_SOCKET", "PLUGIN_NAME", "PLUGIN_INSTANCE", "PLUGIN_STOP_TIMEOUT", "MESH_SOCKET"}
)


@attrs.frozen
class PluginConfig:
    """One plugin: a program, and how its processes are kept alive."""

    name: str = attrs.field(validator=_check_name)
    """It is called as the service `plugin.<name>`."""
    command: tuple[str, ...] = attrs.field(converter=tuple, validator=_check_command)
    """Program and arguments, run without a shell; `{python}` stands for the mesh's interpreter."""
    instances: int = attrs.field(default=1, validator=_at_least(1))
    env: Mapping[str, str] = attrs.field(factory=dict, validator=_check_env)
    """Added to the environment of the mesh."""
    cwd: Path | None = None
    """By default the folder of the config file, or that of the embedding program."""
    restart: RestartPolicy = RestartPolicy.ALWAYS
    backoff: Backoff = attrs.field(factory=Backoff)
    """Between a death and the next start."""
    ready_timeout: float = attrs.field(default=10.0, validator=_at_least(0, inclusive=False))
    """From the start of a process to its first SERVING."""
    stop_timeout: float = attrs.field(default=5.0, validator=_at_least(0))
    """From SIGTERM to SIGKILL."""

    @property
    def service(self) -> str:
        return f"plugin.{self.name}"

    def argv(self) -> list[str]:
        """The command as it is executed."""
        program, *arguments = (sys.executable if w == PYTHON else w for w in self.command)
        if self.cwd is not None and "/" in program:
            program = str(self.cwd / program)
        return [program, *arguments]


def _plugins(value: Iterable[PluginConfig]) -> tuple[PluginConfig, ...]:
    return tuple(value)


@attrs.frozen
class MeshConfig:
    """A whole mesh. Raises ConfigError, with every mistake, for plugins that cannot be together."""

    plugins: tuple[PluginConfig, ...] = attrs.field(converter=_plugins, default=())
    runtime_dir: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Where the sockets are; see `meshtrio.runtime_dir.default` for what None means."""

    def __attrs_post_init__(self) -> None:
        problems = list(_duplicates(plugin.name for plugin in self.plugins))
        if problems:
            raise ConfigError([f"plugin: {problem}" for problem in problems])


def _duplicates(names: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"two plugins are named {name!r}; make it one with more instances, or rename it"
        seen.add(name)


# -- TOML ------------------------------------------------------------------------------------


def load(path: Path | str) -> MeshConfig:
    """Read a mesh's TOML file. Raises ConfigError with every mistake found in it."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{path}: is not TOML: {exc}"]) from None
    reader = _Reader(path)
    config = reader.mesh(data)
    if reader.problems or config is None:
        raise ConfigError(reader.problems)
    return config


class _Reader:
    """Turns parsed TOML into the classes above, collecting what is wrong on the way."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._path = path
        self._folder = path.resolve().parent

    def mesh(self, data: dict[str, Any]) -> MeshConfig | None:
        for key in data.keys() - {"mesh", "plugin"}:
            self._unknown(key, key, ["mesh", "plugin"])
        tables = data.get("plugin", [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            self._problem("plugin", "is written as one [[plugin]] table for each plugin")
            tables = []
        plugins = [self._plugin(number, table) for number, table in enumerate(tables)]
        for problem in _duplicates(str(table.get("name")) for table in tables if "name" in table):
            self._problem("plugin", problem)
        mesh = data.get("mesh", {})
        if not isinstance(mesh, dict):
            self._problem("mesh", "is written as a table: [mesh]")
            mesh = {}
        values = self._values("mesh", mesh, MeshConfig, skip={"plugins"})
        if self.problems:
            return None
        return MeshConfig(plugins=tuple(p for p in plugins if p is not None), **values)

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
        self._check_program(where, plugin)
        return plugin

    def _check_program(self, where: str, plugin: PluginConfig) -> None:
        program = plugin.argv()[0]
        path = plugin.env.get("PATH")
        if shutil.which(program, path=path) is None:
            reason = "is not there or not executable" if "/" in program else "is not on the PATH"
            self._problem(f"{where}: command", f"{program!r} {reason}")

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
                self._problem(f"{where}: {key}", str(exc))
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
            return hint(**values) if len(self.problems) == before else hint()
        if isinstance(hint, type) and issubclass(hint, Enum):
            allowed = [member.value for member in hint]
            if raw not in allowed:
                raise ValueError(f"must be one of {', '.join(allowed)}, not {raw!r}")
            return hint(raw)
        if hint is Path:
            return self._folder / Path(_typed(raw, str, "a path in quotes")).expanduser()
        return _plain(hint, raw)

    def _unknown(self, where: str, key: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(key, list(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        self._problem(where, f"is not a key that meshtrio knows{hint}")

    def _problem(self, where: str, reason: str) -> None:
        self.problems.append(f"{self._path}: {where}: {reason}")


def _plain(hint: Any, raw: Any) -> Any:
    if hint is float:
        return float(_typed(raw, (int, float), "a number"))
    if hint is int:
        return _typed(raw, int, "a whole number")
    if hint is str:
        return _typed(raw, str, "text in quotes")
    if get_origin(hint) is tuple:
        words = _typed(raw, list, "a list of texts; it is run without a shell")
        return tuple(_typed(word, str, "a list of texts") for word in words)
    table = _typed(raw, dict, "a table of texts")
    return {key: _typed(value, str, "a table of texts") for key, value in table.items()}


def _typed(raw: Any, kind: Any, what: str) -> Any:
    if not isinstance(raw, kind) or isinstance(raw, bool):
        raise ValueError(f"must be {what}, not {raw!r}")
    return raw
