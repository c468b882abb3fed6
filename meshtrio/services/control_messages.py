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
from meshtrio.services.event_log import LoggedEvent
from meshtrio.services.log_level_controller import PluginLevel
from meshtrio.services.tap_client import TappedCalls
from meshtrio.supervisor.event_text import describe_event, event_name
from meshtrio.supervisor.instance import InstanceStatus
from meshtrio.supervisor.operations import DrainResult, ReloadResult
from meshtrio.supervisor.statistics import LifecycleCounts, PluginStatistics
from meshtrio.util.text import replace_surrogates


def make_instance(status: InstanceStatus) -> control.Instance:
    return control.Instance(
        name=status.name,
        instance=status.instance,
        pid=status.pid,
        state=status.state.value,
        restarts=status.restarts,
        uptime=status.uptime,
        socket=replace_surrogates(str(status.socket)),
        reason=replace_surrogates(status.reason),
    )


def make_tree(config: MeshConfig, name: str, statuses: Iterable[InstanceStatus]) -> control.Node:
    """The whole mesh: what is in no group comes first, in the order of the config."""
    by_plugin: dict[str, list[InstanceStatus]] = {}
    for status in statuses:
        by_plugin.setdefault(status.name, []).append(status)
    plugins = {plugin.name: plugin for plugin in config.plugins}
    groups = {group.name: group for group in config.groups}
    relations = config.topology()

    def node(of: str) -> control.Node:
        if of in plugins:
            return _make_plugin(plugins[of], by_plugin.get(of, ()))
        return _make_group(groups[of], map(node, groups[of].members))

    roots = [each for each in (*plugins, *groups) if relations.group_of(each) is None]
    return control.Node(
        kind=control.Node.MESH, name=replace_surrogates(name), nodes=map(node, roots)
    )


def _make_plugin(config: PluginConfig, statuses: Iterable[InstanceStatus]) -> control.Node:
    return control.Node(
        kind=control.Node.PLUGIN,
        name=config.name,
        policy=config.restart.value,
        instances=map(make_instance, statuses),
        after=config.depends_on,
    )


def _make_group(config: GroupConfig, nodes: Iterable[control.Node]) -> control.Node:
    return control.Node(
        kind=control.Node.GROUP,
        name=config.name,
        policy=config.strategy.value,
        nodes=nodes,
        after=config.depends_on,
    )


def make_event(number: int, logged_event: LoggedEvent, missed: int) -> control.Event:
    found = logged_event.event
    level, text = describe_event(found)
    return control.Event(
        sequence=number,
        time=logged_event.time,
        kind=event_name(found).replace("_", "-"),
        plugin=found.plugin,
        instance=found.instance,
        pid=getattr(found, "pid", None),
        level=logging.getLevelName(level),
        text=replace_surrogates(text),
        missed=missed,
    )


def make_plugin_statistics(statistics: PluginStatistics) -> control.PluginStatistics:
    return control.PluginStatistics(
        name=statistics.name,
        instances=statistics.instances,
        states={state.value: count for state, count in statistics.states},
        counts=_make_counts(statistics.counts),
        slowest_check=statistics.slowest_check,
    )


def _make_counts(counts: LifecycleCounts) -> control.Counts:
    return control.Counts(**attrs.asdict(counts))


def make_drained(result: DrainResult) -> control.Drained:
    return control.Drained(
        plugin=result.plugin,
        instance=result.instance,
        ended="" if result.exit is None else replace_surrogates(str(result.exit)),
        forced=result.was_killed,
        cut_calls=result.cut_calls,
        cut_calls_known=result.cut_calls_known,
    )


def make_log_level(plugin_level: PluginLevel) -> control.PluginLogLevel:
    return control.PluginLogLevel(
        plugin=plugin_level.plugin,
        level="" if plugin_level.level is None else plugin_level.level.value,
        instances=[
            control.InstanceLogLevel(**attrs.asdict(each)) for each in plugin_level.instances
        ],
    )


def make_reload_response(result: ReloadResult) -> control.ReloadResponse:
    return control.ReloadResponse(**attrs.asdict(result))


def make_watched_calls(plugin: str, tapped: TappedCalls) -> Iterator[Any]:
    """What an instance tells of its calls, one by one."""
    number = tapped.instance
    if tapped.calls is None:
        yield control.WatchedCall(plugin=plugin, instance=number, silent=True)
        return
    missed = tapped.missed
    for call in tapped.calls:
        yield control.WatchedCall(plugin=plugin, instance=number, call=call, missed=missed)
        missed = 0
