"""The health of one endpoint as its server tells it, for as long as a connection lasts (gRFC A17).

A server without the health service counts as healthy; one whose watch ends is asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

import purerpc
import trio

from meshtrio.client.direct_channel import DirectChannel
from meshtrio.client.streaming import StreamingCall
from meshtrio.client.subchannel import Subchannel
from meshtrio.discovery.endpoint import RECONNECT_BACKOFF
from meshtrio.errors import CallRefusedError
from meshtrio.messages import health
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor

_log = logging.getLogger("meshtrio.rpc")

_WATCH_METHOD = method_from_descriptor(
    health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Watch"]
)
_SERVING = health.HealthCheckResponse.SERVING


async def watch_health(
    subchannel: Subchannel, service: str, on_health: Callable[[bool], None]
) -> None:
    """Tell whether the service is SERVING, at each change, until the connection takes no calls.

    Returns at once where there is no connection.
    """
    connection = subchannel.connection
    if connection is None:
        return
    picker, rng, failures = DirectChannel(connection, "health"), Random(), 0
    request = health.HealthCheckRequest(service=service)
    while connection.is_usable:
        try:
            async with StreamingCall(picker, _WATCH_METHOD, single_message=request) as call:
                with subchannel.count_health_watch():
                    async for reply in call:
                        failures = 0
                        on_health(reply.status == _SERVING)
        except purerpc.UnimplementedError:
            _log.info("%s has no health service to watch; it counts as healthy", service or "it")
            on_health(True)
            await connection.exhausted.wait()
        except (CallRefusedError, purerpc.ResourceExhaustedError):
            pass  # It has too many calls, which says nothing about its health: as it was.
        except purerpc.RpcFailedError:
            on_health(False)
        failures += 1
        await trio.sleep(RECONNECT_BACKOFF.delay(failures, rng))
