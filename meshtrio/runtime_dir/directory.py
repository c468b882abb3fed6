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

from meshtrio import contract
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.errors import ConfigError, UntrustedMeshError
from meshtrio.runtime_dir import lock_file
from meshtrio.util import directories
from meshtrio.util.text import replace_surrogates


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
            _allow_traversal(run)
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


def _allow_traversal(fd: int) -> None:
    os.fchmod(fd, 0o711)


def resolve_ids(user: str | None, group: str | None) -> tuple[int, int]:
    """Numbers for names or numbers; -1 for what is not given. Raises KeyError."""
    uid = gid = -1
    if user is not None:
        entry = look_up_user(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise KeyError(f"there is no group {group!r}") from None
    return uid, gid


def look_up_user(user: str) -> pwd.struct_passwd:
    """Look up a user by name or number. Raises KeyError."""
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise KeyError(f"there is no user {user!r}") from None


def resolve_uid(user: str) -> int:
    """A user's number, of those that are given as numbers whether they are known or not.

    Raises KeyError.
    """
    return int(user) if user.isdigit() else resolve_ids(user, None)[0]


def find_mesh_socket() -> Path:
    """Where a client looks for the mesh: `MESH_SOCKET`, else the default runtime dir."""
    given = os.environ.get("MESH_SOCKET")
    return Path(given) if given else mesh_socket_path(default_runtime_dir())


def resolve_plugin_uids(config: MeshConfig) -> set[int]:
    """The users other than the mesh's own that plugins are to run as; without unknown ones."""
    found = set()
    for plugin in config.plugins:
        if plugin.containment.user is not None:
            with contextlib.suppress(KeyError):
                found.add(resolve_ids(plugin.containment.user, None)[0])
    return found


def trusted_uids(mesh_socket: Path | str | None) -> frozenset[int] | None:
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
    if mesh_socket or os.environ.get(contract.MESH_SOCKET):
        return None
    trusted = frozenset({os.geteuid(), 0})
    problem = _find_trust_problem(default_runtime_dir(), trusted)
    if problem:
        raise UntrustedMeshError(
            f"{replace_surrogates(str(default_runtime_dir()))} {problem}; {_UNTRUSTED_HINT}"
        )
    return trusted


_UNTRUSTED_HINT = (
    "a mesh is only looked for in a folder of one's own or of root, since others could take its "
    "place; if this mesh is to be called, say so with MESH_SOCKET"
)


def _find_trust_problem(path: Path, uids: frozenset[int]) -> str:
    """Why others may have made what is in a folder; "" if they cannot, or it is not there."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""  # connecting to what is in it fails likewise
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if status.st_uid not in uids:
        return f"belongs to uid {status.st_uid}"
    if status.st_mode & 0o022:
        return f"may be written to by others (mode {status.st_mode & 0o7777:o})"
    return ""


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


class ClaimedRuntimeDir:
    """A folder that is ours: mode 0700, locked, without stale sockets. See `claim`."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a folder that is in use, or that others own or may write to."""
        self.path = path
        self._fd = _open_runtime_dir(path)
        try:
            self._lock_fd = _acquire_lock(path, self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        try:
            _remove_recorded_sockets(self._fd, self._lock_fd)
            self._write_lock_file(self._lock_fd, _format_mesh_runs(self._lock_fd))
        except BaseException:
            os.close(self._lock_fd)
            os.close(self._fd)
            raise

    @property
    def is_lost(self) -> bool:
        """Whether somebody has removed it: what is in its place now is not ours."""
        try:
            found = os.lstat(self.path / lock_file.LOCK_FILE_NAME)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # It cannot be looked at now, which does not mean that it is gone.
        return not os.path.samestat(found, os.fstat(self._lock_fd))

    def recreate(self) -> None:
        """Make it again. Raises ConfigError, as at first.

        Where only the lock file was removed, the folder is known by its inode, which our descriptor
        keeps from being used again. Sockets in it are those of running plugins, and stay.
        """
        folder = _open_runtime_dir(self.path, known_fd=self._fd)
        try:
            lock = _acquire_lock(self.path, folder)
        except BaseException:
            os.close(folder)
            raise
        same = os.path.samestat(os.fstat(folder), os.fstat(self._fd))
        if not same:
            _remove_recorded_sockets(folder, lock)
        listed = lock_file.read_sockets(self._lock_fd) if same else []
        listed += _format_mesh_runs(self._lock_fd)
        os.close(self._lock_fd)
        os.close(self._fd)
        self._lock_fd, self._fd = lock, folder
        self._write_lock_file(lock, listed)

    def recorded_mesh_runs(self) -> dict[str, list[int]]:
        """The launches of meshes that are recorded here, by id, with the users of their processes.

        Processes of those may be left that were not told to stop by their mesh or its warden.
        """
        return lock_file.read_mesh_runs(self._lock_fd)

    def remove_mesh_runs(self, ids: Iterable[str]) -> None:
        """Take out launches of which nothing is left. Raises ConfigError."""
        gone = set(ids)
        kept = {key: users for key, users in self.recorded_mesh_runs().items() if key not in gone}
        lines = [lock_file.format_mesh_run(key, users) for key, users in kept.items()]
        self._write_lock_file(self._lock_fd, lock_file.read_sockets(self._lock_fd) + lines)

    def _write_lock_file(self, lock: int, lines: list[str]) -> None:
        try:
            lock_file.write_contents(lock, lines)
        except OSError as exc:
            where = f"{replace_surrogates(str(self.path))}: {lock_file.LOCK_FILE_NAME}"
            raise ConfigError([f"{where} cannot be written: {exc.strerror}"]) from None

    def allow_traversal(self) -> None:
        """Let other users reach what is in it whose path they know."""
        _allow_traversal(self._fd)

    def release(self) -> None:
        # The lock file stays: were it unlinked, two later meshes could lock two files.
        if not self.is_lost:
            _remove_recorded_sockets(self._fd, self._lock_fd)
            with contextlib.suppress(OSError):
                # What could not be killed is for the next mesh to look for.
                lock_file.write_contents(self._lock_fd, _format_mesh_runs(self._lock_fd))
        os.close(self._lock_fd)
        os.close(self._fd)


@contextmanager
def claim_runtime_dir(path: Path) -> Iterator[ClaimedRuntimeDir]:
    """Have the folder for ourselves during the block. Raises ConfigError; see
    `ClaimedRuntimeDir`."""
    claimed = ClaimedRuntimeDir(path)
    try:
        yield claimed
    finally:
        claimed.release()


def _open_runtime_dir(path: Path, known_fd: int | None = None) -> int:
    """Make the folder, or accept the one that is there, whose content is left as it is; open it.

    A folder with content is accepted if it has the lock file of a mesh, or is the one that the
    descriptor `known` is open on. Raises ConfigError.
    """
    what = f"the runtime dir {replace_surrogates(str(path))}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = directories.open_directory(path)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError([f"{what} {_describe_obstacle(path)}"]) from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ConfigError([f"{what} cannot be made: {reason}; {_CHOOSE_ANOTHER_HINT}"]) from None
    try:
        if known_fd is None or not os.path.samestat(os.fstat(opened), os.fstat(known_fd)):
            _check_ownership(opened, what)
    except BaseException as exc:
        os.close(opened)
        if not isinstance(exc, OSError):
            raise
        raise ConfigError(
            [f"{what} cannot be used: {exc.strerror}; {_CHOOSE_ANOTHER_HINT}"]
        ) from None
    return opened


def _describe_obstacle(path: Path) -> str:
    """What is in the place of a folder, and what to do."""
    if os.path.islink(path) and os.path.isdir(path):
        target = replace_surrogates(os.path.realpath(path))
        return f"is a symbolic link to {target}; name that, or {_CHOOSE_ANOTHER_HINT}"
    return f"is not a folder; {_CHOOSE_ANOTHER_HINT}"


def _check_ownership(fd: int, what: str) -> None:
    """Check that a folder may be ours, and close it to others. Raises ConfigError, OSError."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        us = os.geteuid()
        owner = f"belongs to uid {status.st_uid}, not to us (uid {us})"
        raise ConfigError([f"{what} {owner}; {_CHOOSE_ANOTHER_HINT}"])
    _check_content(fd, what)
    if status.st_mode & 0o022:
        mode = f"{status.st_mode & 0o7777:o}"
        raise ConfigError([f"{what}: others may write to it (mode {mode}); chmod 700 it"])
    if status.st_mode & 0o777 != 0o700:
        os.fchmod(fd, 0o700)


_CHOOSE_ANOTHER_HINT = (
    "choose another folder, for this mesh alone, with --runtime-dir or `runtime_dir` in [mesh]"
)
_MAX_LISTED_NAMES = 3


def _check_content(fd: int, what: str) -> None:
    """Refuse a folder that other programs use. Raises ConfigError, and OSError."""
    found = sorted(os.listdir(fd))
    if not found or lock_file.is_mesh_lock(lock_file.LOCK_FILE_NAME, fd):
        return
    named = ", ".join(ascii(replace_surrogates(name)) for name in found[:_MAX_LISTED_NAMES])
    more = f" and {len(found) - _MAX_LISTED_NAMES} more" if len(found) > _MAX_LISTED_NAMES else ""
    found_there = f"it has {named}{more}, and no {lock_file.LOCK_FILE_NAME} of a mesh of ours"
    raise ConfigError(
        [f"{what} is in use: {found_there}; nothing in it was changed; {_CHOOSE_ANOTHER_HINT}"]
    )


def _acquire_lock(path: Path, fd: int) -> int:
    """Lock the folder, which is open. Raises ConfigError."""
    try:
        return lock_file.acquire(lock_file.LOCK_FILE_NAME, fd)
    except BlockingIOError:
        pid = lock_file.read_holder_pid(lock_file.LOCK_FILE_NAME, fd)
        raise ConfigError([_describe_holder(path, pid)]) from None
    except OSError as exc:
        raise ConfigError(
            [f"{replace_surrogates(str(path))}: cannot be locked: {exc.strerror}"]
        ) from None


def _describe_holder(path: Path, pid: str) -> str:
    """Says that another mesh has the folder; a mesh in a plugin meets the one that started it."""
    where = replace_surrogates(str(path))
    above = os.environ.get(contract.MESH_SOCKET)
    if above and os.path.realpath(above) == os.path.realpath(mesh_socket_path(path)):
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


def _remove_recorded_sockets(fd: int, lock_fd: int) -> None:
    """Remove the sockets that a mesh has made here, and the folders that it made for them.

    Of a plugin's own folder, which its user may change meanwhile, only the sockets that are listed
    are removed, and the folder if it is empty then. What cannot be removed stays.
    """
    directories.remove_socket(mesh_socket_path(Path()).name, fd)
    for path in map(Path, lock_file.read_sockets(lock_fd)):
        if len(path.parts) == 1:
            directories.remove_socket(path.name, fd)
            continue
        with contextlib.suppress(OSError):
            with directories.directory_opened(path.parts[0], fd) as own:
                directories.remove_socket(path.name, own, include_symlinks=True)
            os.rmdir(path.parts[0], dir_fd=fd)


def _format_mesh_runs(lock_fd: int) -> list[str]:
    """The lines of the launches that a lock file records."""
    recorded = lock_file.read_mesh_runs(lock_fd)
    return [lock_file.format_mesh_run(mesh_id, users) for mesh_id, users in recorded.items()]
