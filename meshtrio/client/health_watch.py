"""Client-side health checking: watches the health of endpoints while they are connected (gRFC A17).

A server without the health service counts as healthy; a watch that ends is started again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import purerpc
import trio
from google.protobuf.message import DecodeError

from meshtrio.client.channel_endpoint import ChannelEndpoint
from meshtrio.client.subchannel import Subchannel
from meshtrio.discovery.endpoint import RECONNECT_BACKOFF
from meshtrio.errors import CallRefusedError
from meshtrio.grpc.header_builder import build_request_headers
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.errors import error_for_call
from meshtrio.rpc.stream import Stream
from meshtrio.util.concurrency import run_during
from meshtrio.util.shared_rng import RNG

_log = logging.getLogger("meshtrio.rpc")

_REQUEST_HEADERS = build_request_headers(b"/grpc.health.v1.Health/Watch", b"health")


async def watch_health(
    scope: trio.CancelScope,
    endpoint: ChannelEndpoint,
    service: str,
    on_change: Callable[[], None],
    state_changed: trio.lowlevel.ParkingLot,
) -> None:
    """Set `is_healthy` of an endpoint, until `scope` is cancelled.

    `on_change` is called when it changes; `state_changed` is unparked when a connection is
    established or lost.
    """

    def on_health(is_healthy: bool) -> None:
        if is_healthy is not endpoint.is_healthy:
            endpoint.is_healthy = is_healthy
            on_change()

    with scope:
        while True:
            watched = endpoint.subchannel.connection
            with trio.CancelScope() as connected:
                async with run_during(_cancel_when_exhausted, watched, connected):
                    await _watch_connection(endpoint.subchannel, service, on_health)
            on_health(False)
            # Another connection may have been established while the watch backed off.
            if endpoint.subchannel.connection in (None, watched):
                await state_changed.park()


async def _cancel_when_exhausted(
    connection: ClientConnection | None, scope: trio.CancelScope
) -> None:
    """A watch would keep a connection open that is to close once its calls have ended."""
    if connection is not None:
        await connection.exhausted.wait()
        scope.cancel()


async def _watch_connection(
    subchannel: Subchannel, service: str, on_health: Callable[[bool], None]
) -> None:
    """Report whether the service is SERVING, at each change, until the connection is exhausted.

    Returns at once if there is no connection.
    """
    # Few services have a health check, and plugins start faster without its messages.
    from meshtrio.messages import health

    connection = subchannel.connection
    if connection is None:
        return
    failures, reply_type = 0, health.HealthCheckResponse
    request = health.HealthCheckRequest(service=service).SerializeToString()
    while connection.is_usable:
        headers = connection.pseudo_headers + _REQUEST_HEADERS
        stream = connection.open_stream(Stream, headers.data)
        if stream is None:
            await connection.wait_for_stream_slot()
            continue
        subchannel.health_watch_count += 1
        try:
            try:
                await stream.send(request, end_stream=True)
                while (data := await stream.receive()) is not None:
                    failures = 0
                    on_health(reply_type.FromString(bytes(data)).status == reply_type.SERVING)
                if stream.trailers is None or stream.trailers.code:
                    raise error_for_call(stream.headers, stream.trailers)
            finally:
                stream.reset(ErrorCode.CANCEL)
                subchannel.health_watch_count -= 1
        except purerpc.UnimplementedError:
            _log.info("%s has no health service to watch; it counts as healthy", service or "it")
            on_health(True)
            await connection.exhausted.wait()
        except (CallRefusedError, purerpc.ResourceExhaustedError):
            pass  # Too many calls say nothing about the health of the server.
        except (purerpc.RpcFailedError, DecodeError):
            on_health(False)
        failures += 1
        await trio.sleep(RECONNECT_BACKOFF.delay(failures, RNG))
