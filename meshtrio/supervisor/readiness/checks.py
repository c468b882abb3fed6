"""The checks of one process run, and what `HealthMonitor` knows of them."""

from __future__ import annotations

from typing import Protocol

import attrs
import trio

from meshtrio.config.ready import GrpcCheck
from meshtrio.supervisor.probe import Connect, HealthCheckResult, SocketProbe
from meshtrio.supervisor.run_spec import RunSpec


class ReadinessCheck(Protocol):
    """Waits until a process is ready."""

    async def wait_ready(self, max_time: float) -> None:
        """Wait for at most `max_time` seconds. Raises NotReadyError after that."""


class LivenessCheck(Protocol):
    """Checks whether a process is alive, and whether it serves."""

    async def check(self, max_time: float) -> HealthCheckResult:
        """Make one check, which takes at most `max_time` seconds unless the mesh is suspended."""


@attrs.frozen
class HealthChecks:
    """What is checked of one process run."""

    readiness: ReadinessCheck
    """Tells when it is ready."""
    liveness: LivenessCheck | None
    """Tells whether it is alive; None if that is not checked, other than by its process."""
    service: LivenessCheck | None
    """Checks its server when another file has taken the place of its socket; None if it has no
    service."""
    address: str = ""
    """Where its server listens, whose accept queue is looked at if it does not answer; "" if it
    has none."""


@attrs.frozen
class ServerCheck:
    """Both checks, by a connection to a server for each."""

    _probe: SocketProbe
    _connect: Connect

    async def wait_ready(self, max_time: float) -> None:
        await self._probe.wait_ready(max_time, self._connect)

    async def check(self, max_time: float) -> HealthCheckResult:
        return await self._probe.check(max_time, self._connect)


class StartedCheck:
    """A process that was started is ready."""

    async def wait_ready(self, max_time: float) -> None:
        await trio.lowlevel.checkpoint()


def make_checks(spec: RunSpec, probe: SocketProbe, connect: Connect) -> HealthChecks:
    """Make the checks of a process run.

    `connect` connects to its server at `spec.address`, and verifies that it is the plugin's.
    """
    if isinstance(spec.config.ready_check, GrpcCheck):
        check = ServerCheck(probe, connect)
        return HealthChecks(check, check, check, spec.address)
    service = ServerCheck(probe, connect) if spec.config.has_service else None
    return HealthChecks(StartedCheck(), None, service, spec.address if service else "")
