"""The registry entry of one process run."""

from __future__ import annotations

import itertools

from meshtrio.config import PluginConfig
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.policy.restart import Exit


class Registration:
    """Registers the endpoint of a run, and reports to its callers how it ended.

    Each time that a run becomes ready it is a new endpoint, with an id of its own.
    """

    def __init__(
        self, registry: Registry, config: PluginConfig, number: int, launch_id: str, address: str
    ) -> None:
        self._registry = registry
        self._config = config
        self._number = number
        self._launch_id = launch_id
        self._address = address
        self._serials = itertools.count()
        self._endpoint_id = ""

    @property
    def was_registered(self) -> bool:
        """Whether the run has ever been in the registry, if only with how it ended."""
        return bool(self._endpoint_id)

    def register(self, pid: int, server_uid: int | None) -> None:
        """Make the run available to callers."""
        self._endpoint_id = self._next_endpoint_id()
        endpoint = Endpoint(
            id=self._endpoint_id,
            address=self._address,
            instance=self._number,
            pid=pid,
            tls=self._config.tls,
            server_uid=server_uid,
        )
        self._registry.register(self._config.service, endpoint)

    def deregister(self, reason: str, pid: int | None, exit: Exit | None = None) -> None:
        """Remove the run from the registry, or add how it ended to an earlier removal.

        A run that was never registered has exit info too: callers learn from it why there is no
        endpoint.

        Args:
            reason: Why, as a phrase that follows "instance 0 (pid 4711)".
            pid: The process id, None if there was no process.
            exit: How the process ended, None if it has not.
        """
        self._endpoint_id = self._endpoint_id or self._next_endpoint_id()
        process = "" if pid is None else f" (pid {pid})"
        exit_info = ExitInfo(
            endpoint_id=self._endpoint_id,
            reason=f"instance {self._number}{process} {reason}",
            exit_status=exit.status if exit else None,
            signal=exit.signal if exit else None,
            stderr_tail=exit.stderr_tail if exit else (),
            launch_id=self._launch_id,
        )
        self._registry.deregister(self._config.service, exit_info)

    def _next_endpoint_id(self) -> str:
        serial = next(self._serials)
        return f"{self._config.name}-{self._number}-{self._launch_id}-{serial}"
