"""Connecting to an address: a Unix or TCP socket, and TLS on it if it is configured."""

from __future__ import annotations

import errno
import socket
import ssl

import trio

from meshtrio.transport.tls import TlsTransport, make_client_ssl_context
from meshtrio.transport.transport import Transport
from meshtrio.transport.unix_connect import connect_unix
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig

_BACKLOG_RETRY_DELAY, _MAX_BACKLOG_RETRY_DELAY = 0.002, 0.1
"""Seconds between attempts to connect to a server whose backlog is full."""
_BACKLOG_FULL_MESSAGE = "its backlog of connections is full: it is overloaded, or stuck"


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
    return TlsTransport(sock, context, server_side=False, server_hostname=hostname)


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
    await trio.lowlevel.checkpoint()
    deadline, delay = trio.current_time() + backlog_timeout, _BACKLOG_RETRY_DELAY
    while True:
        try:
            return connect_unix(path, allowed_uids)
        except BlockingIOError:
            if trio.current_time() >= deadline:
                raise BlockingIOError(errno.EAGAIN, _BACKLOG_FULL_MESSAGE) from None
        await trio.sleep(delay)
        delay = min(2 * delay, _MAX_BACKLOG_RETRY_DELAY)
