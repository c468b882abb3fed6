"""Whether a process run can be called: its state, and its entry in the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from meshtrio.config import StartMethod
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState, next_run_state
from meshtrio.supervisor.probe import HealthCheckResult
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.registration import Registration


class RunAvailability:
    """The state of a run, which is in the registry while it is ready."""

    def __init__(
        self,
        spec: RunSpec,
        registry: Registry,
        *,
        emit: Callable[..., None],
        on_change: Callable[[], None],
    ) -> None:
        """Create the state of a run that is not started.

        Args:
            spec: The run.
            registry: Gets its endpoint.
            emit: Called as `emit(kind, **values)` for events of the instance.
            on_change: Called after each change of `state`.
        """
        self.state = InstanceState.PENDING
        self.started_at = trio.current_time()
        self.ready_at: float | None = None
        """When it was first ready, None if it has not been yet."""
        self.last_check: HealthCheckResult | None = None
        """The result of its last health check."""
        self.registration = Registration(registry, spec)
        """Its entry in the registry, which knows the pid of its process."""
        self._has_service = spec.config.has_service
        self._emit = emit
        self._on_change = on_change

    @property
    def is_ready(self) -> bool:
        """Whether it is ready."""
        return self.state is InstanceState.READY

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return trio.current_time() - self.started_at

    @property
    def may_have_calls(self) -> bool:
        """Whether it has been ready, and has a service."""
        return self.ready_at is not None and self._has_service

    def set_state(self, state: InstanceState) -> None:
        """Change the state, by the table in `policy.state`."""
        self.state = next_run_state(self.state, state)
        self._on_change()

    def mark_ready(self, start_method: StartMethod, server_uid: int | None) -> None:
        """Register it; `server_uid` is the user that its server runs as, if that is known."""
        self.registration.register(server_uid)
        was_ready_before = self.ready_at is not None
        if self.ready_at is None:
            self.ready_at = trio.current_time()
        self.set_state(InstanceState.READY)
        self.emit_process_event(
            events.Ready,
            startup_time=self.uptime,
            start=start_method,
            was_ready_before=was_ready_before,
        )

    def mark_unready(self, reason: str) -> None:
        """Deregister it until it is ready again."""
        self.set_state(InstanceState.UNREADY)
        self.registration.deregister(reason)
        self.emit_process_event(events.Unready, reason=reason)

    def emit_process_event(self, kind: type[events.ProcessEvent], **values: Any) -> None:
        """Emit an event of its process."""
        self._emit(kind, pid=self.registration.pid, **values)
