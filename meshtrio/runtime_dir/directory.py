"""The folder of a mesh's sockets: where it is, whose it is, and that one mesh uses it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.errors import ConfigError
from meshtrio.runtime_dir import lock_file
from meshtrio.util import directories
from meshtrio.util.text import replace_surrogates
from meshtrio.util.users import resolve_ids, resolve_uid


def default_runtime_dir() -> Path:
    """`$XDG_RUNTIME_DIR/meshtrio`, else `/tmp/meshtrio-<uid>`."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "meshtrio" if base else Path(f"/tmp/meshtrio-{os.getuid()}")  # noqa: S108


def resolve_runtime_dir(config: MeshConfig) -> Path:
    """The absolute path that a config's sockets are in. Raises ConfigError if there is none."""
    folder = config.runtime_dir or default_runtime_dir()
    try:
        return Path(os.path.abspath(folder))
    except OSError as exc:
        where = (
            f"the runtime dir {replace_surrogates(str(folder))} is relative to this process's cwd"
        )
        reason = f"{where}, which cannot be found ({exc.strerror}); give an absolute path"
        raise ConfigError([reason]) from None


def mesh_socket_path(runtime_dir: Path) -> Path:
    return runtime_dir / "mesh.sock"


def plugin_socket_path(
    runtime_dir: Path, plugin: PluginConfig, instance: int, slot: int = 0
) -> Path:
    """An instance has two places, 0 and 1, so that a successor can be started beside it.

    A plugin that runs as somebody else has a folder of its own for them.
    """
    name = f"{plugin.name}-{instance}{'.b' if slot else ''}.sock"
    return (
        runtime_dir / _plugin_directory_name(plugin) if _runs_as_other_user(plugin) else runtime_dir
    ) / name


def _runs_as_other_user(plugin: PluginConfig) -> bool:
    return plugin.containment.user is not None or plugin.containment.group is not None


def _plugin_directory_name(plugin: PluginConfig) -> str:
    return f"{plugin.name}.d"


def prepare_plugin_socket(runtime_dir: Path, plugin: PluginConfig, socket: Path) -> None:
    """Prepare the place where a plugin binds its socket, and list the socket as made by the mesh.

    A plugin that runs as somebody else has a folder of its own; others may pass through the runtime
    dir from then on, but not see what is in it. Does nothing if the runtime dir is not there.

    Raises:
        OSError: something else is in the place of the folder or the socket.
        KeyError: a user or group that is not there.
    """
    with ExitStack() as stack:
        try:
            run = where = stack.enter_context(directories.directory_opened(runtime_dir))
        except FileNotFoundError:
            return
        if os.fstat(run).st_uid != os.geteuid():
            raise PermissionError(
                errno.EPERM, f"{replace_surrogates(str(runtime_dir))} is another user's now"
            )
        is_foreign = _runs_as_other_user(plugin)
        if is_foreign:
            where = stack.enter_context(_make_plugin_directory(run, plugin))
            allow_traversal(run)
        lock_file.append_line(
            lock_file.LOCK_FILE_NAME, os.path.relpath(socket, runtime_dir), dir_fd=run
        )
        # In a folder of its own there is nothing but what the plugin itself has put there.
        directories.remove_socket(socket.name, where, include_symlinks=is_foreign)
        if directories.get_file_type(socket.name, where) is not None:
            raise FileExistsError(
                errno.EEXIST,
                f"{replace_surrogates(str(socket))} is there and is not a socket: "
                "something else made it; "
                "remove it",
            )


@contextmanager
def _make_plugin_directory(runtime_dir_fd: int, plugin: PluginConfig) -> Iterator[int]:
    """Make the folder of a plugin that runs as another user, and have it open for the block.

    Raises OSError and KeyError.
    """
    uid, gid = resolve_ids(plugin.containment.user, plugin.containment.group)
    name = _plugin_directory_name(plugin)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=runtime_dir_fd)
    with directories.directory_opened(name, runtime_dir_fd) as own:
        os.fchown(own, uid, gid)
        os.fchmod(own, 0o700 if plugin.containment.user is not None else 0o770)
        yield own


def allow_traversal(fd: int) -> None:
    os.fchmod(fd, 0o711)


def resolve_plugin_uids(config: MeshConfig) -> set[int]:
    """The users other than the mesh's own that plugins are to run as; without unknown ones."""
    found = set()
    for plugin in config.plugins:
        if plugin.containment.user is not None:
            with contextlib.suppress(KeyError):
                found.add(resolve_ids(plugin.containment.user, None)[0])
    return found


def validate(config: MeshConfig) -> None:
    """Refuse what cannot work before anything is made. Raises ConfigError with all of it."""
    folder = resolve_runtime_dir(config)
    paths = [mesh_socket_path(folder)]
    paths += [plugin_socket_path(folder, p, p.instances - 1, 1) for p in config.plugins]
    problems = [
        f"{path}: a socket's path may have {MAX_SOCKET_PATH_LENGTH} bytes, this has "
        f"{len(os.fsencode(path))}; choose a shorter runtime dir"
        for path in paths
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_LENGTH
    ]
    problems += [problem for plugin in config.plugins for problem in _check_identity(plugin)]
    problems += _check_access(config)
    if problems:
        raise ConfigError(problems)


def _check_identity(plugin: PluginConfig) -> list[str]:
    """Whether there is the user a plugin is to run as, and whether we may make it so."""
    if not _runs_as_other_user(plugin):
        return []
    user, group = plugin.containment.user, plugin.containment.group
    where = f"plugin {plugin.name!r}: containment:"
    try:
        resolve_ids(user, group)
    except KeyError as exc:
        return [f"{where} {exc.args[0]}"]
    if os.geteuid() != 0:
        return [f"{where} only a mesh that runs as root can start it as another user or group"]
    return []


def _check_access(config: MeshConfig) -> list[str]:
    """Whether there are the users and groups that may use the mesh socket."""
    problems = []
    for name, rule in config.access.rules.items():
        looks: list[Callable[[], object]] = [partial(resolve_uid, user) for user in rule.users]
        looks += [partial(resolve_ids, None, group) for group in rule.groups]
        for look in looks:
            try:
                look()
            except KeyError as exc:
                problems.append(f"mesh: access.{name}: {exc.args[0]}")
    return problems
