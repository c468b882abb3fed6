"""The health of one endpoint as its server tells it, for as long as a connection lasts (gRFC A17).

A server without the health service counts as healthy; one whose watch ends is asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

import purerpc
import trio

from meshtrio.client.endpoint import RECONNECT
from meshtrio.client.link import Link
from meshtrio.client.single import SingleConnection
from meshtrio.client.streaming import Call
from meshtrio.errors import CallRefusedError
from meshtrio.messages import health
from meshtrio.rpc.dynamic import method_of

_log = logging.getLogger("meshtrio.rpc")

_WATCH = method_of(health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Watch"])
_SERVING = health.HealthCheckResponse.SERVING


async def watch_health(link: Link, service: str, tell: Callable[[bool], None]) -> None:
    """Tell whether the service is SERVING, at each change, until the connection takes no calls.

    Returns at once where there is no connection.
    """
    connection = link.connection
    if connection is None:
        return
    picker, rng, failures = SingleConnection(connection, "health"), Random(), 0
    request = health.HealthCheckRequest(service=service)
    while connection.usable:
        try:
            async with Call(picker, _WATCH, single=request) as call:
                with link.watched():
                    async for reply in call:
                        failures = 0
                        tell(reply.status == _SERVING)
        except purerpc.UnimplementedError:
            _log.info("%s has no health service to watch; it counts as healthy", service or "it")
            tell(True)
            await connection.spent.wait()
        except (CallRefusedError, purerpc.ResourceExhaustedError):
            pass  # It has too many calls, which says nothing about its health: as it was.
        except purerpc.RpcFailedError:
            tell(False)
        failures += 1
        await trio.sleep(RECONNECT.delay(failures, rng))
