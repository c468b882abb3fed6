"""Serves the dashboard of a mesh on a TCP port."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from meshtrio.config import DashboardConfig
from meshtrio.dashboard.access_token import Sessions, load_or_create_token
from meshtrio.dashboard.control_client import control_stub
from meshtrio.dashboard.guard import SECURITY_HEADERS, Guard
from meshtrio.dashboard.http import HttpConnection
from meshtrio.dashboard.routes import Routes
from meshtrio.transport.acceptor import Acceptor
from meshtrio.transport.listener import tcp_listener
from meshtrio.transport.tls import make_server_ssl_context

_log = logging.getLogger("meshtrio.dashboard")

_MAX_CONNECTIONS = 512
"""A page has one for its stream, and some more while it is loaded."""
_HANDSHAKE_TIMEOUT = 10.0


async def serve_dashboard(
    config: DashboardConfig,
    mesh_socket: Path,
    describe_mesh: Callable[[], Mapping[str, Any]],
    listener: socket.socket | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the dashboard until cancelled.

    Args:
        config: The config, with an address.
        mesh_socket: The mesh socket, in the runtime dir, where the token is kept.
        describe_mesh: Returns what the first message of each stream says of the mesh.
        listener: A listening socket to use instead of binding the address; it is closed.
        task_status: Started once the page can be opened.

    Raises:
        UsageError: The address cannot be bound, or a file of TLS cannot be used.
    """
    address = config.address
    assert address is not None
    context = _make_tls_context(config)
    sessions = Sessions(load_or_create_token(mesh_socket.parent))
    hosts = {each.lower() for each in config.hosts} | {address.host.lower()}
    guard = Guard(sessions, "http" if context is None else "https", address.port, hosts)
    limiter = trio.CapacityLimiter(_MAX_CONNECTIONS)
    with tcp_listener(f"tcp:{config.listen}") if listener is None else listener as sock:
        async with control_stub(mesh_socket) as stub, trio.open_nursery() as nursery:
            routes = Routes(guard, stub, nursery, describe_mesh, control=config.control)

            async def serve(accepted: trio.SocketStream) -> None:
                async with accepted:
                    if not limiter.available_tokens:
                        return
                    async with limiter:
                        await _serve_connection(accepted, context, routes)

            def take(accepted: socket.socket, exhausted: bool) -> None:
                if exhausted:
                    accepted.close()  # A response needs more descriptors than this one.
                    return
                accepted.setblocking(False)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
                nursery.start_soon(serve, stream)

            acceptor = Acceptor(take)
            acceptor.listen(sock)
            task_status.started()
            await acceptor.run()


def _make_tls_context(config: DashboardConfig) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    tls = config.tls
    return make_server_ssl_context(tls.certificate, tls.key, tls.client_ca)


async def _serve_connection(
    accepted: trio.SocketStream, context: ssl.SSLContext | None, routes: Routes
) -> None:
    try:
        peer, own = accepted.socket.getpeername(), accepted.socket.getsockname()
    except OSError:
        return  # It has disconnected already.
    stream: trio.abc.Stream = accepted
    if context is not None:
        stream = trio.SSLStream(accepted, context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(_HANDSHAKE_TIMEOUT):
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError) as exc:
            _log.debug("TLS handshake with %s failed: %r", peer[0], exc.__cause__ or exc)
            return
    where = f"{peer[0]}:{peer[1]}"
    try:
        await HttpConnection(stream, where, own[0], SECURITY_HEADERS).serve(routes.handle)
    except Exception:
        # A bug: this connection ends, the dashboard goes on.
        _log.exception("serving %s failed", where)
