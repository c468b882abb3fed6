"""The registry entry of one process run."""

from __future__ import annotations

import contextlib

import attrs
import purerpc

from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.run_spec import RunSpec


@attrs.define(eq=False)
class Registration:
    """Registers the endpoint of a run, and reports to its callers how it ended.

    Each time that a run becomes ready it is a new endpoint, with an id of its own. A plugin without
    a service has no entry.
    """

    _registry: Registry
    _spec: RunSpec
    pid: int = attrs.field(default=0, init=False)
    """The pid of the run's process, 0 before it has one."""
    times_ready: int = attrs.field(default=0, init=False)
    """Number of times that it was registered."""

    @property
    def _endpoint_id(self) -> str:
        spec = self._spec
        return f"{spec.config.name}-{spec.number}-{spec.launch_id}-{self.times_ready}"

    def register(self, server_uid: int | None) -> None:
        """Make the run available to callers."""
        self.times_ready += 1
        self.adopt(server_uid)

    def adopt(self, server_uid: int | None) -> None:
        """Register it with the id that it had before an upgrade."""
        if not self._spec.config.has_service:
            return
        endpoint = Endpoint(
            id=self._endpoint_id,
            address=self._spec.address,
            instance=self._spec.number,
            pid=self.pid,
            tls=self._spec.config.tls,
            server_uid=server_uid,
        )
        self._registry.register(self._spec.config.service_name, endpoint)

    async def withdraw(self) -> None:
        """Wait until other nodes know that it is deregistered, for a second at most."""
        if self._spec.config.has_service:
            await self._registry.withdraw()

    def deregister(self, reason: str, exit: Exit | None = None) -> None:
        """Remove the run from the registry, or add how it ended to an earlier removal.

        A run that was never registered has exit info too: callers learn from it why there is no
        endpoint. `reason` is a phrase that follows "instance 0 (pid 4711)".
        """
        if not self._spec.config.has_service:
            return
        process, ended = f" (pid {self.pid})" if self.pid else "", exit or Exit()
        exit_info = ExitInfo(
            endpoint_id=self._endpoint_id,
            reason=f"instance {self._spec.number}{process} {reason}",
            exit_status=ended.status,
            signal=ended.signal,
            stderr_tail=ended.stderr_tail,
            launch_id=self._spec.launch_id,
        )
        with contextlib.suppress(purerpc.NotFoundError):  # Removed by a reload, and evicted.
            self._registry.deregister(self._spec.config.service_name, exit_info)
