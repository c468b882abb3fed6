"""The folder of a mesh's sockets: where it is, whose it is, and that one mesh uses it."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.contract import LONGEST_SOCKET_PATH
from meshtrio.errors import ConfigError

_LOCK = "mesh.lock"


def default() -> Path:
    """`$XDG_RUNTIME_DIR/meshtrio`, else `/tmp/meshtrio-<uid>`."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "meshtrio" if base else Path(f"/tmp/meshtrio-{os.getuid()}")  # noqa: S108


def of(config: MeshConfig) -> Path:
    """The absolute path that a config's sockets are in."""
    return Path(os.path.abspath(config.runtime_dir or default()))


def mesh_socket(folder: Path) -> Path:
    return folder / "mesh.sock"


def plugin_socket(folder: Path, plugin: PluginConfig, instance: int, place: int = 0) -> Path:
    """An instance has two places, 0 and 1, so that a successor can be started beside it.

    A plugin that runs as somebody else has a folder of its own for them.
    """
    name = f"{plugin.name}-{instance}{'.b' if place else ''}.sock"
    return (_own_folder(folder, plugin) if _is_foreign(plugin) else folder) / name


def _is_foreign(plugin: PluginConfig) -> bool:
    return plugin.containment.user is not None or plugin.containment.group is not None


def _own_folder(folder: Path, plugin: PluginConfig) -> Path:
    return folder / f"{plugin.name}.d"


def make_room(folder: Path, plugin: PluginConfig) -> None:
    """Make the folder that a plugin which runs as somebody else binds its sockets in.

    Others may pass through the runtime dir from then on, but not see what is in it. Raises OSError,
    and KeyError for a user or group that is not there.
    """
    if _is_foreign(plugin):
        own = _own_folder(folder, plugin)
        own.mkdir(mode=0o700, exist_ok=True)
        uid, gid = ids_of(plugin.containment.user, plugin.containment.group)
        os.chown(own, uid, gid)
        os.chmod(own, 0o700 if plugin.containment.user is not None else 0o770)
        _let_others_pass(folder)


def _let_others_pass(folder: Path) -> None:
    os.chmod(folder, 0o711)  # noqa: S103 - to pass through, not to look


def ids_of(user: str | None, group: str | None) -> tuple[int, int]:
    """Numbers for names or numbers; -1 for what is not given. Raises KeyError."""
    uid = gid = -1
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        except KeyError:
            raise KeyError(f"there is no user {user!r}") from None
        uid, gid = entry.pw_uid, entry.pw_gid
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise KeyError(f"there is no group {group!r}") from None
    return uid, gid


def uid_of(user: str) -> int:
    """A user's number, of those that are given as numbers whether they are known or not.

    Raises KeyError.
    """
    return int(user) if user.isdigit() else ids_of(user, None)[0]


def find_mesh_socket() -> Path:
    """Where a client looks for the mesh: `MESH_SOCKET`, else the default runtime dir."""
    given = os.environ.get("MESH_SOCKET")
    return Path(given) if given else mesh_socket(default())


def check(config: MeshConfig) -> None:
    """Refuse what cannot work before anything is made. Raises ConfigError with all of it."""
    folder = of(config)
    paths = [mesh_socket(folder)]
    paths += [plugin_socket(folder, p, p.instances - 1, 1) for p in config.plugins]
    problems = [
        f"{path}: a socket's path may have {LONGEST_SOCKET_PATH} bytes, this has "
        f"{len(os.fsencode(path))}; choose a shorter runtime dir"
        for path in paths
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH
    ]
    problems += [problem for plugin in config.plugins for problem in _check_identity(plugin)]
    problems += _check_access(config)
    if problems:
        raise ConfigError(problems)


def _check_identity(plugin: PluginConfig) -> list[str]:
    """Whether there is the user a plugin is to run as, and whether we may make it so."""
    if not _is_foreign(plugin):
        return []
    user, group = plugin.containment.user, plugin.containment.group
    where = f"plugin {plugin.name!r}: containment:"
    try:
        ids_of(user, group)
    except KeyError as exc:
        return [f"{where} {exc.args[0]}"]
    if os.geteuid() != 0:
        return [f"{where} only a mesh that runs as root can start it as another user or group"]
    return []


def _check_access(config: MeshConfig) -> list[str]:
    """Whether there are the users and groups that may use the mesh socket."""
    problems = []
    for name, rule in config.access.rules.items():
        looks: list[Callable[[], object]] = [partial(uid_of, user) for user in rule.users]
        looks += [partial(ids_of, None, group) for group in rule.groups]
        for look in looks:
            try:
                look()
            except KeyError as exc:
                problems.append(f"mesh: access.{name}: {exc.args[0]}")
    return problems


class Claim:
    """A folder that is ours: mode 0700, locked, without stale sockets. See `claim`."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where it is another user's, open to others, or another mesh's."""
        self.folder = folder
        self._lock = _take(folder)

    @property
    def lost(self) -> bool:
        """Whether somebody has removed it: what is in its place now is not ours."""
        try:
            found = os.stat(self.folder / _LOCK)
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self._lock))

    def renew(self) -> None:
        """Make it again. Raises ConfigError, as at first."""
        lost, self._lock = self._lock, _take(self.folder)
        os.close(lost)

    def let_others_pass(self) -> None:
        """Let other users reach what is in it whose path they know."""
        _let_others_pass(self.folder)

    def release(self) -> None:
        # The lock file stays: were it unlinked, two later meshes could lock two files.
        if not self.lost:
            _remove_sockets(self.folder)
        os.close(self._lock)


@contextmanager
def claim(folder: Path) -> Iterator[Claim]:
    """Have the folder for ourselves during the block. Raises ConfigError; see `Claim`."""
    claimed = Claim(folder)
    try:
        yield claimed
    finally:
        claimed.release()


def _take(folder: Path) -> int:
    """Make, lock and clean the folder; gives the lock."""
    _make(folder)
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError([f"{folder}: cannot be locked: {exc.strerror}"]) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        _remove_sockets(folder)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise ConfigError(
            [f"{folder}: another mesh runs here (pid {holder}); stop it or use --runtime-dir"]
        ) from None
    except OSError as exc:
        os.close(lock)
        raise ConfigError([f"{folder}: cannot be used: {exc.strerror}"]) from None
    return lock


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
    except OSError as exc:
        raise ConfigError([f"the runtime dir {folder} cannot be made: {exc.strerror}"]) from None
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError([f"the runtime dir {folder} is not a folder"])
    if status.st_uid != os.getuid():
        raise ConfigError(
            [f"{folder}: belongs to uid {status.st_uid}, not to us (uid {os.getuid()})"]
        )
    if status.st_mode & 0o022:
        raise ConfigError(
            [f"{folder}: others may write to it (mode {status.st_mode & 0o7777:o}); chmod 700 it"]
        )
    os.chmod(folder, 0o700)


def _remove_sockets(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name.endswith(".d") and entry.is_dir(follow_symlinks=False):
                _remove_sockets(Path(entry.path))
                os.rmdir(entry.path)
            elif entry.name.endswith(".sock") and stat.S_ISSOCK(
                entry.stat(follow_symlinks=False).st_mode
            ):
                os.unlink(entry.path)
