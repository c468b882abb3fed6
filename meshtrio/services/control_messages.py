"""Builds the messages of meshtrio.v1.Control.

Paths, and texts with paths, may have bytes that are not UTF-8, which protobuf does not allow in
strings. They are for people to read, and show U+FFFD instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import attrs

from meshtrio.config import MeshConfig, TaskConfig
from meshtrio.messages import control
from meshtrio.services.event_log import LoggedEvent
from meshtrio.services.log_level_controller import PluginLevel
from meshtrio.supervisor.event_text import describe_event, event_name
from meshtrio.supervisor.instance_status import InstanceStatus
from meshtrio.supervisor.operations import DrainResult
from meshtrio.supervisor.statistics import PluginStatistics
from meshtrio.supervisor.tasks.task import TaskResult, TaskStatus
from meshtrio.util.text import replace_surrogates


def make_instance(status: InstanceStatus) -> control.Instance:
    return control.Instance(
        name=status.name,
        instance=status.instance,
        pid=status.pid,
        state=status.state.value,
        restarts=status.restarts,
        uptime=status.uptime,
        socket="" if status.socket is None else replace_surrogates(str(status.socket)),
        reason=replace_surrogates(status.reason),
        start=None if status.start is None else status.start.value,
        ready_after=status.ready_after,
        status=status.status,
    )


def make_task(status: TaskStatus) -> control.Instance:
    """Make the message of a task, which looks like a plugin's only instance."""
    last = status.last_exit
    return control.Instance(
        name=status.name,
        pid=status.pid,
        state=status.state.value,
        restarts=status.retries,
        uptime=status.uptime,
        reason=replace_surrogates(status.reason),
        task=control.Task(
            last_outcome="" if status.last_outcome is None else status.last_outcome.value,
            last_exit_status=None if last is None else last.status,
            last_signal=None if last is None else last.signal,
            last_duration=status.last_duration,
            last_ended=status.last_ended_at,
            last_success=status.last_success_at,
            next_run=status.next_time,
            missed=status.missed,
        ),
    )


def make_task_result(result: TaskResult) -> control.TaskResult:
    return control.TaskResult(
        outcome=result.outcome.value,
        exit_status=result.exit.status,
        signal=result.exit.signal,
        text=replace_surrogates(str(result.exit)),
        duration=result.duration,
    )


def make_tree(
    config: MeshConfig,
    name: str,
    statuses: Iterable[InstanceStatus],
    tasks: Iterable[TaskStatus] = (),
) -> control.Node:
    """Make the supervision tree of a mesh; its children are plugins and groups without a group, and
    tasks."""
    by_plugin: dict[str, list[InstanceStatus]] = {}
    for status in statuses:
        by_plugin.setdefault(status.name, []).append(status)
    plugins = {plugin.name: plugin for plugin in config.plugins}
    groups = {group.name: group for group in config.groups}
    topology = config.topology()

    def make_node(member: str) -> control.Node:
        if member in plugins:
            plugin = plugins[member]
            return control.Node(
                kind=control.Node.PLUGIN,
                name=member,
                policy=plugin.restart.value,
                instances=map(make_instance, by_plugin.get(member, ())),
                after=map(str, plugin.depends_on),
            )
        group = groups[member]
        return control.Node(
            kind=control.Node.GROUP,
            name=member,
            policy=group.strategy.value,
            nodes=map(make_node, group.members),
            after=map(str, group.depends_on),
        )

    roots = [each for each in (*plugins, *groups) if topology.group_of(each) is None]
    configs = {task.name: task for task in config.tasks}
    nodes = [*map(make_node, roots), *(_make_task_node(configs[t.name], t) for t in tasks)]
    return control.Node(kind=control.Node.MESH, name=replace_surrogates(name), nodes=nodes)


def _make_task_node(task: TaskConfig, status: TaskStatus) -> control.Node:
    return control.Node(
        kind=control.Node.TASK,
        name=task.name,
        policy="once" if task.schedule is None else task.schedule,
        instances=[make_task(status)],
        after=map(str, task.depends_on),
    )


def make_event(number: int, logged_event: LoggedEvent, missed: int) -> control.Event:
    event = logged_event.event
    level, text = describe_event(event)
    return control.Event(
        sequence=number,
        time=logged_event.time,
        kind=event_name(event).replace("_", "-"),
        plugin=event.plugin,
        instance=event.instance,
        pid=getattr(event, "pid", None),
        level=logging.getLevelName(level),
        text=replace_surrogates(text),
        missed=missed,
    )


def make_plugin_statistics(statistics: PluginStatistics) -> control.PluginStatistics:
    return control.PluginStatistics(
        name=statistics.name,
        instances=statistics.instances,
        states={state.value: count for state, count in statistics.states},
        counts=control.Counts(**attrs.asdict(statistics.counts)),
        slowest_check=statistics.slowest_check,
    )


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
        instances=[control.InstanceLogLevel(**attrs.asdict(i)) for i in plugin_level.instances],
    )
