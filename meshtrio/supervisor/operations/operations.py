"""The operations on the plugins and tasks of a mesh."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext

import attrs
import trio

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.discovery.dns.discovery import check_dns_installed
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.attachment import Attachment, build_environment, without_marks
from meshtrio.supervisor.operations import instance_changes, reload, task_runs
from meshtrio.supervisor.operations.execution import Execution, UpgradeHandler
from meshtrio.supervisor.operations.name_resolver import NameResolver
from meshtrio.supervisor.operations.progress import OperationProgress
from meshtrio.supervisor.operations.results import DrainResult, ReloadResult
from meshtrio.supervisor.operations.start_waiting import wait_ready
from meshtrio.supervisor.process.output.output_lines import OutputLine
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.supervisor.tasks.task import TaskResult
from meshtrio.util.concurrency import background_service
from meshtrio.util.errors import UsageError
from meshtrio.util.log_level import LogLevel


class Operations:
    """Operations on the plugins and tasks of one supervisor.

    Names are those of plugins, of their services or of groups; others raise UnknownNameError. Only
    operations that say so accept tasks. All operations raise UsageError if the mesh is stopping.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._names = NameResolver(supervisor)
        self._plugin_locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        """Locks by plugin; each is held while the plugin's instances are scaled or replaced."""
        self.report_reload: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered around each reload."""
        self.progress = OperationProgress()
        """Which operations are in progress."""
        self.execution = Execution()
        """The current execution of the mesh's program."""
        self.upgrade_handler: UpgradeHandler | None = None
        """Upgrades the mesh; None if it cannot be, since it is embedded in another program."""

    async def start(self, name: str) -> None:
        """Start the instances that do not run, and wait until all are ready.

        An instance that has failed, or waits to be restarted, is started at once.

        Raises PluginFailedError if an instance, or one that it depends on, failed to start; its
        restart policy still applies.
        """
        instances = self._names.find_instances(name)
        with self.progress.tracked(f"{name} is started"):
            for instance in instances:
                self._supervisor.request_start(instance)
            await wait_ready(self._supervisor, instances)

    async def stop(self, name: str) -> tuple[DrainResult, ...]:
        """Stop all instances and wait until their processes are gone; return how each ended.

        They stay stopped until `start`, whatever their restart policy. The present run of a task is
        stopped; one with a schedule runs again at its next time.
        """
        with self.progress.tracked(f"{name} is stopped"):
            task = self._supervisor.tasks.tasks.get(name)
            if task is not None:
                return (await task_runs.stop_task(self._supervisor, task),)
            instances = self._names.find_instances(name)
            return await instance_changes.stop_and_wait(self._supervisor, instances)

    async def run_task(
        self, name: str, on_data: Callable[[str, bytes], None] | None = None
    ) -> TaskResult:
        """Run a task now, and wait for its end; a failure is not repeated.

        Args:
            name: A task.
            on_data: Called with `stdout` or `stderr` and what the process writes there.

        Raises:
            UnknownNameError: There is no such task.
            UsageError: It runs already, or waits for a task or plugin that has failed.

        Cancellation: The run is stopped; its end is not awaited.
        """
        supervisor = self._supervisor
        if name not in supervisor.tasks.tasks:
            raise task_runs.make_unknown_task_error(name, supervisor.config)
        return await task_runs.run_task(supervisor, self.progress, name, on_data)

    def make_filter(
        self, names: Iterable[str], *, accept_tasks: bool = True
    ) -> Callable[[str], bool]:
        """Make a predicate that tells whether a plugin or task is selected by names.

        Without any all are selected, including those that are added later. Raises UsageError for
        the name of a task unless these are accepted.
        """
        return self._names.make_filter(names, accept_tasks=accept_tasks)

    def log_lines(self, name: str) -> dict[tuple[str, int], tuple[OutputLine, ...]]:
        """Return the last lines that each instance wrote, oldest first, by plugin and number; those
        of a task by its name and 0."""
        task = self._supervisor.tasks.tasks.get(name)
        if task is not None:
            return {task.key: task.line_buffer.lines()}
        return {each.key: each.line_buffer.lines() for each in self._names.find_instances(name)}

    async def restart(self, name: str) -> None:
        """Replace the processes of the instances one by one; no call is lost.

        Each replacement is ready before the active process is stopped, unless the config says that
        this is stopped first. Instances that do not run are started.

        Raises PluginFailedError if a replacement did not get ready, in which case the active
        process keeps running, if the instance was stopped meanwhile, or as `start` does.
        """
        plugins = dict.fromkeys(each.plugin for each in self._names.find_instances(name))
        with self.progress.tracked(f"{name} is restarted"):
            for plugin in plugins:
                async with self._plugin_locks[plugin]:
                    for instance in self._names.find_instances(plugin):
                        reason = "a restart was requested"
                        await instance_changes.replace(self._supervisor, instance, reason)

    async def scale(self, name: str, instances: int) -> None:
        """Change the number of instances of a plugin, and wait until they are ready, or gone.

        The instances with the highest numbers are removed first.

        Raises PluginFailedError as `start` does; ConfigError if `max_instances` or the ports do not
        suffice, when nothing has been changed.
        """
        plugin = self._names.find_plugin(name)
        if instances < 1:
            raise UsageError(f"cannot scale {name} to {instances} instances; `stop` stops them all")
        with self.progress.tracked(f"{name} is scaled"):
            await self._scale(plugin, instances)

    async def _scale(self, plugin: PluginConfig, instances: int) -> None:
        name = plugin.name
        async with self._plugin_locks[name]:
            scaled = attrs.evolve(self._names.find_plugin(name), instances=instances)
            self._supervisor.configure(reload.replace_plugins(self._supervisor.config, [scaled]))
            await instance_changes.apply_instance_count(self._supervisor, scaled.name)

    def set_log_level(self, name: str, level: LogLevel | str) -> frozenset[str]:
        """Set the log level of plugins until the next reload.

        The level applies to the lines that the mesh logs, and to processes that are started later;
        `services.log_level_controller` sets that of running processes. Returns the names of the
        plugins.
        """
        names, log_level = self._names.find_plugin_names(name), LogLevel.parse(level)
        config = self._supervisor.config
        changed = [
            attrs.evolve(plugin, output=attrs.evolve(plugin.output, log_level=log_level))
            for plugin in config.plugins
            if plugin.name in names
        ]
        self._supervisor.configure(reload.replace_plugins(config, changed))
        return names

    async def reload(self, config: MeshConfig) -> ReloadResult:
        """Apply another config; what it does not change keeps running.

        Settings of supervision (restart, liveness, groups and others) apply at once. A plugin whose
        process differs has a rolling restart.

        Raises:
            UsageError: A setting cannot be changed while the mesh runs. Nothing has been changed.
            ConfigError: The config cannot be used on this machine. Nothing has been changed.
            PluginFailedError: Some plugins failed to start or could not be replaced; raised once
                everything else is done, with all failures. The new config is in use, and restart
                policies apply.
        """
        with self.report_reload():
            return await self._reload(config)

    async def load_and_reload(self, load: Callable[[], Awaitable[MeshConfig]]) -> ReloadResult:
        """Reload the config that `load` returns; that it cannot be read is a failed reload, too.

        Raises what `load` and `reload` do.
        """
        with self.report_reload():
            return await self._reload(await load())

    async def _reload(self, config: MeshConfig) -> ReloadResult:
        reload.check_fixed_settings(self._supervisor.config, config)
        directory.validate(config)
        check_dns_installed(config)
        plugins = (*self._supervisor.config.plugins, *config.plugins)
        async with AsyncExitStack() as stack:
            stack.enter_context(self.progress.tracked("a config is applied"))
            # In one order, so that two reloads cannot deadlock.
            for name in sorted({plugin.name for plugin in plugins}):
                await stack.enter_async_context(self._plugin_locks[name])
            return await reload.apply_config(self._supervisor, config)

    # -- one instance ------------------------------------------------------------------------

    def get_environment(self, name: str, number: int) -> dict[str, str]:
        """Return the environment of an instance's process, or of its next one if it has none.

        The marks by which the mesh recognizes its processes are not in it: a process with them is
        killed with those of the instance.
        """
        instance = self._names.find_instance(name, number)
        run = instance.active_run
        spec = run.spec if run else self._supervisor.make_spec(instance, instance.slot)
        return without_marks(build_environment(spec))

    @asynccontextmanager
    async def attach(self, name: str, number: int, pid: int) -> AsyncIterator[Attachment]:
        """Hold the place of an instance for the server of a process during the block.

        The block begins once the instance has stopped. While a server of process `pid` or its
        descendants answers at its address, it is registered.

        Raises:
            UsageError: Another process holds its place, its address cannot be used, or the mesh or
                the instance is to stop.

        Cancellation: The instance is started again, if it is to run.
        """
        instance = self._names.find_instance(name, number)
        self.progress.check_not_upgrading()
        async with (
            self._supervisor.attach(instance, pid) as attachment,
            background_service(attachment.run),
        ):
            yield attachment
