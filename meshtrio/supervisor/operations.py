"""The operations on a running mesh: each requests changes and waits until they are carried out.

Cancellation: Cancelling an operation, or its deadline, ends the waiting. What was requested is
still carried out, except for the rest of a rolling restart, which requests one replacement after
another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Protocol

import attrs
import trio

from meshtrio.config import MeshConfig, PluginConfig, ReplacementOrder
from meshtrio.discovery.dns.discovery import check_dns_installed
from meshtrio.errors import PluginFailedError
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.attachment import Attachment, build_environment, without_marks
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.plan import find_unready_dependencies
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.process.output.output_lines import OutputLine
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.supervisor.tasks.task import Task, TaskResult
from meshtrio.util.concurrency import background_service, open_collapsing_nursery
from meshtrio.util.errors import UnknownNameError, UsageError
from meshtrio.util.log_level import LogLevel

_FIXED_SETTINGS = (
    "runtime_dir",
    "cgroup",
    "reap_orphans",
    "gateway",
    "dashboard",
    "telemetry",
    "log",
)
"""Settings that a reload cannot change."""


@attrs.frozen
class DrainResult:
    """How an instance was stopped."""

    plugin: str
    """The name of its plugin."""
    instance: int
    """Its number, from 0."""
    exit: Exit | None = None
    """How its process ended, None if it had none."""
    was_killed: bool = False
    """Whether the process was killed, since it did not stop within its `stop_timeout`."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that were cut at the end of `stop_timeout`, as far as they are known."""
    cut_calls_known: bool = True
    """Whether `cut_calls` is complete. Plugins made with meshtrio report these calls at the end of
    their drain; it is not known of other plugins and of those that were killed before."""


@attrs.frozen
class ReloadResult:
    """What a reload changed, by the names of plugins and tasks."""

    added: tuple[str, ...] = ()
    """Plugins that are new, and were started, and new tasks."""
    removed: tuple[str, ...] = ()
    """Plugins and tasks that the config no longer has, and that were stopped."""
    restarted: tuple[str, ...] = ()
    """Plugins whose processes were replaced."""
    scaled: tuple[str, ...] = ()
    """Plugins whose number of instances was changed."""
    adjusted: tuple[str, ...] = ()
    """Plugins whose supervision was changed, and whose processes were not; tasks that were changed.
    """


@attrs.frozen
class Execution:
    """Which execution of its program a mesh is in."""

    number: int = 1
    """1 for the first one; each upgrade adds 1, and 2 if the new program could not take over."""
    failures: int = 0
    """Number of upgrades that have failed after they were accepted."""
    problem: str = ""
    """Why the last one of these has failed."""


class UpgradeHandler(Protocol):
    """Upgrades a mesh."""

    async def request(self) -> None:
        """Begin an upgrade, and return once it is certain that the new program can take over.

        Raises:
            UsageError: It cannot; nothing has changed.
        """


class Operations:
    """Operations on the plugins and tasks of one supervisor.

    Names are those of plugins, of their services or of groups; others raise UnknownNameError. Only
    operations that say so accept tasks. All operations raise UsageError if the mesh is stopping.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._plugin_locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        """Locks by plugin; each is held while the plugin's instances are scaled or replaced."""
        self.report_reload: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered around each reload."""
        self.in_progress: Counter[str] = Counter()
        """Operations that are waited for, as phrases."""
        self._ended = trio.lowlevel.ParkingLot()
        self.is_upgrading = False
        """Whether operations are rejected, since an upgrade is about to end them."""
        self.execution = Execution()
        """The current execution of the mesh's program."""
        self.upgrade_handler: UpgradeHandler | None = None
        """Upgrades the mesh; None if it cannot be, since it is embedded in another program."""

    @contextmanager
    def _tracked(self, description: str) -> Iterator[None]:
        """Count an operation as in progress during the block. Raises UsageError."""
        self._check_not_upgrading()
        self.in_progress[description] += 1
        try:
            yield
        finally:
            self.in_progress -= Counter([description])
            self._ended.unpark_all()

    def _check_not_upgrading(self) -> None:
        if self.is_upgrading:
            raise UsageError("the mesh is being upgraded; try again")

    async def wait_until_idle(self) -> None:
        """Wait until no operation is in progress."""
        while self.in_progress:
            await self._ended.park()

    async def start(self, name: str) -> None:
        """Start the instances that do not run, and wait until all are ready.

        An instance that has failed, or waits to be restarted, is started at once.

        Raises PluginFailedError if an instance, or one that it depends on, failed to start; its
        restart policy still applies.
        """
        instances = self._instances_of(name)
        with self._tracked(f"{name} is started"):
            for instance in instances:
                self._supervisor.request_start(instance)
            await self._wait_ready(instances)

    async def stop(self, name: str) -> tuple[DrainResult, ...]:
        """Stop all instances and wait until their processes are gone; return how each ended.

        They stay stopped until `start`, whatever their restart policy. The present run of a task is
        stopped; one with a schedule runs again at its next time.
        """
        with self._tracked(f"{name} is stopped"):
            task = self._supervisor.tasks.tasks.get(name)
            if task is not None:
                return (await self._stop_task(task),)
            return await self._stop_and_wait(self._instances_of(name))

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
            raise self._make_unknown_task_error(name)

        def find_failure() -> str:
            task = supervisor.tasks.tasks.get(name)
            if task is None or not task.is_waiting:
                return ""
            return supervisor.explain_dependencies().explain_failure(name)

        if failure := supervisor.explain_dependencies().explain_failure(name):
            raise UsageError(f"task {name} {failure}")
        supervisor.check_not_stopping()
        self._check_not_upgrading()
        request = supervisor.tasks.request_run(name, on_data)
        try:
            await supervisor.wait_until(lambda: request.result is not None or bool(find_failure()))
            if request.result is None:
                raise UsageError(f"task {name} {find_failure()}")
        finally:
            supervisor.tasks.cancel(name, request)
        return request.result

    def _make_unknown_task_error(self, name: str) -> Exception:
        config = self._supervisor.config
        if name in (*(each.name for each in config.plugins), *(g.name for g in config.groups)):
            return UsageError(f"{name} is not a task; `meshtrio start {name}` starts it")
        known = ", ".join(task.name for task in config.tasks) or "none"
        return UnknownNameError(f"there is no task {name!r}; the tasks are: {known}")

    async def _stop_task(self, task: Task) -> DrainResult:
        run = task.run
        task.request_stop()
        await self._supervisor.wait_until(lambda: not task.is_running)
        killed = run is not None and run.was_killed
        return DrainResult(task.name, 0, None if run is None else run.exit, killed)

    async def _stop_tasks(self, tasks: Sequence[Task]) -> None:
        """Stop tasks, and those again that are due meanwhile, until none of them runs."""
        while any(task.is_running or task.is_waiting for task in tasks):
            for task in tasks:
                task.request_stop()
            await self._supervisor.wait_until(lambda: not any(task.is_running for task in tasks))

    def make_filter(
        self, names: Iterable[str], *, accept_tasks: bool = True
    ) -> Callable[[str], bool]:
        """Make a predicate that tells whether a plugin or task is selected by names.

        Without any all are selected, including those that are added later. Raises UsageError for
        the name of a task unless these are accepted.
        """
        names = set(names)  # A client may repeat a name a million times.
        if not names:
            return lambda _: True
        tasks = self._supervisor.tasks.tasks
        selected = frozenset(
            found
            for name in names
            for found in ((name,) if accept_tasks and name in tasks else self._plugin_names(name))
        )
        return selected.__contains__

    def log_lines(self, name: str) -> dict[tuple[str, int], tuple[OutputLine, ...]]:
        """Return the last lines that each instance wrote, oldest first, by plugin and number; those
        of a task by its name and 0."""
        task = self._supervisor.tasks.tasks.get(name)
        if task is not None:
            return {task.key: task.line_buffer.lines()}
        return {each.key: each.line_buffer.lines() for each in self._instances_of(name)}

    async def restart(self, name: str) -> None:
        """Replace the processes of the instances one by one; no call is lost.

        Each replacement is ready before the active process is stopped, unless the config says that
        this is stopped first. Instances that do not run
        are started.

        Raises PluginFailedError if a replacement did not get ready, in which case the active
        process keeps running, if the instance was stopped meanwhile, or as `start` does.
        """
        plugins = dict.fromkeys(each.plugin for each in self._instances_of(name))
        with self._tracked(f"{name} is restarted"):
            for plugin in plugins:
                async with self._plugin_locks[plugin]:
                    for instance in self._instances_of(plugin):
                        await self._replace(instance, "a restart was requested")

    async def scale(self, name: str, instances: int) -> None:
        """Change the number of instances of a plugin, and wait until they are ready, or gone.

        The instances with the highest numbers are removed first.

        Raises PluginFailedError as `start` does; ConfigError if `max_instances` or the ports do not
        suffice, when nothing has been changed.
        """
        plugin = self._plugin(name)
        if instances < 1:
            raise UsageError(f"cannot scale {name} to {instances} instances; `stop` stops them all")
        with self._tracked(f"{name} is scaled"):
            await self._scale(plugin, instances)

    async def _scale(self, plugin: PluginConfig, instances: int) -> None:
        name = plugin.name
        async with self._plugin_locks[name]:
            scaled = attrs.evolve(self._plugin(name), instances=instances)
            self._supervisor.configure(_replace_plugins(self._supervisor.config, [scaled]))
            await self._apply_instance_count(scaled.name)

    def set_log_level(self, name: str, level: LogLevel | str) -> frozenset[str]:
        """Set the log level of plugins until the next reload.

        The level applies to the lines that the mesh logs, and to processes that are started later;
        `services.log_level_controller` sets that of running processes. Returns the names of the
        plugins.
        """
        names, log_level = self._plugin_names(name), LogLevel.parse(level)
        config = self._supervisor.config
        changed = [
            attrs.evolve(plugin, output=attrs.evolve(plugin.output, log_level=log_level))
            for plugin in config.plugins
            if plugin.name in names
        ]
        self._supervisor.configure(_replace_plugins(config, changed))
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
        for fixed in _FIXED_SETTINGS:
            if getattr(config, fixed) != getattr(self._supervisor.config, fixed):
                raise UsageError(f"{fixed} cannot be changed while the mesh runs")
        directory.validate(config)
        check_dns_installed(config)
        plugins = (*self._supervisor.config.plugins, *config.plugins)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._tracked("a config is applied"))
            # In one order, so that two reloads cannot deadlock.
            for name in sorted({plugin.name for plugin in plugins}):
                await stack.enter_async_context(self._plugin_locks[name])
            return await self._apply_config(config)

    async def _apply_config(self, config: MeshConfig) -> ReloadResult:
        outdated = self._find_outdated_plugins(config)
        changes = compare_configs(self._supervisor.config, config, outdated)
        tasks = self._supervisor.tasks.tasks
        for name in changes.removed:
            if name not in tasks:
                removed = self._instances_of(name)
                await self._stop_and_wait(removed)
                self._supervisor.remove(removed)
        await self._stop_tasks([tasks[name] for name in changes.removed if name in tasks])
        self._supervisor.configure(config)
        failures: list[str] = []

        async def change(operation: Callable[[str], Awaitable[None]], name: str) -> None:
            try:
                await operation(name)
            except PluginFailedError as exc:
                failures.append(str(exc))

        async with open_collapsing_nursery() as nursery:
            for name in (*changes.added, *changes.scaled):
                if name not in self._supervisor.tasks.tasks:
                    nursery.start_soon(change, self._apply_instance_count, name)
            for name in changes.restarted:
                nursery.start_soon(change, self._replace_all, name)
        if failures:
            raise PluginFailedError("\n".join(failures))
        return changes

    def _find_outdated_plugins(self, config: MeshConfig) -> frozenset[str]:
        """Find plugins with a process that differs from the config: an earlier change failed."""
        wanted = {plugin.name: plugin.process_spec() for plugin in config.plugins}
        return frozenset(
            each.plugin
            for each in self._supervisor.instances
            if each.active_run is not None
            and each.plugin in wanted
            and each.active_run.config.process_spec() != wanted[each.plugin]
        )

    # -- one instance ------------------------------------------------------------------------

    def get_environment(self, name: str, number: int) -> dict[str, str]:
        """Return the environment of an instance's process, or of its next one if it has none.

        The marks by which the mesh recognizes its processes are not in it: a process with them is
        killed with those of the instance.
        """
        instance = self._instance(name, number)
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
        instance = self._instance(name, number)
        self._check_not_upgrading()
        async with (
            self._supervisor.attach(instance, pid) as attachment,
            background_service(attachment.run),
        ):
            yield attachment

    def _instance(self, name: str, number: int) -> Instance:
        plugin = self._plugin(name).name
        found = self._supervisor.instances_of([plugin])
        for instance in found:
            if instance.number == number:
                return instance
        text = f"has no instance {number}; it has {len(found)} of them, numbered from 0"
        raise UnknownNameError(f"{plugin} {text}")

    # -- parts -------------------------------------------------------------------------------

    def _plugin(self, name: str) -> PluginConfig:
        for plugin in self._supervisor.config.plugins:
            if name in (plugin.name, plugin.service_name):
                return plugin
        if name in self._supervisor.tasks.tasks:
            raise UsageError(f"{name} is a task; `meshtrio run {name}` runs it")
        known = ", ".join(plugin.name for plugin in self._supervisor.config.plugins) or "none"
        raise UnknownNameError(f"there is no plugin {name!r}; the plugins are: {known}")

    def _instances_of(self, name: str) -> list[Instance]:
        return self._supervisor.instances_of(self._plugin_names(name))

    def _plugin_names(self, name: str) -> frozenset[str]:
        config = self._supervisor.config
        if any(group.name == name for group in config.groups):
            return frozenset(config.topology().plugins_in(name))
        return frozenset([self._plugin(name).name])

    async def _wait_ready(self, instances: Sequence[Instance]) -> None:
        """Wait until all instances are ready.

        Raises PluginFailedError if one, or all those of a plugin it depends on, failed to start.
        """
        supervisor = self._supervisor
        failed_before = {each: each.failed_starts for each in supervisor.instances}

        def is_up(instance: Instance) -> bool:
            is_ready = instance.is_available and not instance.phase.is_leaving
            return is_ready or instance.attachment is not None

        def has_failed(instance: Instance) -> bool:
            failed = instance.failed_starts > failed_before.get(instance, 0)
            is_down = instance.phase.is_final and not instance.is_running
            return not is_up(instance) and (failed or is_down)

        def failures() -> list[str]:
            table, dependencies = supervisor.instances, supervisor.dependencies
            return (
                [_describe_failure(each) for each in instances if has_failed(each)]
                or [
                    f"{each.name} waits for {_describe_failure(needed[0])}"
                    for each in instances
                    for needed in find_unready_dependencies(each, table, dependencies)
                    if all(map(has_failed, needed))
                ]
                or [
                    f"{each.name} {failure}"
                    for each in instances
                    if each.phase.is_waiting and not each.is_running
                    if (failure := supervisor.explain_dependencies().explain_failure(each.plugin))
                ]
            )

        await supervisor.wait_until(lambda: all(map(is_up, instances)) or bool(failures()))
        if failed := failures():
            raise PluginFailedError("\n".join(failed))

    async def _stop_and_wait(self, instances: Sequence[Instance]) -> tuple[DrainResult, ...]:
        runs = {each: each.active_run for each in instances}
        for instance in instances:
            instance.request_stop()
        await self._supervisor.wait_until(lambda: not any(each.is_running for each in instances))
        for instance in instances:
            instance.close_unused_sockets()  # Those that were idle had no run that has ended.
        return tuple(
            DrainResult(each.plugin, each.number, **({} if run is None else run.stop_details()))
            for each, run in runs.items()
        )

    async def _replace(self, instance: Instance, reason: str) -> None:
        if instance.attachment is not None:
            return  # It is started anew when that ends.
        if not instance.is_ready or instance.phase.is_leaving:
            self._supervisor.request_start(instance)
            await self._wait_ready([instance])
            return
        request, draining = instance.request_replacement(reason), instance.draining_runs
        await self._supervisor.wait_until(lambda: request.failure is not None and not draining)
        if request.failure:
            raise PluginFailedError(request.failure)
        if instance.config.replacement_order is ReplacementOrder.STOP_FIRST:
            await self._wait_ready([instance])

    async def _apply_instance_count(self, name: str) -> None:
        """Add or remove instances until there are as many as the config has."""
        plugin = self._plugin(name)
        present = self._instances_of(plugin.name)
        surplus = [each for each in present if each.number >= plugin.instances]
        added = [Instance(plugin, number) for number in range(len(present), plugin.instances)]
        self._supervisor.add(added)
        await self._stop_and_wait(surplus)
        self._supervisor.remove(surplus)
        await self._wait_ready(added)

    async def _replace_all(self, name: str) -> None:
        await self._apply_instance_count(name)
        for instance in self._instances_of(name):
            phase = instance.phase
            if not (phase.is_leaving or phase.is_final or phase is InstancePhase.IDLE):
                await self._replace(instance, "its config has changed")


def _describe_failure(instance: Instance) -> str:
    """Describe how an instance failed to start, and what follows."""
    if instance.phase is InstancePhase.STOPPED:
        return f"{instance.name} is stopped"
    text = f"{instance.name} {instance.exit_reason}{instance.last_stderr_line}"
    if instance.phase is InstancePhase.BACKOFF:
        text += f"; it is started again in {max(instance.start_at - trio.current_time(), 0):.1f} s"
    return text


def _replace_plugins(config: MeshConfig, changed: Iterable[PluginConfig]) -> MeshConfig:
    by_name = {plugin.name: plugin for plugin in (*config.plugins, *changed)}
    return attrs.evolve(config, plugins=by_name.values())


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
