"""Is a plugin ready: its socket accepts, and its health service says SERVING.

Source: grpc/doc/health-checking.md. A server without a health service is ready when it answers.
"""

from __future__ import annotations

import purerpc
import trio

from meshtrio.errors import ConnectionLostError
from meshtrio.messages import health
from meshtrio.rpc.calls import UnaryCall
from meshtrio.rpc.dynamic import method_of
from meshtrio.rpc.endpoint import connect
from meshtrio.rpc.single import over_socket

_CHECK = method_of(health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"])
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1


class NotReadyError(Exception):
    """A plugin was not ready in time; the text says what it was still missing."""


async def wait_ready(address: str, within: float) -> None:
    """Wait until the server at an address is ready; cancellable.

    Raises NotReadyError after `within` seconds.
    """
    missing = ["it was not asked yet"]
    with trio.move_on_after(within):
        pause = _FIRST_PAUSE
        while not await _is_ready(address, missing):
            await trio.sleep(pause)
            pause = min(pause * 1.3, _LONGEST_PAUSE)
        return
    raise NotReadyError(f"was not ready within {within:g} s: {missing[0]}")


async def _is_ready(address: str, missing: list[str]) -> bool:
    """Ask once; what is missing is put where it can be read even when this is cancelled."""
    try:
        sock = await connect(address)
    except FileNotFoundError:
        missing[0] = "it has not bound its socket"
        return False
    except OSError as exc:
        missing[0] = f"its socket refuses connections ({exc.strerror})"
        return False
    missing[0] = "it accepted a connection but did not answer the health check"
    try:
        async with over_socket(sock) as connection:
            reply = await UnaryCall(connection, _CHECK)(health.HealthCheckRequest())
    except purerpc.UnimplementedError:
        return True
    except ConnectionLostError as exc:
        missing[0] = f"it accepted a connection and then: {exc.status.status_message}"
        return False
    except purerpc.RpcFailedError as exc:
        missing[0] = f"its health check failed with {exc.status}"
        return False
    missing[0] = "its health check says NOT_SERVING"
    serving: bool = reply.status == health.HealthCheckResponse.SERVING
    return serving
