"""What the supervisor knows, as messages of meshtrio.v1.Control.

Paths, and reasons that name them, may have bytes that are not UTF-8, which no string of protobuf
may have. They are for people to read, and show U+FFFD there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from meshtrio.config import GroupConfig, MeshConfig, PluginConfig
from meshtrio.messages import control
from meshtrio.services.chronicle import Happening
from meshtrio.services.log_levels import PluginLevel
from meshtrio.services.tapping import Tapped
from meshtrio.supervise.child import Status
from meshtrio.supervise.operations import Drained, Reloaded
from meshtrio.supervise.statistics import Counts, PluginStatistics
from meshtrio.supervise.words import describe, name_of
from meshtrio.texts import whole


def instance(status: Status) -> control.Instance:
    return control.Instance(
        name=status.name,
        instance=status.instance,
        pid=status.pid,
        state=status.state.value,
        restarts=status.restarts,
        uptime=status.uptime,
        socket=whole(str(status.socket)),
        reason=whole(status.reason),
    )


def tree(config: MeshConfig, name: str, statuses: Iterable[Status]) -> control.Node:
    """The whole mesh: what is in no group comes first, in the order of the config."""
    by_plugin: dict[str, list[Status]] = {}
    for status in statuses:
        by_plugin.setdefault(status.name, []).append(status)
    plugins = {plugin.name: plugin for plugin in config.plugins}
    groups = {group.name: group for group in config.groups}
    relations = config.relations()

    def node(of: str) -> control.Node:
        if of in plugins:
            return _plugin(plugins[of], by_plugin.get(of, ()))
        return _group(groups[of], map(node, groups[of].members))

    roots = [each for each in (*plugins, *groups) if relations.group_of(each) is None]
    return control.Node(kind=control.Node.MESH, name=whole(name), nodes=map(node, roots))


def _plugin(config: PluginConfig, statuses: Iterable[Status]) -> control.Node:
    return control.Node(
        kind=control.Node.PLUGIN,
        name=config.name,
        policy=config.restart.value,
        instances=map(instance, statuses),
        after=config.after,
    )


def _group(config: GroupConfig, nodes: Iterable[control.Node]) -> control.Node:
    return control.Node(
        kind=control.Node.GROUP,
        name=config.name,
        policy=config.strategy.value,
        nodes=nodes,
        after=config.after,
    )


def event(number: int, happening: Happening, missed: int) -> control.Event:
    found = happening.event
    level, text = describe(found)
    return control.Event(
        sequence=number,
        time=happening.time,
        kind=name_of(found).replace("_", "-"),
        plugin=found.plugin,
        instance=found.instance,
        pid=getattr(found, "pid", None),
        level=logging.getLevelName(level),
        text=whole(text),
        missed=missed,
    )


def plugin_statistics(found: PluginStatistics) -> control.PluginStatistics:
    return control.PluginStatistics(
        name=found.name,
        instances=found.instances,
        states={state.value: count for state, count in found.states},
        counts=_counts(found.counts),
        slowest_check=found.slowest_check,
    )


def _counts(counts: Counts) -> control.Counts:
    return control.Counts(**attrs.asdict(counts))


def drained(found: Drained) -> control.Drained:
    return control.Drained(
        plugin=found.plugin,
        instance=found.instance,
        ended="" if found.ended is None else whole(str(found.ended)),
        forced=found.forced,
        cut_calls=found.cut_calls,
        cut_calls_known=found.cut_calls_known,
    )


def log_level(found: PluginLevel) -> control.PluginLogLevel:
    return control.PluginLogLevel(
        plugin=found.plugin,
        level="" if found.level is None else found.level.value,
        instances=[control.InstanceLogLevel(**attrs.asdict(each)) for each in found.instances],
    )


def reloaded(found: Reloaded) -> control.ReloadResponse:
    return control.ReloadResponse(**attrs.asdict(found))


def watched_calls(plugin: str, tapped: Tapped) -> Iterator[Any]:
    """What an instance tells of its calls, one by one."""
    number = tapped.instance
    if tapped.calls is None:
        yield control.WatchedCall(plugin=plugin, instance=number, silent=True)
        return
    missed = tapped.missed
    for call in tapped.calls:
        yield control.WatchedCall(plugin=plugin, instance=number, call=call, missed=missed)
        missed = 0
