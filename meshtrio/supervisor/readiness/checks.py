"""What `HealthMonitor` knows of the checks of a process run."""

from __future__ import annotations

from typing import Protocol

import attrs
import trio

from meshtrio.supervisor.probe import HealthCheckResult


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
    """Checks its gRPC server when another file has taken the place of its socket; None if it has
    no service."""
    address: str = ""
    """The address that `liveness` connects to, whose accept queue shows whether the server is
    overloaded; "" if it connects to none."""


class StartedCheck:
    """A process that was started is ready."""

    async def wait_ready(self, max_time: float) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()
