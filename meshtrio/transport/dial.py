"""Connecting to an address: a Unix or TCP socket, and TLS on it if it is configured.

The server of a Unix socket is verified at the descriptor: a path does not identify it, since a user
with write access to its folder can replace it by a link to another service, which clients with more
rights would then call. So the file is opened first, without following links, and the connection is
made to the file that was opened. The server is identified by SO_PEERCRED (unix(7)): the uid that it
had when it started to listen.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from functools import cache

import trio

from meshtrio.transport.peer import peer_of
from meshtrio.transport.tls import TlsTransport, make_client_ssl_context
from meshtrio.transport.transport import Transport
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig

_BACKLOG_RETRY_DELAY, _MAX_BACKLOG_RETRY_DELAY = 0.002, 0.1
"""Seconds between attempts to connect to a server whose backlog is full."""
_BACKLOG_FULL_MESSAGE = "its backlog of connections is full: it is overloaded, or stuck"
_IDENTITY_UID_MAP = ["0", "0", "4294967295"]
"""The /proc/self/uid_map of a process outside of user namespaces that map uids."""


class WrongServerError(PermissionError):
    """A server of another user than expected listens there; `strerror` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPERM, reason)
        self.reason = reason


async def dial(
    address: str,
    tls: ClientTlsConfig | None,
    allowed_uids: frozenset[int] | None = None,
    *,
    backlog_timeout: float = 0.0,
) -> Transport:
    """Connect to an address; the TLS handshake is left to the transport's `handshake`.

    Args:
        address: `unix:/path` or `tcp:host:port`.
        tls: How to speak TLS; None for a plaintext connection.
        allowed_uids: The uids of which a Unix socket's server must have one; None accepts any.
        backlog_timeout: Seconds to wait for room in a full backlog, see `connect_socket`.

    Returns:
        A transport that the caller owns.

    Raises:
        WrongServerError: A server of another user listens there.
        OSError: Nothing listens there, or the TLS files cannot be used.
        ValueError: The address has another form.
    """
    context = None if tls is None else await _load_ssl_context(tls)
    sock = await connect_socket(address, allowed_uids, backlog_timeout=backlog_timeout)
    if tls is None or context is None:
        return Transport(sock)
    hostname = tls.server_name or Address.parse(address).host or None
    try:
        return TlsTransport(sock, context, server_side=False, server_hostname=hostname)
    except (TypeError, ValueError) as exc:  # The name is no host name.
        sock.close()
        raise ValueError(f"{hostname!r} cannot be verified as the server's name: {exc}") from None


async def _load_ssl_context(tls: ClientTlsConfig) -> ssl.SSLContext:
    try:
        return await trio.to_thread.run_sync(make_client_ssl_context, tls, abandon_on_cancel=True)
    except OSError as exc:
        reason = f"its TLS files cannot be used: {exc.strerror or exc}"
        raise OSError(exc.errno, reason) from None


async def connect_socket(
    address: str, allowed_uids: frozenset[int] | None = None, *, backlog_timeout: float = 0.0
) -> socket.socket:
    """Connect a socket to an address.

    `allowed_uids` are those of which a Unix socket's server must have one, `backlog_timeout` is the
    number of seconds to wait for room in its backlog; neither has an effect on TCP. The socket is
    non-blocking.

    Raises:
        WrongServerError: A server of another user listens there.
        BlockingIOError: The backlog of a Unix socket's server is full.
        OSError: Nothing listens there, or this process lacks resources, see
            `RESOURCE_EXHAUSTED_ERRNOS`.
        ValueError: The address has another form.
    """
    parsed = Address.parse(address)
    if parsed.path:
        return await _connect_unix(parsed.path, allowed_uids, backlog_timeout)
    try:
        stream = await trio.open_tcp_stream(parsed.host, parsed.port)
    except OSError as exc:
        raise _summarize_attempts(exc) from None
    return socket.socket(fileno=stream.socket.detach())


def _summarize_attempts(exc: OSError) -> OSError:
    """Return an error that names those of all attempts, which are the cause of trio's exception."""
    group = exc.__cause__
    if not isinstance(group, BaseExceptionGroup):
        return OSError(exc.errno, exc.strerror or str(exc))
    reasons = {getattr(each, "strerror", None) or str(each) for each in group.exceptions}
    numbers = [exc.errno, *(each.errno for each in group.exceptions if isinstance(each, OSError))]
    return OSError(next(filter(None, numbers), None), "; ".join(sorted(reasons)))


async def _connect_unix(
    path: str, allowed_uids: frozenset[int] | None, backlog_timeout: float
) -> socket.socket:
    """Connect, retrying while the backlog is full: the kernel reports no event when it is not."""
    await trio.lowlevel.checkpoint_if_cancelled()
    deadline, delay = trio.current_time() + backlog_timeout, _BACKLOG_RETRY_DELAY
    while True:
        try:
            return connect_unix(path, allowed_uids)
        except BlockingIOError:
            if trio.current_time() >= deadline:
                raise BlockingIOError(errno.EAGAIN, _BACKLOG_FULL_MESSAGE) from None
        await trio.sleep(delay)
        delay = min(2 * delay, _MAX_BACKLOG_RETRY_DELAY)


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
            uid = peer_of(sock).uid
            if uid not in allowed_uids and not (uid == file_uid and _is_in_uid_namespace()):
                wanted = " or ".join(f"uid {each}" for each in sorted(allowed_uids))
                raise WrongServerError(f"its socket is served by uid {uid}, not by {wanted}")
    except BaseException:
        sock.close()
        raise
    return sock


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
