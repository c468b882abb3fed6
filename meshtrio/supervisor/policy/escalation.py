"""Decides what a failure means for other plugins: restart strategies and escalation. Pure.

Source: OTP's supervisor, with its restart strategies and intensity. A plugin corresponds to a
child, and a group to its supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from meshtrio.config import EscalationScope, GroupConfig, PluginConfig, Strategy
from meshtrio.config.topology import Topology
from meshtrio.supervisor.policy.restart import recent_times

GroupRestartTimes = Mapping[str, tuple[float, ...]]
"""The times of a group's restarts after a member gave up, within its period, by group."""


def plugins_restarted_with(relations: Topology, plugin: str) -> tuple[str, ...]:
    """Return the other plugins that are restarted with an instance, by its group's strategy."""
    group = relations.group_of(plugin)
    restarted = () if group is None else _plugins_to_restart(relations, group, plugin)
    return tuple(name for name in restarted if name != plugin)


def _plugins_to_restart(relations: Topology, group: GroupConfig, member: str) -> tuple[str, ...]:
    """Return the plugins that are restarted when a member fails, including its own, in order."""
    members: tuple[str, ...] = (member,)
    if group.strategy is Strategy.ONE_FOR_ALL:
        members = group.members
    elif group.strategy is Strategy.REST_FOR_ONE:
        members = group.members[group.members.index(member) :]
    return tuple(name for each in members for name in relations.plugins_in(each))


@attrs.frozen
class RestartGroup:
    """Stop plugins of a group, in reverse order, and start them again."""

    group: str
    """The name of the group."""
    plugins: tuple[str, ...]
    """The plugins to restart."""
    restart_times: GroupRestartTimes
    """The restart times of all groups, including this restart."""


@attrs.frozen
class EscalateToMesh:
    """Stop the mesh."""

    failed_groups: tuple[str, ...]
    """The groups that failed on the way, innermost first."""


def escalate(
    relations: Topology, plugin: PluginConfig, restart_times: GroupRestartTimes, now: float
) -> RestartGroup | EscalateToMesh | None:
    """Decide what happens to others after a plugin gave up at `now`; None for nothing."""
    if plugin.escalate is EscalationScope.PLUGIN:
        return None
    failed: list[str] = []
    name: str = plugin.name
    to: EscalationScope = plugin.escalate
    while to is EscalationScope.GROUP:
        group = relations.group_of(name)
        if group is None:
            break
        times = recent_times(restart_times.get(group.name, ()), group.restart_period, now)
        if len(times) < group.max_restarts:
            plugins = _plugins_to_restart(relations, group, name)
            return RestartGroup(group.name, plugins, {**restart_times, group.name: (*times, now)})
        failed.append(group.name)
        name, to = group.name, group.escalate
    return EscalateToMesh(tuple(failed))
