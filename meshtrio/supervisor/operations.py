"""What can be asked of a running mesh. Each operation sets goals and waits until they are reached.

Cancelling one, or its deadline, ends the waiting; what was begun is still carried out, but for the
rest of a rolling restart, which goes on instance by instance as it is waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack

import attrs
import trio

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.errors import PluginFailedError, UnknownNameError, UsageError
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.process.output.output_lines import OutputLine
from meshtrio.supervisor.process_run import ProcessRun
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.log_level import LogLevel


@attrs.frozen
class DrainResult:
    """How an instance was stopped."""

    plugin: str
    instance: int
    exit: Exit | None
    """None where it was not running."""
    was_killed: bool = False
    """It had to be killed."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that its grace was too short for, as far as that is known."""
    cut_calls_known: bool = True
    """Whether `cut_calls` are all that were cut. Plugins on meshtrio report them at the end of
    their drain; of others, and of those that were killed before, it is not known."""


@attrs.frozen
class ReloadResult:
    """What a new config changed, by the names of plugins."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    """Of these, only how they are looked after has changed; their processes go on."""


class Operations:
    """On one tree. Names are those of plugins or groups; others raise UnknownNameError."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._plugin_locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        """By plugin: held by who is changing its instances."""

    async def start(self, name: str) -> None:
        """Start what does not run, and wait until all of it is ready.

        What had failed, or waits to be restarted, is started at once. Raises PluginFailedError as
        soon as an instance, or one that it waits for, fails to start; its restart policy still
        applies.
        """
        children = self._instances_of(name)
        for child in children:
            self._supervisor.request_start(child)
        await self._wait_ready(children)

    async def stop(self, name: str) -> None:
        """Stop it and wait until it is gone. It stays so until `start`, whatever its policy."""
        await self.drain(name)

    async def drain(self, name: str) -> tuple[DrainResult, ...]:
        """Stop it, and report for each instance how it ended and which calls were cut, if known."""
        return await self._stop_and_wait(self._instances_of(name))

    def make_filter(self, names: Iterable[str]) -> Callable[[str], bool]:
        """Tells whether a plugin is one of these names, or in a group of them.

        Without names all are, those that come later, too.
        """
        names = set(names)  # A caller may give the same one a million times.
        if not names:
            return lambda _: True
        found = frozenset(plugin for name in names for plugin in self._plugin_names(name))
        return found.__contains__

    def log_lines(self, name: str) -> dict[tuple[str, int], tuple[OutputLine, ...]]:
        """The last lines that each instance wrote, oldest first, by plugin and instance."""
        return {(c.plugin, c.number): c.line_buffer.lines() for c in self._instances_of(name)}

    def iterate_log_lines(self) -> Iterator[tuple[str, int, OutputLine]]:
        """The same of all instances, each line with the plugin and the instance."""
        for child in self._supervisor.instances:
            for line in child.line_buffer.lines():
                yield child.plugin, child.number, line

    async def restart(self, name: str) -> None:
        """Renew instances one by one: a successor is ready before the one in office is stopped.

        Loses no call. What does not run is started. Raises PluginFailedError, with the instance
        left as it was, if a successor does not get ready, and as `start` does.
        """
        for plugin in dict.fromkeys(child.plugin for child in self._instances_of(name)):
            async with self._plugin_locks[plugin]:
                for child in self._instances_of(plugin):
                    await self._replace(child, "a restart was asked for")

    async def scale(self, name: str, instances: int) -> None:
        """Have so many instances of a plugin, and wait until they are ready, or gone.

        Those with the highest numbers go first. Raises PluginFailedError as `start` does, and
        ConfigError for more than `max_instances` of the plugin or of the mesh, and for ports that
        there are not; nothing has happened then.
        """
        plugin = self._plugin(name)
        if instances < 1:
            raise UsageError(f"cannot scale {name} to {instances} instances; `stop` stops them all")
        async with self._plugin_locks[plugin.name]:
            scaled = attrs.evolve(self._plugin(name), instances=instances)
            self._supervisor.configure(_replace_plugin(self._supervisor.config, scaled))
            await self._apply_instance_count(scaled.name)

    def set_log_level(self, name: str, level: LogLevel | str) -> frozenset[str]:
        """Log the lines of these plugins from a level on, until the next reload; gives their names.

        Processes that are started from now on are told; who tells the others is
        `services.log_levels`. Raises UsageError for a level that there is not.
        """
        names, config = self._plugin_names(name), self._supervisor.config
        for plugin in config.plugins:
            if plugin.name in names:
                output = attrs.evolve(plugin.output, log_level=LogLevel.parse(level))
                config = _replace_plugin(config, attrs.evolve(plugin, output=output))
        self._supervisor.configure(config)
        return names

    async def reload(self, config: MeshConfig) -> ReloadResult:
        """Go over to another config, touching only what it changes.

        What only says how a plugin is looked after (restart, liveness, groups, …) is taken over as
        it is; a change to its process means a rolling restart. Raises UsageError for what needs
        another mesh and ConfigError for what cannot be here, and nothing has happened then. Raises
        PluginFailedError, with all of them, once everything else is done, where plugins do not
        start or cannot be renewed: the config is the new one, and restart policies apply.
        """
        for fixed in ("runtime_dir", "cgroup", "gateway", "telemetry", "log"):
            if getattr(config, fixed) != getattr(self._supervisor.config, fixed):
                raise UsageError(f"{fixed} cannot be changed while the mesh runs")
        directory.validate(config)
        async with AsyncExitStack() as stack:
            # In one order, so that two of them cannot wait for each other.
            for name in sorted(
                {p.name for p in (*self._supervisor.config.plugins, *config.plugins)}
            ):
                await stack.enter_async_context(self._plugin_locks[name])
            return await self._apply_config(config)

    async def _apply_config(self, config: MeshConfig) -> ReloadResult:
        changes = compare_configs(
            self._supervisor.config, config, self._find_outdated_plugins(config)
        )
        for name in changes.removed:
            gone = self._instances_of(name)
            await self._stop_and_wait(gone)
            self._supervisor.remove(gone)
        self._supervisor.configure(config)
        failures: list[str] = []

        async def change(how: Callable[[str], Awaitable[None]], name: str) -> None:
            try:
                await how(name)
            except PluginFailedError as exc:
                failures.append(str(exc))

        async with open_collapsing_nursery() as nursery:
            for name in (*changes.added, *changes.scaled):
                nursery.start_soon(change, self._apply_instance_count, name)
            for name in changes.restarted:
                nursery.start_soon(change, self._replace_all, name)
        if failures:
            raise PluginFailedError("\n".join(failures))
        return changes

    def _find_outdated_plugins(self, config: MeshConfig) -> frozenset[str]:
        """Plugins of which a process is none that a config would have: an earlier change failed."""
        wanted = {plugin.name: plugin.process_spec() for plugin in config.plugins}
        return frozenset(
            child.plugin
            for child in self._supervisor.instances
            if child.active_run is not None
            and child.plugin in wanted
            and child.active_run.config.process_spec() != wanted[child.plugin]
        )

    # -- parts -------------------------------------------------------------------------------

    def _plugin(self, name: str) -> PluginConfig:
        for plugin in self._supervisor.config.plugins:
            if name in (plugin.name, plugin.service):
                return plugin
        known = ", ".join(plugin.name for plugin in self._supervisor.config.plugins) or "none"
        raise UnknownNameError(f"there is no plugin {name!r}; the plugins are: {known}")

    def _instances_of(self, name: str) -> list[Instance]:
        wanted = self._plugin_names(name)
        return [child for child in self._supervisor.instances if child.plugin in wanted]

    def _plugin_names(self, name: str) -> frozenset[str]:
        config = self._supervisor.config
        if any(group.name == name for group in config.groups):
            return frozenset(config.topology().plugins_in(name))
        return frozenset([self._plugin(name).name])

    async def _wait_ready(self, instances: Sequence[Instance]) -> None:
        """Wait until all are ready. Raises PluginFailedError as soon as one fails to start, or one
        that it cannot be started without."""
        failed_before = {child: child.failed_starts for child in self._supervisor.instances}

        def is_up(child: Instance) -> bool:
            return child.is_ready and not child.phase.is_leaving

        def has_failed(child: Instance) -> bool:
            failed = child.failed_starts > failed_before.get(child, 0)
            return not is_up(child) and (failed or (child.phase.is_final and not child.is_running))

        def failures() -> list[str]:
            found = [_describe_failure(child) for child in instances if has_failed(child)]
            if not found:
                found = [
                    f"{child.name} waits for {_describe_failure(instances[0])}"
                    for child in instances
                    for instances in self._supervisor.find_unready_dependencies(child)
                    if all(map(has_failed, instances))
                ]
            return found

        await self._supervisor.wait_until(lambda: all(map(is_up, instances)) or bool(failures()))
        if failed := failures():
            raise PluginFailedError("\n".join(failed))

    async def _stop_and_wait(self, instances: Sequence[Instance]) -> tuple[DrainResult, ...]:
        lives = {child: child.active_run for child in instances}
        for child in instances:
            child.request_stop()
        await self._supervisor.wait_until(lambda: not any(child.is_running for child in instances))
        return tuple(_make_drain_result(child, life) for child, life in lives.items())

    async def _replace(self, instance: Instance, reason: str) -> None:
        if not instance.is_ready or instance.phase.is_leaving:
            self._supervisor.request_start(instance)
            await self._wait_ready([instance])
            return
        replacement = instance.request_replacement(reason)
        await self._supervisor.wait_until(
            lambda: replacement.is_finished and not instance.draining_runs
        )
        if replacement.failure:
            raise PluginFailedError(replacement.failure)

    async def _apply_instance_count(self, name: str) -> None:
        """Have as many instances as the config says."""
        plugin = self._plugin(name)
        there = self._instances_of(plugin.name)
        surplus = [child for child in there if child.number >= plugin.instances]
        added = [Instance(plugin, number) for number in range(len(there), plugin.instances)]
        self._supervisor.add(added)
        await self._stop_and_wait(surplus)
        self._supervisor.remove(surplus)
        await self._wait_ready(added)

    async def _replace_all(self, name: str) -> None:
        await self._apply_instance_count(name)
        for child in self._instances_of(name):
            if not child.phase.is_leaving and not child.phase.is_final:
                await self._replace(child, "its config has changed")


def _describe_failure(instance: Instance) -> str:
    """How an instance failed to start, and what becomes of it."""
    if instance.phase is InstancePhase.STOPPED:
        return f"{instance.name} is stopped"
    text = f"{instance.name} {instance.exit_reason}{instance.last_stderr_line}"
    if instance.phase is InstancePhase.BACKOFF:
        text += f"; it is started again in {max(instance.start_at - trio.current_time(), 0):.1f} s"
    return text


def _make_drain_result(instance: Instance, run: ProcessRun | None) -> DrainResult:
    if run is None:
        return DrainResult(instance.plugin, instance.number, None)
    return DrainResult(
        plugin=instance.plugin,
        instance=instance.number,
        exit=run.exit,
        was_killed=run.was_killed,
        cut_calls=tuple(sorted(run.output_reader.cut_calls)),
        cut_calls_known=run.cut_calls_known,
    )


def _replace_plugin(config: MeshConfig, plugin: PluginConfig) -> MeshConfig:
    plugins = [plugin if known.name == plugin.name else known for known in config.plugins]
    return attrs.evolve(config, plugins=plugins)


def compare_configs(
    before: MeshConfig, after: MeshConfig, outdated: frozenset[str] = frozenset()
) -> ReloadResult:
    """What a change of config means for each plugin; `behind` are those whose processes are none
    that `after` would have. Pure."""
    old = {plugin.name: plugin for plugin in before.plugins}
    new = {plugin.name: plugin for plugin in after.plugins}
    kept = [n for n in new if n in old and (new[n] != old[n] or n in outdated)]
    restarted = [n for n in kept if n in outdated or new[n].process_spec() != old[n].process_spec()]
    scaled = [n for n in kept if n not in restarted and new[n].instances != old[n].instances]
    return ReloadResult(
        added=_names(name for name in new if name not in old),
        removed=_names(name for name in old if name not in new),
        restarted=_names(restarted),
        scaled=_names(scaled),
        adjusted=_names(name for name in kept if name not in (*restarted, *scaled)),
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)
