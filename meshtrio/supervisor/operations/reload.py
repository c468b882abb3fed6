"""Reloads: how another config differs from the current one, and its application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import attrs

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.errors import PluginFailedError
from meshtrio.supervisor.operations.instance_changes import (
    apply_instance_count,
    replace_all,
    stop_and_wait,
)
from meshtrio.supervisor.operations.results import ReloadResult
from meshtrio.supervisor.operations.task_runs import stop_tasks
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.errors import UsageError

_FIXED_SETTINGS = (
    *("runtime_dir", "cgroup", "reap_orphans", "gateway", "dashboard", "telemetry", "log"),
)
"""The settings of a mesh that cannot be changed while it runs."""


def check_fixed_settings(before: MeshConfig, after: MeshConfig) -> None:
    """Raise UsageError if a reload would change a setting that cannot be."""
    for name in _FIXED_SETTINGS:
        if getattr(after, name) != getattr(before, name):
            raise UsageError(f"{name} cannot be changed while the mesh runs")


def replace_plugins(config: MeshConfig, changed: Iterable[PluginConfig]) -> MeshConfig:
    """Return a config with some of its plugins changed."""
    by_name = {plugin.name: plugin for plugin in (*config.plugins, *changed)}
    return attrs.evolve(config, plugins=by_name.values())


async def apply_config(supervisor: Supervisor, config: MeshConfig) -> ReloadResult:
    """Change the plugins and tasks of a mesh to those of `config`; see `Operations.reload`.

    Raises:
        PluginFailedError: Plugins failed to start or could not be replaced; everything else is
            done.
    """
    outdated = _find_outdated_plugins(supervisor, config)
    changes = compare_configs(supervisor.config, config, outdated)
    await _stop_removed(supervisor, changes.removed)
    supervisor.configure(config)
    failures: list[str] = []

    async def change(operation: Callable[[Supervisor, str], Awaitable[None]], name: str) -> None:
        try:
            await operation(supervisor, name)
        except PluginFailedError as exc:
            failures.append(str(exc))

    async with open_collapsing_nursery() as nursery:
        for name in (*changes.added, *changes.scaled):
            if name not in supervisor.tasks.tasks:
                nursery.start_soon(change, apply_instance_count, name)
        for name in changes.restarted:
            nursery.start_soon(change, replace_all, name)
    if failures:
        raise PluginFailedError("\n".join(failures))
    return changes


async def _stop_removed(supervisor: Supervisor, names: Sequence[str]) -> None:
    tasks = supervisor.tasks.tasks
    for name in names:
        if name not in tasks:
            removed = supervisor.instances_of([name])
            await stop_and_wait(supervisor, removed)
            supervisor.remove(removed)
    await stop_tasks(supervisor, [tasks[name] for name in names if name in tasks])


def _find_outdated_plugins(supervisor: Supervisor, config: MeshConfig) -> frozenset[str]:
    """Find plugins with a process that differs from the config: an earlier change failed."""
    wanted = {plugin.name: plugin.process_spec() for plugin in config.plugins}
    return frozenset(
        each.plugin
        for each in supervisor.instances
        if each.active_run is not None
        and each.plugin in wanted
        and each.active_run.config.process_spec() != wanted[each.plugin]
    )


def compare_configs(
    before: MeshConfig, after: MeshConfig, outdated: Collection[str] = ()
) -> ReloadResult:
    """Compare two configs by their plugins and tasks; plugins with an outdated process are
    restarted. Pure."""
    tasks_before = {task.name: task for task in before.tasks}
    tasks = {task.name: task for task in after.tasks}
    old = {plugin.name: plugin for plugin in before.plugins}
    new = {plugin.name: plugin for plugin in after.plugins}
    kept = [n for n in new if n in old and (new[n] != old[n] or n in outdated)]
    restarted = [n for n in kept if n in outdated or new[n].process_spec() != old[n].process_spec()]
    scaled = [n for n in kept if n not in restarted and new[n].instances != old[n].instances]
    return ReloadResult(
        added=(
            *(name for name in new if name not in old),
            *(name for name in tasks if name not in tasks_before),
        ),
        removed=(
            *(name for name in old if name not in new),
            *(name for name in tasks_before if name not in tasks),
        ),
        restarted=tuple(restarted),
        scaled=tuple(scaled),
        adjusted=(
            *(name for name in kept if name not in (*restarted, *scaled)),
            *(n for n in tasks if n in tasks_before and tasks[n] != tasks_before[n]),
        ),
    )
