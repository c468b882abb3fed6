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


def members_to_restart(group: GroupConfig, member: str) -> tuple[str, ...]:
    """Return the members that are restarted when one fails, including itself, in order."""
    if group.strategy is Strategy.ONE_FOR_ALL:
        return group.members
    if group.strategy is Strategy.REST_FOR_ONE:
        return group.members[group.members.index(member) :]
    return (member,)


def plugins_restarted_with(relations: Topology, plugin: str) -> tuple[str, ...]:
    """Return the other plugins that are restarted with an instance, by its group's strategy."""
    group = relations.group_of(plugin)
    if group is None:
        return ()
    return tuple(
        name
        for member in members_to_restart(group, plugin)
        for name in relations.plugins_in(member)
        if name != plugin
    )


@attrs.frozen
class NoEscalation:
    """The failure has no effect on other plugins."""


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


EscalationResult = NoEscalation | RestartGroup | EscalateToMesh


def escalate(
    relations: Topology, plugin: PluginConfig, restart_times: GroupRestartTimes, now: float
) -> EscalationResult:
    """Decide what happens after a plugin gave up.

    Args:
        relations: The groups.
        plugin: The plugin.
        restart_times: The earlier restarts of groups.
        now: The time, in seconds of the monotonic clock.
    """
    if plugin.escalate is EscalationScope.PLUGIN:
        return NoEscalation()
    failed: list[str] = []
    name: str = plugin.name
    to: EscalationScope = plugin.escalate
    while to is EscalationScope.GROUP:
        group = relations.group_of(name)
        if group is None:
            break
        times = recent_times(restart_times.get(group.name, ()), group.restart_period, now)
        if len(times) < group.max_restarts:
            plugins = tuple(
                p
                for member in members_to_restart(group, name)
                for p in relations.plugins_in(member)
            )
            return RestartGroup(group.name, plugins, {**restart_times, group.name: (*times, now)})
        failed.append(group.name)
        name, to = group.name, group.escalate
    return EscalateToMesh(tuple(failed))
