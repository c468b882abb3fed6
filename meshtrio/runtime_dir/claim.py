"""The mesh's side of the runtime dir: claiming the directory and cleaning it up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshtrio import contract
from meshtrio.runtime_dir import lock_file
from meshtrio.runtime_dir.directory import allow_traversal
from meshtrio.runtime_dir.paths import mesh_socket_path
from meshtrio.util import descriptors
from meshtrio.util.errors import ConfigError
from meshtrio.util.text import replace_surrogates


class ClaimedRuntimeDir:
    """A runtime dir that this mesh owns: mode 0700, locked, without stale sockets."""

    def __init__(
        self,
        path: Path,
        adopted: tuple[int, int] | None = None,
        *,
        keep_mesh_socket: bool = False,
    ) -> None:
        """Make the directory if it does not exist, lock it, and remove stale sockets.

        With `adopted`, what `descriptors` has returned, this process has claimed it before it has
        executed itself again, and nothing is changed. With `keep_mesh_socket` the mesh socket is
        that of a service manager, and is not removed.

        Raises:
            ConfigError: It is in use, others own it or may write to it, or it cannot be made.
        """
        self.path = path
        self.keep_mesh_socket = keep_mesh_socket
        if adopted is not None:
            self._fd, self._lock_fd = adopted
            return
        self._fd, self._lock_fd = _open_and_lock(path, keep_mesh_socket=keep_mesh_socket)
        with descriptors.closing_on_error(self._lock_fd, self._fd):
            self._remove_sockets()
            self._write_lock_file(_format_mesh_runs(self._lock_fd))

    @property
    def descriptors(self) -> tuple[int, int]:
        """The descriptor of the directory, and that of the lock file, which holds the lock."""
        return self._fd, self._lock_fd

    @property
    def is_lost(self) -> bool:
        """Whether it was removed, so that its path leads to nothing, or to something else."""
        try:
            found = os.lstat(self.path / lock_file.LOCK_FILE_NAME)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # It cannot be looked at now, which does not mean that it was removed.
        return not os.path.samestat(found, os.fstat(self._lock_fd))

    def recreate(self) -> None:
        """Make it again. Raises ConfigError as the constructor does.

        If only the lock file was removed, the directory is recognized by its inode, which our
        descriptor keeps in use. The sockets of running plugins in it are kept then.
        """
        opened, lock = _open_and_lock(self.path, known_fd=self._fd)
        is_same = os.path.sameopenfile(opened, self._fd)
        if not is_same:
            _remove_recorded_sockets(opened, lock)
            _remove_mesh_socket(opened)
        lines = lock_file.read_sockets(self._lock_fd) if is_same else []
        lines += _format_mesh_runs(self._lock_fd)
        self._close()
        self._fd, self._lock_fd = opened, lock
        self._write_lock_file(lines)

    def recorded_mesh_runs(self) -> dict[str, list[int]]:
        """Return the uids of the processes of each recorded mesh run, by its id.

        Processes of a run may be left if its mesh and its warden were killed.
        """
        return lock_file.read_mesh_runs(self._lock_fd)

    def remove_mesh_runs(self, ids: Iterable[str]) -> None:
        """Remove the records of mesh runs of which nothing is left. Raises ConfigError."""
        kept = _format_mesh_runs(self._lock_fd, without=frozenset(ids))
        self._write_lock_file(lock_file.read_sockets(self._lock_fd) + kept)

    def _write_lock_file(self, lines: list[str]) -> None:
        try:
            lock_file.write_contents(self._lock_fd, lines)
        except OSError as exc:
            where = f"{replace_surrogates(str(self.path))}: {lock_file.LOCK_FILE_NAME}"
            raise ConfigError([f"{where} cannot be written: {exc.strerror}"]) from None

    def allow_traversal(self) -> None:
        """Let other users open what is in it whose path they know, but not list it."""
        allow_traversal(self._fd)

    def release(self) -> None:
        """Remove the sockets and unlock the directory. The lock file stays."""
        if not self.is_lost:
            self._remove_sockets()
            with contextlib.suppress(OSError):
                # The next mesh looks for what could not be killed.
                lock_file.write_contents(self._lock_fd, _format_mesh_runs(self._lock_fd))
        self._close()

    def _remove_sockets(self) -> None:
        _remove_recorded_sockets(self._fd, self._lock_fd)
        if not self.keep_mesh_socket:
            _remove_mesh_socket(self._fd)

    def _close(self) -> None:
        os.close(self._lock_fd)
        os.close(self._fd)


@contextmanager
def claim_runtime_dir(
    path: Path, adopted: tuple[int, int] | None = None, *, keep_mesh_socket: bool = False
) -> Iterator[ClaimedRuntimeDir]:
    """Claim a runtime dir for the block. Raises ConfigError; see `ClaimedRuntimeDir`."""
    claimed = ClaimedRuntimeDir(path, adopted, keep_mesh_socket=keep_mesh_socket)
    try:
        yield claimed
    finally:
        claimed.release()


def _open_and_lock(
    path: Path, known_fd: int | None = None, *, keep_mesh_socket: bool = False
) -> tuple[int, int]:
    """Open and lock the directory; return its descriptor and the lock file's."""
    opened = _open_runtime_dir(path, known_fd, keep_mesh_socket=keep_mesh_socket)
    with descriptors.closing_on_error(opened):
        try:
            return opened, lock_file.acquire(opened)
        except OSError as exc:
            reason = _describe_lock_failure(exc, path, opened)
            raise ConfigError([f"{replace_surrogates(str(path))}: {reason}"]) from None


def _open_runtime_dir(path: Path, known_fd: int | None, *, keep_mesh_socket: bool) -> int:
    """Open the directory; make it if it does not exist.

    A directory with content is accepted if it has the lock file of a mesh, or if it is that of the
    descriptor `known_fd`. A service manager may have put the mesh socket there. Its content is left
    unchanged. Raises ConfigError.
    """
    what = f"the runtime dir {replace_surrogates(str(path))}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = descriptors.open_directory(path)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError([f"{what} {_describe_obstacle(path)}"]) from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise ConfigError([f"{what} cannot be made: {reason}; {_CHOOSE_ANOTHER_HINT}"]) from None
    with descriptors.closing_on_error(opened):
        try:
            is_known = known_fd is not None and os.path.sameopenfile(opened, known_fd)
            expected = {mesh_socket_path(Path()).name} if keep_mesh_socket else set()
            problem = "" if is_known else _find_ownership_problem(opened, expected)
        except OSError as exc:
            problem = f" cannot be used: {exc.strerror}; {_CHOOSE_ANOTHER_HINT}"
        if problem:
            raise ConfigError([f"{what}{problem}"])
    return opened


def _describe_obstacle(path: Path) -> str:
    """Explain what exists in place of a directory, and what to do."""
    if os.path.islink(path) and os.path.isdir(path):
        target = replace_surrogates(os.path.realpath(path))
        return f"is a symbolic link to {target}; name that, or {_CHOOSE_ANOTHER_HINT}"
    return f"is not a folder; {_CHOOSE_ANOTHER_HINT}"


def _find_ownership_problem(fd: int, expected: Collection[str]) -> str:
    """Explain why a directory is not ours, else set its mode to 0700. Raises OSError."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        owner = f"belongs to uid {status.st_uid}, not to this mesh (uid {os.geteuid()})"
        return f" {owner}; {_CHOOSE_ANOTHER_HINT}"
    found = sorted(set(os.listdir(fd)).difference(expected))
    if found and not lock_file.is_in(fd):
        listed = ", ".join(ascii(replace_surrogates(name)) for name in found[:_MAX_LISTED_NAMES])
        more = len(found) - _MAX_LISTED_NAMES
        content = f"it has {listed}{f' and {more} more' if more > 0 else ''}"
        reason = f"{content}, and no {lock_file.LOCK_FILE_NAME} of a mesh of this user"
        return f" is in use: {reason}; nothing in it was changed; {_CHOOSE_ANOTHER_HINT}"
    if status.st_mode & 0o022:
        return f": others may write to it (mode {status.st_mode & 0o7777:o}); chmod 700 it"
    if status.st_mode & 0o777 != 0o700:
        os.fchmod(fd, 0o700)
    return ""


_CHOOSE_ANOTHER_HINT = (
    "choose another folder, for this mesh alone, with --runtime-dir or `runtime_dir` in [mesh]"
)

_MAX_LISTED_NAMES = 3


def _describe_lock_failure(exc: OSError, path: Path, fd: int) -> str:
    """Explain why the directory cannot be locked, as by the mesh that has started this one."""
    if not isinstance(exc, BlockingIOError):
        return f"cannot be locked: {exc.strerror}"
    pid = lock_file.read_holder_pid(fd)
    use = "use --runtime-dir or `runtime_dir` in [mesh]"
    outer_socket = os.environ.get(contract.MESH_SOCKET)
    if outer_socket and os.path.realpath(outer_socket) == os.path.realpath(mesh_socket_path(path)):
        name = os.environ.get(contract.PLUGIN_NAME, "?")
        return (
            f"the mesh (pid {pid}) that started this program as its plugin {name!r} runs here; "
            f"a mesh inside a plugin needs a runtime dir of its own: {use}"
        )
    return f"another mesh runs here (pid {pid}); stop it, or {use}"


def _remove_recorded_sockets(fd: int, lock_fd: int) -> None:
    """Remove the sockets and plugin directories that a mesh has made here.

    In a plugin's directory, which another user may change meanwhile, only recorded sockets are
    removed, and the directory if it is empty then. What cannot be removed stays.
    """
    for path in map(Path, lock_file.read_sockets(lock_fd)):
        if len(path.parts) == 1:
            descriptors.remove_socket(path.name, fd)
            continue
        with contextlib.suppress(OSError):
            own = descriptors.open_directory(path.parts[0], fd)
            with descriptors.closing_descriptor(own):
                descriptors.remove_socket(path.name, own, include_symlinks=True)
            os.rmdir(path.parts[0], dir_fd=fd)


def _remove_mesh_socket(fd: int) -> None:
    descriptors.remove_socket(mesh_socket_path(Path()).name, fd)


def _format_mesh_runs(lock_fd: int, without: Collection[str] = ()) -> list[str]:
    """Format the lines of the mesh runs that a lock file records, except for some ids."""
    recorded = lock_file.read_mesh_runs(lock_fd).items()
    return [lock_file.format_mesh_run(key, users) for key, users in recorded if key not in without]
