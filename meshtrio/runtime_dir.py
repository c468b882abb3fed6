"""The folder of a mesh's sockets: where it is, whose it is, and that one mesh uses it."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from meshtrio import contract, folders, runtime_lock
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.contract import LONGEST_SOCKET_PATH
from meshtrio.errors import ConfigError, UntrustedMeshError
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
    return (folder / _own_folder(plugin) if _is_foreign(plugin) else folder) / name


def _is_foreign(plugin: PluginConfig) -> bool:
    return plugin.containment.user is not None or plugin.containment.group is not None


def _own_folder(plugin: PluginConfig) -> str:
    return f"{plugin.name}.d"


def make_room(folder: Path, plugin: PluginConfig, socket: Path) -> None:
    """Prepare the place where a plugin binds its socket, and list the socket as made by the mesh.

    A plugin that runs as somebody else has a folder of its own; others may pass through the runtime
    dir from then on, but not see what is in it. Does nothing if the runtime dir is not there.

    Raises:
        OSError: something else is in the place of the folder or the socket.
        KeyError: a user or group that is not there.
    """
    with ExitStack() as stack:
        try:
            run = where = stack.enter_context(folders.opened(folder))
        except FileNotFoundError:
            return
        if os.fstat(run).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{whole(str(folder))} is another user's now")
        is_foreign = _is_foreign(plugin)
        if is_foreign:
            where = stack.enter_context(_made_own_folder(run, plugin))
            _let_others_pass(run)
        runtime_lock.add(runtime_lock.NAME, os.path.relpath(socket, folder), dir_fd=run)
        # In a folder of its own there is nothing but what the plugin itself has put there.
        folders.remove_socket(socket.name, where, or_link=is_foreign)
        if folders.kind_of(socket.name, where) is not None:
            raise FileExistsError(
                errno.EEXIST,
                f"{whole(str(socket))} is there and is not a socket: something else made it; "
                "remove it",
            )


@contextmanager
def _made_own_folder(run: int, plugin: PluginConfig) -> Iterator[int]:
    """Make the folder of a plugin that runs as another user, and have it open for the block.

    Raises OSError and KeyError.
    """
    uid, gid = ids_of(plugin.containment.user, plugin.containment.group)
    name = _own_folder(plugin)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=run)
    with folders.opened(name, run) as own:
        os.fchown(own, uid, gid)
        os.fchmod(own, 0o700 if plugin.containment.user is not None else 0o770)
        yield own


def _let_others_pass(folder: int) -> None:
    os.fchmod(folder, 0o711)


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


def trusted_users(given: Path | str | None) -> frozenset[int] | None:
    """The uids of which the mesh that a client calls has to have one, None for any.

    A mesh socket that was given, by an argument or by MESH_SOCKET, is trusted. The default runtime
    dir has a name under which another user can make a folder first, and serve in it. So it has to
    be a folder of the process's own user or of root, into which no other user can write, and the
    server has to run as one of the two.

    Args:
        given: the path that the caller named, None if it named none.

    Raises:
        UntrustedMeshError: the default runtime dir is not such a folder.
    """
    if given or os.environ.get(contract.MESH_SOCKET):
        return None
    trusted = frozenset({os.geteuid(), 0})
    problem = _why_not_trusted(default(), trusted)
    if problem:
        raise UntrustedMeshError(f"{whole(str(default()))} {problem}; {_SAY_WHERE}")
    return trusted


_SAY_WHERE = (
    "a mesh is only looked for in a folder of one's own or of root, since others could take its "
    "place; if this mesh is to be called, say so with MESH_SOCKET"
)


def _why_not_trusted(folder: Path, users: frozenset[int]) -> str:
    """Why others may have made what is in a folder; "" if they cannot, or it is not there."""
    try:
        status = os.lstat(folder)
    except OSError:
        return ""  # connecting to what is in it fails likewise
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if status.st_uid not in users:
        return f"belongs to uid {status.st_uid}"
    if status.st_mode & 0o022:
        return f"may be written to by others (mode {status.st_mode & 0o7777:o})"
    return ""


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
        self._folder = _opened(folder)
        try:
            self._lock = _lock(folder, self._folder)
        except BaseException:
            os.close(self._folder)
            raise
        try:
            _remove_listed(self._folder, self._lock)
            self._begin(self._lock, _launch_lines(self._lock))
        except BaseException:
            os.close(self._lock)
            os.close(self._folder)
            raise

    @property
    def lost(self) -> bool:
        """Whether somebody has removed it: what is in its place now is not ours."""
        try:
            found = os.lstat(self.folder / runtime_lock.NAME)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # It cannot be looked at now, which does not mean that it is gone.
        return not os.path.samestat(found, os.fstat(self._lock))

    def renew(self) -> None:
        """Make it again. Raises ConfigError, as at first.

        Where only the lock file was removed, the folder is known by its inode, which our descriptor
        keeps from being used again. Sockets in it are those of running plugins, and stay.
        """
        folder = _opened(self.folder, known=self._folder)
        try:
            lock = _lock(self.folder, folder)
        except BaseException:
            os.close(folder)
            raise
        same = os.path.samestat(os.fstat(folder), os.fstat(self._folder))
        if not same:
            _remove_listed(folder, lock)
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
        _let_others_pass(self._folder)

    def release(self) -> None:
        # The lock file stays: were it unlinked, two later meshes could lock two files.
        if not self.lost:
            _remove_listed(self._folder, self._lock)
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


def _opened(folder: Path, known: int | None = None) -> int:
    """Make the folder, or accept the one that is there, whose content is left as it is; open it.

    A folder with content is accepted if it has the lock file of a mesh, or is the one that the
    descriptor `known` is open on. Raises ConfigError.
    """
    what = f"the runtime dir {whole(str(folder))}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = folders.open_folder(folder)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError([f"{what} {_what_else(folder)}"]) from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ConfigError([f"{what} cannot be made: {reason}; {_ELSEWHERE}"]) from None
    try:
        if known is None or not os.path.samestat(os.fstat(opened), os.fstat(known)):
            _accept(opened, what)
    except BaseException as exc:
        os.close(opened)
        if not isinstance(exc, OSError):
            raise
        raise ConfigError([f"{what} cannot be used: {exc.strerror}; {_ELSEWHERE}"]) from None
    return opened


def _what_else(path: Path) -> str:
    """What is in the place of a folder, and what to do."""
    if os.path.islink(path) and os.path.isdir(path):
        target = whole(os.path.realpath(path))
        return f"is a symbolic link to {target}; name that, or {_ELSEWHERE}"
    return f"is not a folder; {_ELSEWHERE}"


def _accept(folder: int, what: str) -> None:
    """Check that a folder may be ours, and close it to others. Raises ConfigError, OSError."""
    status = os.fstat(folder)
    if status.st_uid != os.geteuid():
        us = os.geteuid()
        owner = f"belongs to uid {status.st_uid}, not to us (uid {us})"
        raise ConfigError([f"{what} {owner}; {_ELSEWHERE}"])
    _check_content(folder, what)
    if status.st_mode & 0o022:
        mode = f"{status.st_mode & 0o7777:o}"
        raise ConfigError([f"{what}: others may write to it (mode {mode}); chmod 700 it"])
    if status.st_mode & 0o777 != 0o700:
        os.fchmod(folder, 0o700)


_ELSEWHERE = (
    "choose another folder, for this mesh alone, with --runtime-dir or `runtime_dir` in [mesh]"
)
_MAX_NAMED = 3


def _check_content(folder: int, what: str) -> None:
    """Refuse a folder that other programs use. Raises ConfigError, and OSError."""
    found = sorted(os.listdir(folder))
    if not found or runtime_lock.is_lock(runtime_lock.NAME, folder):
        return
    named = ", ".join(ascii(whole(name)) for name in found[:_MAX_NAMED])
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    found_there = f"it has {named}{more}, and no {runtime_lock.NAME} of a mesh of ours"
    raise ConfigError([f"{what} is in use: {found_there}; nothing in it was changed; {_ELSEWHERE}"])


def _lock(folder: Path, opened: int) -> int:
    """Lock the folder, which is open. Raises ConfigError."""
    try:
        return runtime_lock.acquire(runtime_lock.NAME, opened)
    except BlockingIOError:
        pid = runtime_lock.holder(runtime_lock.NAME, opened)
        raise ConfigError([_taken(folder, pid)]) from None
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


def _remove_listed(folder: int, lock: int) -> None:
    """Remove the sockets that a mesh has made here, and the folders that it made for them.

    Of a plugin's own folder, which its user may change meanwhile, only the sockets that are listed
    are removed, and the folder if it is empty then. What cannot be removed stays.
    """
    folders.remove_socket(mesh_socket(Path()).name, folder)
    for path in map(Path, runtime_lock.listed(lock)):
        if len(path.parts) == 1:
            folders.remove_socket(path.name, folder)
            continue
        with contextlib.suppress(OSError):
            with folders.opened(path.parts[0], folder) as own:
                folders.remove_socket(path.name, own, or_link=True)
            os.rmdir(path.parts[0], dir_fd=folder)


def _launch_lines(lock: int) -> list[str]:
    """The lines of the launches that a lock file records."""
    recorded = runtime_lock.launches(lock)
    return [runtime_lock.launch_line(mesh_id, users) for mesh_id, users in recorded.items()]
