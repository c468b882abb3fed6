"""Listening sockets on Unix paths and TCP ports."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.util.address import Address
from meshtrio.util.errors import UsageError

_BACKLOG = 1024


class PassedListener(socket.socket):
    """A listening socket that another process holds as well, and passes to the next of us.

    It is closed without a shutdown, which would be one for the other process, too, and connections
    in its backlog are left to the next process that accepts there.
    """


def is_listening(path: Path | str) -> bool:
    """Return whether a process listens on a Unix socket, or holds it for another.

    False only if that is certain: this process may not be allowed to connect.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path))
        except OSError as exc:
            return exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED)
    return True


@contextmanager
def unix_listener(path: Path | str) -> Iterator[socket.socket]:
    """Listen on a Unix socket for the block, and remove its path afterwards.

    A stale socket on the path is replaced.

    Args:
        path: The path, at most 107 bytes long.

    Yields:
        The non-blocking listening socket.

    Raises:
        UsageError: The path is too long, is in use, is not a socket, or cannot be bound.
    """
    path = os.fspath(path)
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_LENGTH:
        text = f"{path}: a socket's path may have {MAX_SOCKET_PATH_LENGTH} bytes"
        raise UsageError(f"{text}, this has {length}")
    _remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            # The file gets this mode whatever the umask is.
            os.fchmod(sock.fileno(), 0o700)
            sock.bind(path)
        except OSError as exc:
            raise UsageError(f"{path}: cannot be bound: {exc.strerror}") from None
        status, pid = os.lstat(path), os.getpid()
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        try:
            yield sock
        finally:
            with contextlib.suppress(FileNotFoundError):
                # A forked child must not remove its parent's path.
                if os.getpid() == pid and os.path.samestat(os.lstat(path), status):
                    os.unlink(path)


def _remove_stale_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path}: already exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as exc:
            if exc.errno != errno.EAGAIN:
                raise UsageError(f"{path}: cannot be bound: {exc.strerror}") from None
    raise UsageError(f"{path}: another process listens there")


@contextmanager
def tcp_listener(address: str) -> Iterator[socket.socket]:
    """Listen on a TCP port for the block.

    Args:
        address: `tcp:host:port`.

    Yields:
        The non-blocking listening socket.

    Raises:
        UsageError: The address is malformed or cannot be bound.
    """
    try:
        parsed = Address.parse(address)
        family = socket.AF_INET6 if ":" in parsed.host else socket.AF_INET
        sock = socket.create_server((parsed.host, parsed.port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        # The standard library's message repeats the address.
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
        raise UsageError(f"{address}: cannot be bound: {reason}") from None
    except ValueError as exc:
        raise UsageError(f"{address}: cannot be bound: {exc}") from None
    with sock:
        sock.setblocking(False)
        yield sock
