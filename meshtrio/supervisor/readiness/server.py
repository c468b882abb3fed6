"""Checks a server by a connection for each check."""

from __future__ import annotations

import attrs
import trio

from meshtrio.supervisor.probe import (
    SERVING,
    Connect,
    HealthCheckResult,
    NotReadyError,
    SocketProbe,
)
from meshtrio.supervisor.readiness.checks import ReadinessCheck
from meshtrio.transport.transport import Transport

_MIN_SERVICE_TIME = 1.0
"""Minimum seconds for the gRPC server to accept connections, once the process is ready."""


@attrs.frozen
class ServerCheck:
    """Checks readiness and liveness by what a server answers."""

    _probe: SocketProbe
    _connect: Connect

    async def wait_ready(self, max_time: float) -> None:
        """Wait until the server gives the answer of one that is ready."""
        await self._probe.wait_ready(max_time, self._connect)

    async def check(self, max_time: float) -> HealthCheckResult:
        """Make one check, with a connection of its own."""
        return await self._probe.check(max_time, self._connect)


async def query_accepting(transport: Transport) -> HealthCheckResult:
    """Close the connection: a server that accepts connections is ready."""
    transport.close()
    await trio.lowlevel.checkpoint()
    return SERVING


@attrs.frozen
class ReadyService:
    """Waits for a process to be ready, and then for its gRPC server, which others are to call."""

    _process: ReadinessCheck
    _service: ServerCheck

    async def wait_ready(self, max_time: float) -> None:
        """Wait for both; the server has at least a second."""
        deadline = trio.current_time() + max_time
        await self._process.wait_ready(max_time)
        rest = max(deadline - trio.current_time(), _MIN_SERVICE_TIME)
        try:
            await self._service.wait_ready(rest)
        except NotReadyError as exc:
            hint = "a program that serves no gRPC there needs `service = false`"
            raise NotReadyError(max_time, f"{exc.missing}; {hint}") from None
