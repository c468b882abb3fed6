"""What a failure means for others: a group's strategy, and how far up a failure goes. Pure.

Source: OTP's supervisor, whose intensity, strategies and escalation these are. A plugin is to its
group what a child is to its supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from meshtrio.config import Escalate, GroupConfig, PluginConfig, Strategy
from meshtrio.config.relations import Relations
from meshtrio.supervise.decisions.policy import within

Recent = Mapping[str, tuple[float, ...]]
"""By group: when a member that gave up was started afresh, as far back as its period."""


def affected(group: GroupConfig, member: str) -> tuple[str, ...]:
    """The members that are restarted when one fails, itself among them, in order."""
    if group.strategy is Strategy.ONE_FOR_ALL:
        return group.members
    if group.strategy is Strategy.REST_FOR_ONE:
        return group.members[group.members.index(member) :]
    return (member,)


def companions(relations: Relations, plugin: str) -> tuple[str, ...]:
    """The other plugins that are restarted when an instance of one is, by its group's strategy."""
    group = relations.group_of(plugin)
    if group is None:
        return ()
    return tuple(
        name
        for member in affected(group, plugin)
        for name in relations.plugins_in(member)
        if name != plugin
    )


@attrs.frozen
class Contained:
    """Nobody else is to be troubled."""


@attrs.frozen
class RestartAll:
    """Stop these plugins, in reverse order, and start them afresh."""

    group: str
    plugins: tuple[str, ...]
    recent: Recent


@attrs.frozen
class MeshFails:
    """Nobody is left to help; `groups` failed on the way, innermost first."""

    groups: tuple[str, ...]


Verdict = Contained | RestartAll | MeshFails


def escalate(relations: Relations, plugin: PluginConfig, recent: Recent, now: float) -> Verdict:
    """Find who deals with a plugin that gave up at `now` (seconds)."""
    if plugin.escalate is Escalate.PLUGIN:
        return Contained()
    failed: list[str] = []
    name: str = plugin.name
    to: Escalate = plugin.escalate
    while to is Escalate.GROUP:
        group = relations.group_of(name)
        if group is None:
            break
        times = within(recent.get(group.name, ()), group.restart_period, now)
        if len(times) < group.max_restarts:
            plugins = tuple(
                p for member in affected(group, name) for p in relations.plugins_in(member)
            )
            return RestartAll(group.name, plugins, {**recent, group.name: (*times, now)})
        failed.append(group.name)
        name, to = group.name, group.escalate
    return MeshFails(tuple(failed))
