"""Connecting to Unix sockets and verifying their servers at the descriptor.

A path does not identify a server: a user with write access to its folder can replace it by a link
to another service, which clients with more rights would then call. So the file is opened first,
without following links, and the connection is made to the file that was opened. The server is
identified by SO_PEERCRED (unix(7)): the uid that it had when it started to listen.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from functools import cache

from meshtrio.transport.peer import peer_of

_IDENTITY_UID_MAP = ["0", "0", "4294967295"]
"""The /proc/self/uid_map of a process outside of user namespaces that map uids."""


class WrongServerError(PermissionError):
    """A server of another user than expected listens there; `strerror` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)
        self.reason = reason


def connect_unix(path: str, allowed_uids: frozenset[int] | None = None) -> socket.socket:
    """Connect to a Unix socket without waiting.

    A full backlog makes connect(2) fail with EAGAIN, which trio's connect takes for "in progress"
    and returns a socket that is not connected.

    Args:
        path: The path of the socket.
        allowed_uids: The uids of which the server must have one. `path` must then not be a symbolic
            link. By default links are followed and any server is accepted.

    Returns:
        A non-blocking socket that the caller owns.

    Raises:
        WrongServerError: `path` is a symbolic link or not a socket, or a server of another user
            listens there.
        BlockingIOError: The backlog is full.
        OSError: Nothing listens there.
    """
    if allowed_uids is None:
        return _connect(path)
    # O_PATH does not wait for the other end of a FIFO, and needs no read permission.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if stat.S_ISLNK(status.st_mode):
            raise WrongServerError("its socket is a symbolic link, which is not followed")
        if not stat.S_ISSOCK(status.st_mode):
            raise WrongServerError("its path is not a socket")
        by_descriptor = f"/proc/self/fd/{file}"
        # Without /proc the path is used: what is verified below is the connection itself.
        path = by_descriptor if os.path.lexists(by_descriptor) else path
        return _connect(path, allowed_uids, status.st_uid)
    finally:
        os.close(file)


def _connect(
    path: str, allowed_uids: frozenset[int] | None = None, file_uid: int = -1
) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        if allowed_uids is not None:
            _check_server_uid(sock, allowed_uids, file_uid)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_server_uid(sock: socket.socket, allowed_uids: frozenset[int], file_uid: int) -> None:
    uid = peer_of(sock).uid
    if uid in allowed_uids or (uid == file_uid and _is_in_uid_namespace()):
        return
    wanted = " or ".join(f"uid {each}" for each in sorted(allowed_uids))
    raise WrongServerError(f"its socket is served by uid {uid}, not by {wanted}")


@cache
def _is_in_uid_namespace() -> bool:
    """Return whether this process is in a user namespace that maps uids.

    Uids that a mesh outside of it has sent cannot be compared with the kernel's then. Instead the
    server must run as the owner of the socket's file.
    """
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return file.read().decode("ascii").split() != _IDENTITY_UID_MAP
    except OSError:
        return False
