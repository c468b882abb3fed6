"""Paths of the runtime dir and its sockets, and checks of what a config needs there."""

from __future__ import annotations

import contextlib
import errno
import os
from contextlib import ExitStack
from pathlib import Path

from meshtrio.config import MeshConfig, PluginConfig, ProgramConfig
from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.runtime_dir import lock_file
from meshtrio.runtime_dir.notify_socket import notify_socket_path
from meshtrio.runtime_dir.paths import default_runtime_dir, mesh_socket_path
from meshtrio.util import descriptors
from meshtrio.util.errors import ConfigError
from meshtrio.util.text import replace_surrogates
from meshtrio.util.users import look_up_user, resolve_ids


def resolve_runtime_dir(config: MeshConfig) -> Path:
    """Return the absolute path of a config's runtime dir. Raises ConfigError if there is none."""
    path = config.runtime_dir or default_runtime_dir()
    try:
        return Path(os.path.abspath(path))
    except OSError as exc:
        where = f"the runtime dir {replace_surrogates(str(path))} is relative to this process's cwd"
        reason = f"{where}, which cannot be found ({exc.strerror}); give an absolute path"
        raise ConfigError([reason]) from None


def plugin_socket_path(parent: Path, plugin: PluginConfig, instance: int, slot: int = 0) -> Path:
    """Return the path of an instance's socket.

    An instance has two slots, 0 and 1, so that its successor can be started while it still runs. A
    socket that the mesh holds has one path, which is neither: `listen_fds` may be changed while the
    instance runs. A plugin that binds its sockets as another user has a directory for them.
    """
    suffix = ".held" if plugin.listen_fds else ".b" if slot else ""
    name = f"{plugin.name}-{instance}{suffix}.sock"
    return parent / (f"{plugin.name}.d" if _binds_as_other_user(plugin) else "") / name


def _runs_as_other_user(plugin: ProgramConfig) -> bool:
    return plugin.containment.user is not None or plugin.containment.group is not None


def _binds_as_other_user(plugin: PluginConfig) -> bool:
    return _runs_as_other_user(plugin) and not plugin.listen_fds


def prepare_plugin_socket(runtime_dir: Path, plugin: PluginConfig, socket: Path) -> None:
    """Prepare the path where a plugin's socket is bound, and record the socket in the lock file.

    For a plugin that binds it as another user a directory is made; other users may traverse the
    runtime dir from then on, but not list it. Does nothing if the runtime dir does not exist.

    Raises:
        OSError: Something else exists in place of the directory or the socket.
        KeyError: The user or group does not exist.
    """
    try:
        runtime_fd = socket_fd = descriptors.open_directory(runtime_dir)
    except FileNotFoundError:
        return
    with ExitStack() as stack:
        stack.callback(os.close, runtime_fd)
        if os.fstat(runtime_fd).st_uid != os.geteuid():
            text = f"{replace_surrogates(str(runtime_dir))} belongs to another user now"
            raise PermissionError(errno.EPERM, text)
        is_foreign = _binds_as_other_user(plugin)
        if is_foreign:
            socket_fd = _make_plugin_directory(runtime_fd, plugin)
            stack.callback(os.close, socket_fd)
            allow_traversal(runtime_fd)
        line = os.path.relpath(socket, runtime_dir)
        lock_file.append_line(lock_file.LOCK_FILE_NAME, line, dir_fd=runtime_fd)
        # In a directory of its own there is only what the plugin itself has put there.
        descriptors.remove_socket(socket.name, socket_fd, include_symlinks=is_foreign)
        if descriptors.get_file_type(socket.name, socket_fd) is not None:
            text = f"{replace_surrogates(str(socket))} exists and is not a socket; remove it"
            raise FileExistsError(errno.EEXIST, text)


def _make_plugin_directory(runtime_dir_fd: int, plugin: PluginConfig) -> int:
    """Make and open the directory of a plugin with another user. Raises OSError and KeyError."""
    uid, gid = resolve_ids(plugin.containment.user, plugin.containment.group)
    name = f"{plugin.name}.d"
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=runtime_dir_fd)
    own = descriptors.open_directory(name, runtime_dir_fd)
    with descriptors.closing_on_error(own):
        os.fchown(own, uid, gid)
        os.fchmod(own, 0o700 if plugin.containment.user is not None else 0o770)
    return own


def allow_traversal(fd: int) -> None:
    """Let other users open what is in a directory whose path they know, but not list it."""
    os.fchmod(fd, 0o711)


def resolve_plugin_uids(config: MeshConfig) -> set[int]:
    """Return the uids that plugins and tasks run as, but not the mesh's own and unknown users."""
    found = set()
    for plugin in (*config.plugins, *config.tasks):
        if (user := plugin.containment.user) is not None:
            with contextlib.suppress(KeyError):
                found.add(look_up_user(user).pw_uid)
    return found


def validate(config: MeshConfig) -> None:
    """Check that a config can work here, before anything is made.

    Raises:
        ConfigError: It cannot; the error lists all problems.
    """
    runtime_dir = resolve_runtime_dir(config)
    paths = [mesh_socket_path(runtime_dir)]
    paths += [plugin_socket_path(runtime_dir, p, p.instances - 1, 1) for p in config.plugins]
    paths += [
        notify_socket_path(runtime_dir, p, p.instances - 1, 1)
        for p in config.plugins
        if p.uses_notifications
    ]
    problems = [
        f"{path}: a socket's path may have {MAX_SOCKET_PATH_LENGTH} bytes, this has "
        f"{len(os.fsencode(path))}; choose a shorter runtime dir"
        for path in paths
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_LENGTH
    ]
    programs: list[tuple[str, ProgramConfig]]
    programs = [("plugin", plugin) for plugin in config.plugins]
    programs += [("task", task) for task in config.tasks]
    problems += [problem for kind, each in programs for problem in _check_identity(kind, each)]
    problems += _check_access(config)
    if problems:
        raise ConfigError(problems)


def _check_identity(kind: str, plugin: ProgramConfig) -> list[str]:
    """Check that the user of a plugin or task exists, and that the mesh may change to it."""
    if not _runs_as_other_user(plugin):
        return []
    where = f"{kind} {plugin.name!r}: containment"
    problems = _check_known(where, plugin.containment.user, plugin.containment.group)
    if not problems and os.geteuid() != 0:
        return [f"{where}: only a mesh that runs as root can start it as another user or group"]
    return problems


def _check_access(config: MeshConfig) -> list[str]:
    """Check that the users and groups of the access rules exist."""
    problems = []
    for name, rule in config.access.rules.items():
        # The number of a user needs no user that has it.
        ids = [(user, None) for user in rule.users if not user.isdecimal()]
        for user, group in [*ids, *((None, group) for group in rule.groups)]:
            problems += _check_known(f"mesh: access.{name}", user, group)
    return problems


def _check_known(where: str, user: str | None, group: str | None) -> list[str]:
    try:
        resolve_ids(user, group)
    except KeyError as exc:
        return [f"{where}: {exc.args[0]}"]
    return []
