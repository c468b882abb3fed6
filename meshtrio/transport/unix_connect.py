"""Connecting to Unix sockets, whose servers are verified at the descriptor.

A path does not identify a server: a user who may write to its folder can put a link to another
service in its place, and clients with more rights than that user has would call it. So the file is
opened first, without following a link, and the socket that is connected to is the one that was
opened. Who serves it is what the kernel says of the connection (SO_PEERCRED, unix(7)): the user
that the server had when it began to listen.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from functools import cache

from meshtrio.transport.peer import peer_of

_IDENTITY_UID_MAP = ["0", "0", "4294967295"]
"""/proc/self/uid_map of a process outside of user namespaces that have uids of their own."""


class WrongServerError(PermissionError):
    """Another server answers than the one that the address is known for; `strerror` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)
        self.reason = reason


def connect_unix(path: str, allowed_uids: frozenset[int] | None = None) -> socket.socket:
    """Connect to a Unix socket without waiting.

    A listener whose backlog is full gives EAGAIN at once; trio's own connect takes that for "in
    progress", and would return a socket that is not connected.

    Args:
        path: of the socket.
        owners: the uids of which the server has to have one. The last component of `path` may then
            be no symbolic link. By default links are followed, and any server is accepted.

    Returns:
        A non-blocking socket that the caller owns.

    Raises:
        WrongServerError: `path` is a symbolic link or no socket, or another user serves there.
        OSError: nothing listens there.
    """
    if allowed_uids is None:
        return _connect(path)
    # O_PATH: neither waits for a FIFO's other end nor takes the rights that reading does.
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if stat.S_ISLNK(found.st_mode):
            raise WrongServerError("its socket is a symbolic link, which is not followed")
        if not stat.S_ISSOCK(found.st_mode):
            raise WrongServerError("what is at its path is not a socket")
        by_descriptor = f"/proc/self/fd/{file}"
        # Without /proc, by the path: what is verified below is the connection itself.
        sock = _connect(by_descriptor if os.path.lexists(by_descriptor) else path)
        try:
            _check_server_uid(sock, allowed_uids, found.st_uid)
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(file)


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_server_uid(sock: socket.socket, allowed_uids: frozenset[int], file_uid: int) -> None:
    found = peer_of(sock).uid
    if found in allowed_uids or (found == file_uid and _is_in_uid_namespace()):
        return
    wanted = " or ".join(f"uid {uid}" for uid in sorted(allowed_uids))
    raise WrongServerError(f"its socket is served by uid {found}, not by {wanted}")


@cache
def _is_in_uid_namespace() -> bool:
    """Whether this process is in a user namespace where users have other numbers than outside.

    Uids that were sent by a mesh outside of it cannot be compared with what the kernel says then; a
    socket has to be served by the user that its file belongs to instead.
    """
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return file.read().decode("ascii").split() != _IDENTITY_UID_MAP
    except OSError:
        return False
