"""Waiting until instances are ready, or one of them has failed to start."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from meshtrio.errors import PluginFailedError
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.plan import find_unready_dependencies
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.supervisor import Supervisor


async def wait_ready(supervisor: Supervisor, instances: Sequence[Instance]) -> None:
    """Wait until all instances are ready.

    Raises PluginFailedError if one, or all those of a plugin it depends on, failed to start.
    """
    observer = _StartObserver(supervisor, instances)
    await supervisor.wait_until(lambda: observer.are_up() or bool(observer.find_failures()))
    if failed := observer.find_failures():
        raise PluginFailedError("\n".join(failed))


class _StartObserver:
    """Finds the failures since it was created of what some instances need to be ready."""

    def __init__(self, supervisor: Supervisor, instances: Sequence[Instance]) -> None:
        self._supervisor = supervisor
        self._instances = instances
        self._failed_before = {each: each.failed_starts for each in supervisor.instances}

    def are_up(self) -> bool:
        """Return whether all instances are ready, or have another process in their place."""
        return all(map(_is_up, self._instances))

    def find_failures(self) -> list[str]:
        """Describe failures: of the instances, else of plugins that have to be ready before, else
        of what has to have completed before."""
        supervisor = self._supervisor
        table, dependencies = supervisor.instances, supervisor.dependencies
        return (
            [_describe_failure(each) for each in self._instances if self._has_failed(each)]
            or [
                f"{each.name} waits for {_describe_failure(needed[0])}"
                for each in self._instances
                for needed in find_unready_dependencies(each, table, dependencies)
                if all(map(self._has_failed, needed))
            ]
            or [
                f"{each.name} {failure}"
                for each in self._instances
                if each.phase.is_waiting and not each.is_running
                if (failure := supervisor.explain_dependencies().explain_failure(each.plugin))
            ]
        )

    def _has_failed(self, instance: Instance) -> bool:
        failed = instance.failed_starts > self._failed_before.get(instance, 0)
        is_down = instance.phase.is_final and not instance.is_running
        return not _is_up(instance) and (failed or is_down)


def _is_up(instance: Instance) -> bool:
    is_ready = instance.is_available and not instance.phase.is_leaving
    return is_ready or instance.attachment is not None


def _describe_failure(instance: Instance) -> str:
    """Describe how an instance failed to start, and what follows."""
    if instance.phase is InstancePhase.STOPPED:
        return f"{instance.name} is stopped"
    text = f"{instance.name} {instance.exit_reason}{instance.last_stderr_line}"
    if instance.phase is InstancePhase.BACKOFF:
        text += f"; it is started again in {max(instance.start_at - trio.current_time(), 0):.1f} s"
    return text
