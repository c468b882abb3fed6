"""The status of an instance, as it is shown to users."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from meshtrio.config import StartMethod
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.state import InstanceState


@attrs.frozen
class InstanceStatus:
    """An instance as it is now."""

    name: str
    """The name of its plugin."""
    instance: int
    """Its number, from 0."""
    state: InstanceState
    """What its process is doing, or why it has none."""
    pid: int | None
    """The process id of its active run, None if it has none."""
    restarts: int
    """How many times it was started again after it had ended by itself."""
    uptime: float | None
    """Seconds since its process was started, None if it has none."""
    socket: Path | None
    """The Unix socket of its active run, or of its next one; None if its plugin has no service."""
    reason: str
    """How its last process ended, unless it is ready, and which processes cannot be killed."""
    start: StartMethod | None
    """How its process was started, None if it has none. A plugin that is to be forked is executed
    if that is not possible."""
    ready_after: float | None
    """Seconds from the start of its process until it was ready; None before, or if it has none."""
    status: str = ""
    """What its process reports that it is doing, by sd_notify(3); "" if it does not."""


def make_instance_statuses(
    instances: Iterable[Instance],
    find_socket: Callable[[Instance, int], Path],
    explain: Callable[[str], str],
) -> tuple[InstanceStatus, ...]:
    """Make the status of each instance.

    Args:
        instances: The instances.
        find_socket: Returns the socket of an instance for one of its two addresses.
        explain: Explains what a plugin waits for to have completed.
    """
    return tuple(
        _make_instance_status(
            each,
            next_socket=find_socket(each, each.slot),
            waiting_reason=explain(each.plugin) if each.phase.is_waiting else "",
        )
        for each in instances
    )


def _make_instance_status(
    instance: Instance, *, next_socket: Path, waiting_reason: str
) -> InstanceStatus:
    run, process = instance.active_run, instance.process
    config = instance.config if run is None else run.config
    socket = next_socket if run is None else run.socket
    reason = "" if instance.is_ready or instance.phase.is_idle else instance.exit_reason
    if instance.attachment is not None:
        reason = str(instance.attachment)
    reasons = [waiting_reason, reason, *map(str, instance.unkillable)]
    return InstanceStatus(
        name=instance.plugin,
        instance=instance.number,
        state=instance.state,
        pid=process.pid if process is not None else None,
        restarts=instance.history.restarts,
        uptime=run.uptime if run is not None and process is not None else None,
        socket=socket if config.has_service else None,
        reason="; ".join(filter(None, reasons)),
        start=process.start_method if process is not None else None,
        ready_after=run.ready_after if run is not None and process is not None else None,
        status=run.status if run is not None and process is not None else "",
    )
