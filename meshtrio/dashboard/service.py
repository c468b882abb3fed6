"""The dashboard of one mesh, from its start to its end."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from contextlib import ExitStack
from typing import Any

import trio

from meshtrio.client.channel import connect_to
from meshtrio.client.mesh_connection import mesh_socket_endpoint
from meshtrio.config import DashboardConfig
from meshtrio.dashboard.actions import Actions
from meshtrio.dashboard.control_api import ControlApi
from meshtrio.dashboard.control_client import ControlClient
from meshtrio.dashboard.requests_check import Gatekeeper
from meshtrio.dashboard.routes import SECURITY_HEADERS, Routes
from meshtrio.dashboard.static_files import StaticFiles
from meshtrio.dashboard.stream import StreamServer
from meshtrio.dashboard.topics import make_sources
from meshtrio.dashboard.url import load_token, make_url, published_url
from meshtrio.http2.limits import UNLIMITED
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.transport.http_server import HttpLimits, HttpServer
from meshtrio.transport.listener import tcp_listener
from meshtrio.transport.tls import make_server_ssl_context
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.errors import ConfigError, UsageError

_log = logging.getLogger("meshtrio.dashboard")

_MAX_CONNECTIONS = 512
_IDLE_TIMEOUT = 20.0
"""Seconds to receive a request, and to send each chunk of its response."""
_SEND_TIMEOUT = 120.0
"""Seconds to send a whole response."""
_STREAM_TIMEOUT = 60.0
"""Seconds to send each part of a stream: a browser may sleep for a moment."""
_LIMITS = HttpLimits(
    max_connections=_MAX_CONNECTIONS,
    idle_timeout=_IDLE_TIMEOUT,
    send_timeout=_SEND_TIMEOUT,
    stream_timeout=_STREAM_TIMEOUT,
    keep_alive=True,
)


async def serve_dashboard(
    supervisor: Supervisor,
    passed: socket.socket | None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the dashboard of a mesh whose mesh socket answers, until cancelled.

    Args:
        supervisor: That of the mesh, whose config says how.
        passed: A listening socket that a service manager has passed, which is closed.
        task_status: Started once the port is open.

    Raises:
        UsageError: The port cannot be bound, or a file in the runtime dir cannot be written.
        ConfigError: The TLS files cannot be used.
    """
    config, runtime_dir = supervisor.config.dashboard, supervisor.mesh_socket.parent
    context = _make_ssl_context(config)
    token = load_token(runtime_dir)
    url = make_url(config, token)
    endpoint = mesh_socket_endpoint(supervisor.mesh_socket)
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(
                tcp_listener(f"tcp:{config.listen}") if passed is None else passed
            )
        except UsageError as exc:
            raise UsageError(f"[mesh.dashboard] listen: {exc}") from None
        stack.enter_context(published_url(runtime_dir, url))
        async with (
            connect_to(endpoint, max_receive_message_length=UNLIMITED) as channel,
            open_collapsing_nursery() as nursery,
        ):
            client = ControlClient(channel)
            routes = Routes(
                Gatekeeper(config, token),
                StaticFiles(),
                ControlApi(client),
                StreamServer(client, make_sources(client, nursery), lambda: _describe(supervisor)),
                Actions(client, allowed=config.control),
            )
            server = HttpServer(
                routes.respond, _LIMITS, _log, headers=SECURITY_HEADERS, ssl_context=context
            )
            await nursery.start(server.serve, listener)
            _log.info("dashboard at %s", url)
            task_status.started()


def _make_ssl_context(config: DashboardConfig) -> ssl.SSLContext | None:
    tls = config.tls
    if tls is None:
        return None
    try:
        context = make_server_ssl_context(tls.certificate, tls.key, tls.client_ca)
    except OSError as exc:
        text = f"mesh: dashboard: tls: cannot be used: {exc.strerror or exc}"
        raise ConfigError([text]) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _describe(supervisor: Supervisor) -> dict[str, Any]:
    """Return what a page shows of a mesh as a whole, and what it offers."""
    config = supervisor.config
    return {
        "name": config.discovery.node or socket.gethostname(),
        "started": time.time() - supervisor.statistics().uptime,
        "control": config.dashboard.control,
        "gateway": True,  # By the mesh socket at least.
        "nodes": bool(config.discovery.etcd),
    }
