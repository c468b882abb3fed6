"""What a failure means for others: a group's strategy, and how far up a failure goes. Pure.

Source: OTP's supervisor, whose intensity, strategies and escalation these are. A plugin is to its
group what a child is to its supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from meshtrio.config import EscalationScope, GroupConfig, PluginConfig, Strategy
from meshtrio.config.topology import Topology
from meshtrio.supervisor.policy.restart import recent_times

GroupRestartTimes = Mapping[str, tuple[float, ...]]
"""By group: when a member that gave up was started afresh, as far back as its period."""


def members_to_restart(group: GroupConfig, member: str) -> tuple[str, ...]:
    """The members that are restarted when one fails, itself among them, in order."""
    if group.strategy is Strategy.ONE_FOR_ALL:
        return group.members
    if group.strategy is Strategy.REST_FOR_ONE:
        return group.members[group.members.index(member) :]
    return (member,)


def plugins_restarted_with(relations: Topology, plugin: str) -> tuple[str, ...]:
    """The other plugins that are restarted when an instance of one is, by its group's strategy."""
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
    """Nobody else is to be troubled."""


@attrs.frozen
class RestartGroup:
    """Stop these plugins, in reverse order, and start them afresh."""

    group: str
    plugins: tuple[str, ...]
    restart_times: GroupRestartTimes


@attrs.frozen
class EscalateToMesh:
    """Nobody is left to help; `groups` failed on the way, innermost first."""

    failed_groups: tuple[str, ...]


EscalationResult = NoEscalation | RestartGroup | EscalateToMesh


def escalate(
    relations: Topology, plugin: PluginConfig, restart_times: GroupRestartTimes, now: float
) -> EscalationResult:
    """Find who deals with a plugin that gave up at `now` (seconds)."""
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
