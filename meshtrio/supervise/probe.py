"""Is a plugin ready, is it alive: its socket accepts, and its health service says SERVING.

Source: grpc/doc/health-checking.md. A server without a health service is ready when it answers.
"""

from __future__ import annotations

from typing import Protocol

import attrs
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


@attrs.frozen
class Health:
    """What one question found."""

    alive: bool
    """It answered, whatever it said."""
    serving: bool
    reason: str = ""
    """What was missing to SERVING, as a phrase: "its health check says NOT_SERVING"."""
    latency: float = 0.0
    """Seconds to the answer."""


_SERVING = Health(alive=True, serving=True)


class Probe(Protocol):
    """Asks after the health of plugins; a fake in tests."""

    async def wait_ready(self, address: str, within: float) -> None: ...

    async def check(self, address: str, within: float) -> Health: ...


class SocketProbe:
    """Asks over the plugin's own socket, with a connection for each question."""

    async def wait_ready(self, address: str, within: float) -> None:
        """Wait until the server at an address is ready; cancellable.

        Raises NotReadyError after `within` seconds.
        """
        missing = ["it was not asked yet"]
        with trio.move_on_after(within):
            pause = _FIRST_PAUSE
            while True:
                found = await _ask(address, missing)
                if found.serving:
                    return
                missing[0] = found.reason
                await trio.sleep(pause)
                pause = min(pause * 1.3, _LONGEST_PAUSE)
        raise NotReadyError(f"was not ready within {within:g} s: {missing[0]}")

    async def check(self, address: str, within: float) -> Health:
        """Ask once, for at most `within` seconds."""
        asked = trio.current_time()
        missing = [""]
        found = None
        with trio.move_on_after(within):
            found = await _ask(address, missing)
        latency = trio.current_time() - asked
        if found is None:
            reason = missing[0] or "it did not accept a connection"
            found = Health(alive=False, serving=False, reason=f"{reason} within {within:g} s")
        return attrs.evolve(found, latency=latency)


async def _ask(address: str, missing: list[str]) -> Health:
    """Ask once; `missing` tells how far it came even when this is cancelled."""
    try:
        sock = await connect(address)
    except FileNotFoundError:
        return _dead("it has not bound its socket")
    except OSError as exc:
        return _dead(f"its socket refuses connections ({exc.strerror})")
    missing[0] = "it accepted a connection but did not answer the health check"
    try:
        async with over_socket(sock) as connection:
            reply = await UnaryCall(connection, _CHECK)(health.HealthCheckRequest())
    except purerpc.UnimplementedError:
        return _SERVING
    except ConnectionLostError as exc:
        return _dead(f"it accepted a connection and then: {exc.status.status_message}")
    except purerpc.RpcFailedError as exc:
        return _dead(f"its health check failed with {exc.status}")
    if reply.status == health.HealthCheckResponse.SERVING:
        return _SERVING
    return Health(alive=True, serving=False, reason="its health check says NOT_SERVING")


def _dead(reason: str) -> Health:
    return Health(alive=False, serving=False, reason=reason)
