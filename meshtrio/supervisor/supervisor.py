"""The supervisor of a mesh: the one task that decides which processes of plugins run.

That task owns the table of instances. Requests and the ends of runs wake it up; then it plans, and
starts and stops runs. No other task does.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio.config import MeshConfig, ReplacementOrder, StartMethod
from meshtrio.discovery import static
from meshtrio.discovery.registry import Registry
from meshtrio.errors import MeshFailedError
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.runtime_dir.paths import mesh_socket_path
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects, make_system_effects
from meshtrio.supervisor.instance import Instance, InstanceStatus
from meshtrio.supervisor.policy import restart
from meshtrio.supervisor.policy.plan import plan
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity
from meshtrio.supervisor.process_run import ProcessRun
from meshtrio.supervisor.recycler import recycle_runs
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.shutdown_report import ShutdownReport
from meshtrio.supervisor.statistics import LifecycleCounters, MeshStatistics
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.errors import UsageError

_log = logging.getLogger("meshtrio.mesh")

_DRAIN_DELAY = 0.1
"""Seconds from leaving the registry to SIGTERM, except while the whole mesh stops."""
_MAX_UNKILLABLE = 3
"""Processes of one instance that cannot be killed and still run, above which it is not started
again: each start would leave another."""


class Supervisor:
    """Owns all plugin processes of a mesh between the start of `run` and its end."""

    def __init__(
        self,
        config: MeshConfig,
        registry: Registry,
        directory: Path,
        subscribers: Sequence[events.Subscriber] = (),
        effects: Effects | None = None,
    ) -> None:
        """Create a supervisor; nothing is started before `run`.

        The registry gets the endpoints of ready instances. The runtime directory has the sockets.
        `effects` replaces real processes, in tests.
        """
        self.mesh_socket = mesh_socket_path(directory)
        self._effects = effects or make_system_effects(directory, config.cgroup)
        self.counters = LifecycleCounters(lambda: self.instances)
        self.shutdown_report = ShutdownReport()
        """How the mesh has stopped, as far as it has."""
        self._failed = trio.Event()
        self._failure: BaseException | None = None
        own_subscribers = (self.counters.on_event, self._report_shutdown)
        self._subscribers = events.Subscribers([*own_subscribers, *subscribers], self._fail)
        self._started_at = trio.current_time()
        self._registry = registry
        self._directory = directory
        self.instances = [
            Instance(plugin, number)
            for plugin in config.plugins
            for number in range(plugin.instances)
        ]
        self.config = MeshConfig()
        self.config_watchers: list[Callable[[MeshConfig], None]] = []
        """Called with each config once its services are in the registry, and before those that it
        no longer has are removed."""
        self.configure(config)
        self._exited_runs: deque[tuple[Instance, ProcessRun]] = deque()
        self._batch_ids = itertools.count(1)
        self._recent_group_restarts: restart.GroupRestartTimes = {}
        self._wakeup = trio.Event()
        self._reconciled = trio.lowlevel.ParkingLot()
        self.shutdown_started = trio.Event()
        """Set when the graceful shutdown of the mesh begins."""

    # -- configuration -----------------------------------------------------------------------

    def configure(self, config: MeshConfig) -> None:
        """Use `config` from now on; `add` and `remove` change the set of instances."""
        before, self.config = self.config, config
        try:
            self._effects.guard.set_users(runtime_dir.resolve_plugin_uids(config))
        except OSError as exc:
            _log.error(
                "cannot record the users of plugins in the runtime dir: %s; should this mesh and "
                "its warden be killed, the next mesh there leaves their processes alone",
                exc.strerror,
            )
        if self._effects.templates is not None:
            forked = [each.name for each in config.plugins if each.start is StartMethod.FORK]
            self._effects.templates.retain(forked)
        self._topology = config.topology()
        self.dependencies = self._topology.dependencies()
        by_name = {plugin.name: plugin for plugin in config.plugins}
        for instance in self.instances:
            old_level = instance.config.output.log_level
            instance.apply_config(by_name.get(instance.plugin, instance.config))
            level = instance.config.output.log_level
            if level is not old_level:
                self._emit(instance, events.LogLevelSet, level=level)
        services = _declared_services(config)
        self._registry.explain_missing(_explain_missing_services(config))
        for service in sorted(services):
            self._registry.add_service(service)
        static.apply_service_tables(self._registry, before.services, config.services)
        for on_config in self.config_watchers:
            on_config(config)
        for service in _declared_services(before) - services:
            self._registry.remove_service(service)

    def add(self, instances: Iterable[Instance]) -> None:
        """Add instances, which are started. Raises UsageError if the mesh is stopping."""
        self._check_not_stopping()
        order = {plugin.name: place for place, plugin in enumerate(self.config.plugins)}
        self.instances += instances
        self.instances.sort(key=lambda instance: (order[instance.plugin], instance.number))
        self._wake()

    def remove(self, instances: Iterable[Instance]) -> None:
        """Remove instances that have no process."""
        removed = set(instances)
        self.instances = [instance for instance in self.instances if instance not in removed]

    def subscribe(self, subscriber: events.Subscriber) -> None:
        """Call `subscriber` with each event from now on; what it raises is logged."""
        self._subscribers.add(subscriber)

    # -- views -------------------------------------------------------------------------------

    def instances_of(self, plugins: Iterable[str]) -> list[Instance]:
        """Return the instances of some plugins, in the order of the config."""
        wanted = frozenset(plugins)
        return [instance for instance in self.instances if instance.plugin in wanted]

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """Return the status of every instance, in the order of the config."""
        return tuple(each.status(self._socket_path(each, each.slot)) for each in self.instances)

    def statistics(self) -> MeshStatistics:
        """Return the numbers of the mesh, its groups and its plugins."""
        plugins = [plugin.name for plugin in self.config.plugins]
        by_plugin: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            by_plugin[instance.plugin].append(instance)
        summarize = partial(self.counters.summarize, instances=by_plugin)
        return MeshStatistics(
            uptime=trio.current_time() - self._started_at,
            plugins=tuple(summarize(name, [name]) for name in plugins),
            groups=tuple(
                summarize(group.name, self._topology.plugins_in(group.name))
                for group in self.config.groups
            ),
            total=summarize("mesh", plugins),
        )

    # -- life cycle --------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start every plugin and supervise it until cancelled.

        Plugins are stopped in the reverse of the order they are started in. The warden outlives
        them, so that a mesh killed while it stops leaves no process either.

        Raises:
            MeshFailedError: The failure of a plugin was escalated to the mesh.
            SystemExit, KeyboardInterrupt: A subscriber raised it.

        Cancellation: Stops all processes first, which takes up to the longest `stop_timeout`.
        """
        async with self._effects.run_guard(), open_collapsing_nursery() as nursery:
            nursery.start_soon(self._supervisor_loop)
            nursery.start_soon(recycle_runs, lambda: self.instances, self._effects, self._wake)
            task_status.started()
            try:
                await self._failed.wait()
            finally:
                self.start_shutdown()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def start_shutdown(self) -> None:
        """Stop everything; `run` returns once all processes are gone. Does not wait."""
        self.shutdown_started.set()
        for instance in self.instances:
            instance.request_stop()
        self._wake()

    def _report_shutdown(self, event: events.LifecycleEvent) -> None:
        if self.shutdown_started.is_set():
            self.shutdown_report = self.shutdown_report.add(event)

    def request_start(self, instance: Instance) -> None:
        """Have an instance run. Raises UsageError if the mesh is stopping."""
        self._check_not_stopping()
        instance.request_start()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` is true after the supervisor has acted on all requests.

        Raises UsageError if the mesh is stopping and the condition is not true.
        """
        self._wake()
        await trio.lowlevel.checkpoint()
        while not condition():
            self._check_not_stopping()
            await self._reconciled.park()

    def _check_not_stopping(self) -> None:
        if self.shutdown_started.is_set():
            raise UsageError("the mesh is stopping")

    def _fail(self, failure: BaseException) -> None:
        """Make `run` stop everything and raise this."""
        self._failure = self._failure or failure
        self._failed.set()

    def _wake(self) -> None:
        """Make the supervisor loop plan again."""
        self._wakeup.set()

    # -- the supervisor loop -----------------------------------------------------------------

    async def _supervisor_loop(self) -> None:
        """Plan and act until all is stopped. Shielded: `start_shutdown` ends it."""
        stopping = self.shutdown_started.is_set
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as runs:
                while any(each.is_running for each in self.instances) or not stopping():
                    self._wakeup = trio.Event()
                    wake_at = self._reconcile(runs)
                    with trio.move_on_at(wake_at):
                        await self._wakeup.wait()
                    while self._exited_runs:
                        self._handle_exit(*self._exited_runs.popleft())
                    self._reconciled.unpark_all()
        self._reconciled.unpark_all()

    def _reconcile(self, runs: trio.Nursery) -> float:
        """Start, replace and stop what is due; returns when there is more to do."""
        now = trio.current_time()
        todo = plan(self.instances, self.dependencies, now, self.config.max_starting)
        for instance in todo.stop:
            instance.terminate(0 if self.shutdown_started.is_set() else _DRAIN_DELAY)
        for instance in todo.start:
            instance.launch(self._start_run(instance, instance.slot, runs))
        for instance in self.instances:
            self._reconcile_replacement(instance, runs)
        return todo.wake_at

    def _reconcile_replacement(self, instance: Instance, runs: trio.Nursery) -> None:
        if instance.phase is InstancePhase.REPLACE_QUEUED:
            if instance.config.replacement_order is ReplacementOrder.STOP_FIRST:
                self._restart_for_replacement(instance)
            # A run that drains still has the address of the replacement.
            elif instance.replacement and instance.is_ready and not instance.draining_runs:
                self._emit(instance, events.Renewing, reason=instance.replacement.reason)
                instance.launch(self._start_run(instance, 1 - instance.slot, runs))
        elif instance.replacement_run is not None and instance.replacement_run.is_ready:
            instance.promote(_DRAIN_DELAY)

    def _restart_for_replacement(self, instance: Instance) -> None:
        if instance.replacement is not None and instance.is_ready:
            reason = f"{instance.replacement.reason}; its process is stopped first"
            self._emit(instance, events.Renewing, reason=reason)
            instance.restart_for_replacement()
            self._wake()

    def _socket_path(self, instance: Instance, slot: int) -> Path:
        directory, config = self._directory, instance.config
        return runtime_dir.plugin_socket_path(directory, config, instance.number, slot)

    def _start_run(self, instance: Instance, slot: int, runs: trio.Nursery) -> ProcessRun:
        spec = RunSpec(
            config=instance.config,
            number=instance.number,
            slot=slot,
            socket=self._socket_path(instance, slot),
            mesh_socket=self.mesh_socket,
            telemetry=self.config.telemetry,
        )
        run = ProcessRun(
            spec,
            registry=self._registry,
            effects=self._effects,
            line_buffer=instance.line_buffer,
            emit=partial(self._emit, instance),
            on_change=self._wake,
        )
        runs.start_soon(self._run_process, instance, run)
        return run

    async def _run_process(self, instance: Instance, run: ProcessRun) -> None:
        await run.run()
        is_unkillable = run.exit is not None and run.exit.is_unkillable
        if is_unkillable:
            # The restart policy depends on how many processes cannot be killed, this one included.
            await self._kill_orphans(instance, run.identity)
        self._exited_runs.append((instance, run))
        self._wake()
        if not is_unkillable:
            await self._kill_orphans(instance, run.identity)

    async def _kill_orphans(self, instance: Instance, identity: RunIdentity | None) -> None:
        """Kill the processes that a run has left behind, and report those that cannot be killed."""
        if identity is None:
            return
        try:
            report = await self._effects.kill_orphans(identity)
        except Exception:
            _log.exception("cannot look for processes that %s has left behind", instance.name)
            return
        if report.killed:
            self._emit(instance, events.Swept, count=report.killed)
        instance.unkillable += report.unkillable
        for each in report.unkillable:
            found = {"pid": each.pid, "name": each.name, "reason": each.reason}
            self._emit(instance, events.LeftRunning, **found)

    # -- ends of runs ------------------------------------------------------------------------

    def _handle_exit(self, instance: Instance, run: ProcessRun) -> None:
        failures = instance.replace_failures
        if instance.handle_exit(run):
            self._apply_restart_policy(instance, run)
        elif instance.replace_failures > failures:
            delay = instance.config.backoff.delay(instance.replace_failures, self._effects.rng)
            instance.next_replace_at = trio.current_time() + delay

    def _apply_restart_policy(self, instance: Instance, run: ProcessRun) -> None:
        process_exit, now = run.exit, trio.current_time()
        assert process_exit is not None
        since_ready = None if run.ready_at is None else now - run.ready_at
        decision = restart.decide_restart(
            instance.config, instance.history, process_exit, since_ready, now, self._effects.rng
        )
        if process_exit.is_unkillable and len(instance.unkillable) > _MAX_UNKILLABLE:
            text = f"{process_exit}, as do {len(instance.unkillable) - 1} others of its processes"
            process_exit = attrs.evolve(process_exit, reason=f"{text}; it is not started again")
            instance.last_exit = process_exit
            decision = restart.Finish(is_failure=True)
        match decision:
            case restart.Restart(delay=delay, history=history):
                instance.retry(history, now + delay)
                self._emit(instance, events.Restarting, delay=delay, cause=process_exit.cause)
                companions = restart.plugins_restarted_with(self._topology, instance.plugin)
                if companions:
                    self._restart_together([instance, *self.instances_of(companions)])
            case restart.Finish(is_failure=is_failure, restarts=restarts):
                instance.finish(is_failure=is_failure)
                self._emit(instance, events.GaveUp, exit=process_exit, restarts=restarts)
                if restarts is not None:
                    self._escalate(instance, process_exit, restarts, now)

    def _escalate(self, instance: Instance, exit: restart.Exit, restarts: int, now: float) -> None:
        times = self._recent_group_restarts
        result = restart.escalate(self._topology, instance.config, times, now)
        if result is None:
            return
        if isinstance(result, restart.EscalateToMesh):
            limits = restarts, instance.config.restart_period, result.failed_groups
            ended = str(exit), exit.stderr_tail
            self._fail(MeshFailedError(instance.plugin, instance.number, *limits, *ended))
            return
        self._recent_group_restarts = result.restart_times
        self._emit(instance, events.GroupRestarting, group=result.group, plugins=result.plugins)
        members = self.instances_of(result.plugins)
        for member in members:
            member.reset_history()
        self._restart_together(members)

    def _restart_together(self, instances: Iterable[Instance]) -> None:
        """Stop those that run, and start none before all of them have stopped."""
        batch = next(self._batch_ids)
        for instance in instances:
            instance.request_restart(batch)

    def _emit(self, instance: Instance, kind: type[events.LifecycleEvent], **values: Any) -> None:
        self._subscribers.emit(kind(instance.plugin, instance.number, **values))


def _declared_services(config: MeshConfig) -> set[str]:
    """Return the services of the plugins and the tables of a config."""
    plugins = {plugin.service_name for plugin in config.plugins if plugin.has_service}
    return plugins | {each.name for each in config.services}


def _explain_missing_services(config: MeshConfig) -> dict[str, str]:
    """Return what callers of the plugins without a service are told, by the name of that."""
    return {
        plugin.service_name: f"plugin {plugin.name} has no service: its config has "
        "`service = false`, or no `service = true` and a `ready` that does not imply it"
        for plugin in config.plugins
        if not plugin.has_service
    }
