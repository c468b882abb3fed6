"""Stops, replacements and counts of instances: each is requested, and then waited for."""

from __future__ import annotations

from collections.abc import Sequence

from meshtrio.config import ReplacementOrder
from meshtrio.errors import PluginFailedError
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.operations.name_resolver import NameResolver
from meshtrio.supervisor.operations.results import DrainResult
from meshtrio.supervisor.operations.start_waiting import wait_ready
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.supervisor import Supervisor


async def stop_and_wait(
    supervisor: Supervisor, instances: Sequence[Instance]
) -> tuple[DrainResult, ...]:
    """Stop instances, and return how each ended once all have."""
    runs = {each: each.active_run for each in instances}
    for instance in instances:
        instance.request_stop()
    await supervisor.wait_until(lambda: not any(each.is_running for each in instances))
    for instance in instances:
        instance.close_unused_sockets()  # Those that were idle had no run that has ended.
    return tuple(
        DrainResult(each.plugin, each.number, **({} if run is None else run.stop_details()))
        for each, run in runs.items()
    )


async def replace(supervisor: Supervisor, instance: Instance, reason: str) -> None:
    """Replace the process of an instance, or start one if it has none.

    Raises PluginFailedError if the replacement did not get ready, or as `wait_ready` does.
    """
    if instance.attachment is not None:
        return  # It is started anew when that ends.
    if not instance.is_ready or instance.phase.is_leaving:
        supervisor.request_start(instance)
        await wait_ready(supervisor, [instance])
        return
    request, draining = instance.request_replacement(reason), instance.draining_runs
    await supervisor.wait_until(lambda: request.failure is not None and not draining)
    if request.failure:
        raise PluginFailedError(request.failure)
    if instance.config.replacement_order is ReplacementOrder.STOP_FIRST:
        await wait_ready(supervisor, [instance])


async def apply_instance_count(supervisor: Supervisor, name: str) -> None:
    """Add or remove instances of a plugin until there are as many as the config has.

    Raises PluginFailedError as `wait_ready` does.
    """
    names = NameResolver(supervisor)
    plugin = names.find_plugin(name)
    present = names.find_instances(plugin.name)
    surplus = [each for each in present if each.number >= plugin.instances]
    added = [Instance(plugin, number) for number in range(len(present), plugin.instances)]
    supervisor.add(added)
    await stop_and_wait(supervisor, surplus)
    supervisor.remove(surplus)
    await wait_ready(supervisor, added)


async def replace_all(supervisor: Supervisor, name: str) -> None:
    """Replace the processes of a plugin whose config has changed, one by one.

    Raises PluginFailedError as `replace` and `apply_instance_count` do.
    """
    await apply_instance_count(supervisor, name)
    for instance in NameResolver(supervisor).find_instances(name):
        phase = instance.phase
        if not (phase.is_leaving or phase.is_final or phase is InstancePhase.IDLE):
            await replace(supervisor, instance, "its config has changed")
