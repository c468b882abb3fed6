"""The folder of a mesh's sockets: where it is, whose it is, and that one mesh uses it."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from meshtrio import contract, runtime_lock
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.contract import LONGEST_SOCKET_PATH
from meshtrio.errors import ConfigError
from meshtrio.texts import whole


def default() -> Path:
    """`$XDG_RUNTIME_DIR/meshtrio`, else `/tmp/meshtrio-<uid>`."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "meshtrio" if base else Path(f"/tmp/meshtrio-{os.getuid()}")  # noqa: S108


def of(config: MeshConfig) -> Path:
    """The absolute path that a config's sockets are in. Raises ConfigError if there is none."""
    folder = config.runtime_dir or default()
    try:
        return Path(os.path.abspath(folder))
    except OSError as exc:
        where = f"the runtime dir {whole(str(folder))} is relative to this process's cwd"
        reason = f"{where}, which cannot be found ({exc.strerror}); give an absolute path"
        raise ConfigError([reason]) from None


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


def make_room(folder: Path, plugin: PluginConfig, socket: Path) -> None:
    """Prepare the place where a plugin binds its socket, and list the socket as made by the mesh.

    A plugin that runs as somebody else has a folder of its own; others may pass through the runtime
    dir from then on, but not see what is in it. Raises OSError, and KeyError for a user or group
    that is not there.
    """
    if _is_foreign(plugin):
        own = _own_folder(folder, plugin)
        own.mkdir(mode=0o700, exist_ok=True)
        uid, gid = ids_of(plugin.containment.user, plugin.containment.group)
        mode = 0o700 if plugin.containment.user is not None else 0o770
        # By its descriptor: a link in its place is not followed.
        descriptor = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        _let_others_pass(folder)
    runtime_lock.add(folder / runtime_lock.NAME, os.path.relpath(socket, folder))
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(socket).st_mode):
            raise FileExistsError(
                errno.EEXIST,
                f"{whole(str(socket))} is there and is not a socket: something else made it; "
                "remove it",
            )
        os.unlink(socket)


def _let_others_pass(folder: Path) -> None:
    os.chmod(folder, 0o711)  # noqa: S103 - to pass through, not to look


def ids_of(user: str | None, group: str | None) -> tuple[int, int]:
    """Numbers for names or numbers; -1 for what is not given. Raises KeyError."""
    uid = gid = -1
    if user is not None:
        entry = user_entry(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise KeyError(f"there is no group {group!r}") from None
    return uid, gid


def user_entry(user: str) -> pwd.struct_passwd:
    """Look up a user by name or number. Raises KeyError."""
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise KeyError(f"there is no user {user!r}") from None


def uid_of(user: str) -> int:
    """A user's number, of those that are given as numbers whether they are known or not.

    Raises KeyError.
    """
    return int(user) if user.isdigit() else ids_of(user, None)[0]


def find_mesh_socket() -> Path:
    """Where a client looks for the mesh: `MESH_SOCKET`, else the default runtime dir."""
    given = os.environ.get("MESH_SOCKET")
    return Path(given) if given else mesh_socket(default())


def users_of(config: MeshConfig) -> set[int]:
    """The users other than the mesh's own that plugins are to run as; without unknown ones."""
    found = set()
    for plugin in config.plugins:
        if plugin.containment.user is not None:
            with contextlib.suppress(KeyError):
                found.add(ids_of(plugin.containment.user, None)[0])
    return found


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
        """Raises ConfigError for a folder that is in use, or that others own or may write to."""
        self.folder = folder
        _make(folder)
        self._lock = _lock(folder)
        self._folder = _open(folder, self._lock)
        try:
            _remove_listed(folder, self._lock)
            self._begin(self._lock, _launch_lines(self._lock))
        except BaseException:
            os.close(self._lock)
            os.close(self._folder)
            raise

    @property
    def lost(self) -> bool:
        """Whether somebody has removed it: what is in its place now is not ours."""
        try:
            found = os.stat(self.folder / runtime_lock.NAME)
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self._lock))

    def renew(self) -> None:
        """Make it again. Raises ConfigError, as at first.

        Where only the lock file was removed, the folder is known by its inode, which our descriptor
        keeps from being used again. Sockets in it are those of running plugins, and stay.
        """
        _make(self.folder, known=self._folder)
        lock = _lock(self.folder)
        folder = _open(self.folder, lock)
        same = os.path.samestat(os.fstat(folder), os.fstat(self._folder))
        if not same:
            _remove_listed(self.folder, lock)
        listed = runtime_lock.listed(self._lock) if same else []
        listed += _launch_lines(self._lock)
        os.close(self._lock)
        os.close(self._folder)
        self._lock, self._folder = lock, folder
        self._begin(lock, listed)

    def launches(self) -> dict[str, list[int]]:
        """The launches of meshes that are recorded here, by id, with the users of their processes.

        Processes of those may be left that were not told to stop by their mesh or its warden.
        """
        return runtime_lock.launches(self._lock)

    def forget_launches(self, ids: Iterable[str]) -> None:
        """Take out launches of which nothing is left. Raises ConfigError."""
        gone = set(ids)
        kept = {key: users for key, users in self.launches().items() if key not in gone}
        lines = [runtime_lock.launch_line(key, users) for key, users in kept.items()]
        self._begin(self._lock, runtime_lock.listed(self._lock) + lines)

    def _begin(self, lock: int, lines: list[str]) -> None:
        try:
            runtime_lock.begin(lock, lines)
        except OSError as exc:
            where = f"{whole(str(self.folder))}: {runtime_lock.NAME}"
            raise ConfigError([f"{where} cannot be written: {exc.strerror}"]) from None

    def let_others_pass(self) -> None:
        """Let other users reach what is in it whose path they know."""
        _let_others_pass(self.folder)

    def release(self) -> None:
        # The lock file stays: were it unlinked, two later meshes could lock two files.
        if not self.lost:
            _remove_listed(self.folder, self._lock)
            with contextlib.suppress(OSError):
                # What could not be killed is for the next mesh to look for.
                runtime_lock.begin(self._lock, _launch_lines(self._lock))
        os.close(self._lock)
        os.close(self._folder)


@contextmanager
def claim(folder: Path) -> Iterator[Claim]:
    """Have the folder for ourselves during the block. Raises ConfigError; see `Claim`."""
    claimed = Claim(folder)
    try:
        yield claimed
    finally:
        claimed.release()


def _make(folder: Path, known: int | None = None) -> None:
    """Make the folder, or accept the one that is there, whose content is left as it is.

    A folder with content is accepted if it has the lock file of a mesh, or is the one that the
    descriptor `known` is open on. Raises ConfigError.
    """
    what = f"the runtime dir {whole(str(folder))}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
    except FileExistsError:
        raise ConfigError([f"{what} is not a folder; {_ELSEWHERE}"]) from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ConfigError([f"{what} cannot be made: {reason}; {_ELSEWHERE}"]) from None
    if stat.S_ISLNK(status.st_mode):
        target = whole(os.path.realpath(folder))
        raise ConfigError([f"{what} is a symbolic link to {target}; name that, or {_ELSEWHERE}"])
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError([f"{what} is not a folder; {_ELSEWHERE}"])
    if status.st_uid != os.geteuid():
        us = os.geteuid()
        owner = f"belongs to uid {status.st_uid}, not to us (uid {us})"
        raise ConfigError([f"{what} {owner}; {_ELSEWHERE}"])
    try:
        if known is not None and os.path.samestat(status, os.fstat(known)):
            return
        _check_content(folder, what)
        if status.st_mode & 0o022:
            mode = f"{status.st_mode & 0o7777:o}"
            raise ConfigError([f"{what}: others may write to it (mode {mode}); chmod 700 it"])
        if status.st_mode & 0o777 != 0o700:
            os.chmod(folder, 0o700)
    except OSError as exc:
        raise ConfigError([f"{what} cannot be used: {exc.strerror}; {_ELSEWHERE}"]) from None


_ELSEWHERE = (
    "choose another folder, for this mesh alone, with --runtime-dir or `runtime_dir` in [mesh]"
)
_MAX_NAMED = 3


def _check_content(folder: Path, what: str) -> None:
    """Refuse a folder that other programs use. Raises ConfigError, and OSError."""
    found = sorted(os.listdir(folder))
    if not found or runtime_lock.is_lock(folder / runtime_lock.NAME):
        return
    named = ", ".join(ascii(whole(name)) for name in found[:_MAX_NAMED])
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    found_there = f"it has {named}{more}, and no {runtime_lock.NAME} of a mesh of ours"
    raise ConfigError([f"{what} is in use: {found_there}; nothing in it was changed; {_ELSEWHERE}"])


def _lock(folder: Path) -> int:
    """Lock the folder. Raises ConfigError."""
    path = folder / runtime_lock.NAME
    try:
        return runtime_lock.acquire(path)
    except BlockingIOError:
        raise ConfigError([_taken(folder, runtime_lock.holder(path))]) from None
    except OSError as exc:
        raise ConfigError([f"{whole(str(folder))}: cannot be locked: {exc.strerror}"]) from None


def _taken(folder: Path, pid: str) -> str:
    """Says that another mesh has the folder; a mesh in a plugin meets the one that started it."""
    where = whole(str(folder))
    above = os.environ.get(contract.MESH_SOCKET)
    if above and os.path.realpath(above) == os.path.realpath(mesh_socket(folder)):
        name = os.environ.get(contract.PLUGIN_NAME, "?")
        return (
            f"{where}: the mesh (pid {pid}) that started this program as its plugin {name!r} runs "
            "here; a mesh inside a plugin needs a runtime dir of its own: use --runtime-dir or "
            "`runtime_dir` in [mesh]"
        )
    return (
        f"{where}: another mesh runs here (pid {pid}); stop it, or use --runtime-dir or "
        "`runtime_dir` in [mesh]"
    )


def _open(folder: Path, lock: int) -> int:
    """A descriptor of the folder; closes the lock if there is none. Raises ConfigError."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        os.close(lock)
        raise ConfigError([f"{whole(str(folder))}: cannot be used: {exc.strerror}"]) from None


def _remove_listed(folder: Path, lock: int) -> None:
    """Remove the sockets that a mesh has made here, and the folders that it made for them.

    What cannot be removed, such as a folder in which a plugin has made files of its own, stays.
    """
    sockets = [mesh_socket(folder), *(folder / name for name in runtime_lock.listed(lock))]
    for path in sockets:
        _remove_socket(path)
    for own in {path.parent for path in sockets} - {folder}:
        with contextlib.suppress(OSError):
            os.rmdir(own)


def _launch_lines(lock: int) -> list[str]:
    """The lines of the launches that a lock file records."""
    recorded = runtime_lock.launches(lock)
    return [runtime_lock.launch_line(mesh_id, users) for mesh_id, users in recorded.items()]


def _remove_socket(path: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
