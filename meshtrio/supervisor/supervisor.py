"""The supervisor of a mesh: the one task that decides which processes of plugins run.

That task owns the table of instances. Requests and the ends of runs wake it up; then it plans, and
starts and stops runs. No other task does.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio.config import MeshConfig, ReplacementOrder
from meshtrio.discovery import static
from meshtrio.discovery.registry import Registry
from meshtrio.errors import MeshFailedError
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.runtime_dir.paths import mesh_socket_path
from meshtrio.supervisor import events
from meshtrio.supervisor.attachment import Attachment
from meshtrio.supervisor.demand import DemandWatch
from meshtrio.supervisor.effects import Effects, make_system_effects
from meshtrio.supervisor.instance import Instance, InstanceStatus
from meshtrio.supervisor.policy import restart
from meshtrio.supervisor.policy.plan import (
    DependencyStatus,
    find_unready_dependencies,
    plan,
)
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.process_run import ProcessRun
from meshtrio.supervisor.recycler import recycle_runs
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.saved_state import SavedRun, SavedService, SavedSupervisor
from meshtrio.supervisor.shutdown_report import ShutdownReport
from meshtrio.supervisor.statistics import LifecycleCounters, MeshStatistics
from meshtrio.supervisor.tasks.runner import TaskRunner
from meshtrio.supervisor.tasks.task import Task, TaskStatus
from meshtrio.supervisor.waiting import DependencyExplainer
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
        adopted: SavedSupervisor | None = None,
    ) -> None:
        """Create a supervisor; nothing is started before `run`.

        The registry gets the endpoints of ready instances. The runtime directory has the sockets.
        `effects` replaces real processes, in tests. `adopted` is what this process has handed over
        in an upgrade, whose plugins are those of `config`.
        """
        self.mesh_socket = mesh_socket_path(directory)
        processes = None if adopted is None else adopted.processes
        self._effects = effects or make_system_effects(directory, config.cgroup, processes)
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
        self.tasks = TaskRunner(
            self._effects,
            self.mesh_socket,
            emit=self._emit,
            kill_orphans=self._kill_orphans,
            on_change=self._wake,
        )
        """The tasks, which the supervisor loop starts and stops."""
        self._wakeup = trio.Event()
        self._adopted_runs: list[tuple[Instance, ProcessRun]] = []
        self._cleanups = 0
        """Number of runs that have ended and whose remains are being killed."""
        self.starts_paused = False
        """Whether no process is started, since an upgrade waits for those that start."""
        self.config = MeshConfig()
        registry.on_demand = self._handle_call_demand
        self.config_watchers: list[Callable[[MeshConfig], None]] = []
        """Called with each config once its services are in the registry, and before those that it
        no longer has are removed."""
        self.on_turn: Callable[[float], float] = lambda _: math.inf
        """Called in place in each turn of the supervisor loop, with the time; returns when the next
        turn has to be at the latest. May not raise."""
        self.configure(config)
        self._exited_runs: deque[tuple[Instance, ProcessRun]] = deque()
        self._batch_ids = itertools.count(1)
        self._recent_group_restarts: restart.GroupRestartTimes = {}
        self._reconciled = trio.lowlevel.ParkingLot()
        if adopted is not None:
            self._adopt(adopted)
        self._report_demand()
        self.shutdown_started = trio.Event()
        """Set when the graceful shutdown of the mesh begins."""

    # -- upgrades ----------------------------------------------------------------------------

    def _adopt(self, saved: SavedSupervisor) -> None:
        """Take over the instances and their processes; `run` supervises these."""
        self._started_at = from_monotonic(saved.started_at)
        self.counters.adopt(saved.counters)
        self._recent_group_restarts = {
            name: tuple(map(from_monotonic, times)) for name, times in saved.group_restarts.items()
        }
        self._batch_ids = itertools.count(1 + max((x.batch for x in saved.instances), default=0))
        for service in saved.services:
            self._registry.restore_exit_infos(service.name, service.exit_infos)
        self.tasks.adopt(saved.tasks)
        plugins = {plugin.name: plugin for plugin in self.config.plugins}
        self.instances = [Instance(plugins[x.plugin], x.number) for x in saved.instances]
        for instance, saved_instance in zip(self.instances, saved.instances, strict=True):
            instance.adopt(saved_instance)
            self._adopt_held_socket(instance)
            if saved_instance.run is not None:
                run = self._make_adopted_run(instance, saved_instance.run)
                instance.active_run = run
                self._adopted_runs.append((instance, run))

    def _adopt_held_socket(self, instance: Instance) -> None:
        if instance.config.listen_fds and not instance.phase.is_final:
            address = self.make_spec(instance, instance.slot).address
            instance.held_sockets.get(address).adopt()

    def _make_adopted_run(self, instance: Instance, saved: SavedRun) -> ProcessRun:
        spec = RunSpec(
            config=saved.config,
            number=instance.number,
            slot=saved.slot,
            socket=saved.socket,
            mesh_socket=self.mesh_socket,
            telemetry=self.config.telemetry,
            launch_id=saved.launch_id,
        )
        run = self._make_run(instance, spec)
        run.adopt(saved)
        return run

    def find_obstacle(self) -> str:
        """Return why there can be no upgrade now, as a phrase after "while"; "" if there can."""
        if self.shutdown_started.is_set() or self._failed.is_set():
            return "the mesh stops"
        for instance in self.instances:
            if instance.attachment is not None:
                return f"{instance.name} is {instance.attachment}"
            if not instance.is_steady:
                return f"{instance.name} is {_describe_unsteady(instance)}"
        if self._exited_runs or self._cleanups:
            return "the remains of a process are being killed"
        return self.tasks.find_obstacle() or self._effects.find_obstacle()

    def save(self) -> SavedSupervisor:
        """Return what an upgrade hands over, unless there is an obstacle.

        The upgrade has to follow at once, without a checkpoint.
        """
        states = {name: self._registry.resolve(name) for name in self._registry.services()}
        return SavedSupervisor(
            config=self.config,
            started_at=to_monotonic(self._started_at),
            processes=self._effects.save(),
            instances=tuple(instance.save() for instance in self.instances),
            services=tuple(
                SavedService(name=name, exit_infos=state.exit_infos)
                for name, state in states.items()
                if state.exit_infos
            ),
            group_restarts={
                name: tuple(map(to_monotonic, times))
                for name, times in self._recent_group_restarts.items()
            },
            tasks=self.tasks.save(),
            counters=self.counters.save(),
        )

    def make_marker_limit(self) -> int:
        """Make the mark of a process that is to be killed if the mesh dies."""
        return self._effects.make_marker_limit()

    def pause_starts(self) -> None:
        """Start no process until `resume_starts`; stops go on."""
        self.starts_paused = True

    def resume_starts(self) -> None:
        """Start processes again."""
        self.starts_paused = False
        self._wake()

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
            forked = [each.name for each in config.plugins if each.start.forks]
            self._effects.templates.retain(forked)
        self._topology = config.topology()
        self.dependencies = self._topology.dependencies()
        self._completions = self._topology.completions()
        self.tasks.configure(config.tasks)
        by_name = {plugin.name: plugin for plugin in config.plugins}
        for instance in self.instances:
            old_level = instance.config.output.log_level
            instance.apply_config(by_name.get(instance.plugin, instance.config))
            level = instance.config.output.log_level
            if level is not old_level:
                self._emit(instance, events.LogLevelSet, level=level)
            if instance.config.has_service and not instance.config.start.is_on_demand:
                self._registry.set_on_demand(instance.config.service_name, on_demand=False)
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
        self.check_not_stopping()
        order = {plugin.name: place for place, plugin in enumerate(self.config.plugins)}
        self.instances += instances
        self.instances.sort(key=lambda instance: (order[instance.plugin], instance.number))
        self._wake()

    def remove(self, instances: Iterable[Instance]) -> None:
        """Remove instances that have no process."""
        removed = set(instances)
        for instance in removed:
            if instance.demand_watch is not None:
                instance.demand_watch.cancel()
            instance.close_unused_sockets()
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
        waiting = self.explain_dependencies()
        return tuple(
            each.status(
                self._socket_path(each, each.slot),
                waiting.explain(each.plugin) if each.phase.is_waiting else "",
            )
            for each in self.instances
        )

    def task_statuses(self) -> tuple[TaskStatus, ...]:
        """Return the status of every task, in the order of the config."""
        waiting = self.explain_dependencies()
        tasks = self.tasks.tasks.values()
        return tuple(
            task.status(waiting.explain_all(task.name) if task.is_waiting else "") for task in tasks
        )

    def dependency_status(self) -> DependencyStatus:
        """Return which dependencies are met."""
        by_plugin: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            by_plugin[instance.plugin].append(instance)
        exited = {
            name
            for name, instances in by_plugin.items()
            if all(each.phase is InstancePhase.EXITED for each in instances)
        }
        return DependencyStatus(
            self.dependencies,
            self._completions,
            ready=frozenset(each.plugin for each in self.instances if each.is_available),
            completed=self.tasks.completed | exited,
        )

    def explain_dependencies(self) -> DependencyExplainer:
        """Return explanations of the dependencies that are not met."""
        return DependencyExplainer(self.dependency_status(), self.instances, self.tasks.tasks)

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
        """Start every plugin and task and supervise them until cancelled.

        Tasks are stopped first, then plugins in the reverse of the order they are started in. The
        warden outlives them, so that a mesh killed while it stops leaves no process either.

        Raises:
            MeshFailedError: The failure of a plugin was escalated to the mesh.
            SystemExit, KeyboardInterrupt: A subscriber raised it.

        Cancellation: Stops all processes first, which takes up to the longest `stop_timeout`.
        """
        async with self._effects.run_guard(), open_collapsing_nursery() as nursery:
            nursery.start_soon(self._supervisor_loop)
            nursery.start_soon(
                recycle_runs,
                lambda: self.instances,
                lambda: self.tasks.tasks.values(),
                self._effects,
                self._wake,
            )
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
        self.tasks.start_shutdown()
        self._wake()

    def _report_shutdown(self, event: events.LifecycleEvent) -> None:
        if self.shutdown_started.is_set():
            self.shutdown_report = self.shutdown_report.add(event)

    def request_start(self, instance: Instance) -> None:
        """Have an instance run. Raises UsageError if the mesh is stopping."""
        self.check_not_stopping()
        instance.request_start()

    @asynccontextmanager
    async def attach(self, instance: Instance, pid: int) -> AsyncIterator[Attachment]:
        """Hold the place of an instance for process `pid` during the block, once it has stopped.

        At the end what was started in its place is killed, and the instance is started again if it
        is to run.

        Raises:
            UsageError: Another process holds its place, or the mesh or the instance is to stop.
        """
        self.check_not_stopping()
        if instance.attachment is not None:
            holder = instance.attachment.pid
            raise UsageError(f"{instance.name} is attached by pid {holder} already")
        spec = self.make_spec(instance, instance.slot)
        attachment = Attachment(
            spec, pid, registry=self._registry, effects=self._effects, on_change=self._wake
        )
        instance.attach(attachment)
        try:
            is_revoked = attachment.revoked.is_set
            await self.wait_until(lambda: not instance.runs() or is_revoked())
            if is_revoked():
                raise UsageError(attachment.revoke_reason)
            # The process in its place binds the address itself.
            instance.held_sockets.close_unused(is_down=True)
            _log.info("%s: attached by pid %d", instance.name, pid)
            yield attachment
        finally:
            with trio.CancelScope(shield=True):
                await self._kill_orphans(instance, attachment.identity)
            instance.detach()
            self._wake()
            _log.info("%s: pid %d is not attached any more", instance.name, pid)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` is true after the supervisor has acted on all requests.

        Raises UsageError if the mesh is stopping and the condition is not true.
        """
        self._wake()
        await trio.lowlevel.checkpoint()
        while not condition():
            self.check_not_stopping()
            await self._reconciled.park()

    def check_not_stopping(self) -> None:
        """Raise UsageError if the mesh is stopping."""
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
                while self._adopted_runs:
                    runs.start_soon(self._run_process, *self._adopted_runs.pop(0))
                while self._has_runs() or not stopping():
                    self._wakeup = trio.Event()
                    wake_at = self._reconcile(runs)
                    with trio.move_on_at(min(wake_at, self.on_turn(trio.current_time()))):
                        await self._wakeup.wait()
                    while self._exited_runs:
                        self._handle_exit(*self._exited_runs.popleft())
                    for instance in self.instances:
                        instance.close_unused_sockets()
                    self.tasks.handle_exits()
                    self._reconciled.unpark_all()
                for instance in self.instances:
                    if instance.demand_watch is not None:
                        instance.demand_watch.cancel()
        self.on_turn(trio.current_time())
        self._reconciled.unpark_all()

    def _reconcile(self, runs: trio.Nursery) -> float:
        """Start, replace and stop what is due; returns when there is more to do."""
        now, is_stopping = trio.current_time(), self.shutdown_started.is_set()
        status = self.dependency_status()
        wake_at = self.tasks.reconcile(
            runs, status, is_stopping=is_stopping, starts_paused=self.starts_paused
        )
        blocked = status.find_blocked()
        todo = plan(self.instances, self.dependencies, now, self.config.max_starting, blocked)
        # Tasks may use plugins to their end.
        for instance in () if is_stopping and self.tasks.is_running else todo.stop:
            instance.terminate(0 if is_stopping else _DRAIN_DELAY)
        for instance in () if self.starts_paused else todo.start:
            instance.launch(self._start_run(instance, instance.slot, runs))
        for instance in self.instances:
            self._reconcile_replacement(instance, runs)
            self._stop_if_idle(instance)
            self._reconcile_demand(instance, runs)
            if instance.is_demand_deferred:
                instance.is_demand_deferred = now < instance.start_at
            if instance.is_demand_deferred:
                wake_at = min(wake_at, instance.start_at)
        self._report_demand()
        return min(wake_at, todo.wake_at)

    # -- starts on demand --------------------------------------------------------------------

    def _stop_if_idle(self, instance: Instance) -> None:
        """Stop the process of an instance that has no calls, if it is started again on demand."""
        run, timeout = instance.active_run, instance.config.idle_timeout
        if run is None or not run.is_idle:
            return
        run.is_idle = False  # It is reported again.
        if timeout is None or run.ready_at is None or self.starts_paused or run.is_kill_requested:
            return
        # A call that it was started for may not have reached it before. What it has reported during
        # an upgrade may be out of date.
        since = max(run.ready_at, run.supervised_since)
        was_ready_long = trio.current_time() - since >= timeout
        if instance.phase is InstancePhase.RUNNING and run.is_ready and was_ready_long:
            _log.info(
                "%s: no calls for %g s; stopping it until it is needed", instance.name, timeout
            )
            instance.idle(_DRAIN_DELAY)

    def _reconcile_demand(self, instance: Instance, runs: trio.Nursery) -> None:
        """Watch the socket of an instance that is idle."""
        watch = instance.demand_watch
        is_idle = instance.phase is InstancePhase.IDLE and not instance.is_running
        is_current = watch is not None and watch.config is instance.config and not watch.is_over
        if watch is not None and not (is_idle and is_current):
            watch.cancel()
            watch = instance.demand_watch = None
        if is_idle and watch is None:
            # After a change of the config it may be another socket.
            held = instance.held_sockets.get(self.make_spec(instance, instance.slot).address)
            watch = instance.demand_watch = DemandWatch(instance.config, held)
            runs.start_soon(self._watch_demand, instance, watch)

    async def _watch_demand(self, instance: Instance, watch: DemandWatch) -> None:
        def on_demand() -> None:
            if instance.demand_watch is watch:
                instance.request_demand()

        await watch.run(self._directory, self._wake, on_demand)
        self._wake()

    def _handle_call_demand(self, service: str) -> None:
        """Start the idle instances of the plugin whose service a call waits for."""
        for instance in self.instances:
            if instance.phase.is_idle and instance.config.service_name == service:
                instance.request_demand()
                self._wake()

    def _report_demand(self) -> None:
        """Let callers know which services are started by their calls."""
        by_service: defaultdict[str, bool] = defaultdict(bool)
        for instance in self.instances:
            if instance.is_ready and not instance.phase.is_leaving:
                instance.is_demanded = False
            if instance.config.start.is_on_demand and instance.config.has_service:
                awaits = instance.awaits_demand and not self._waits_in_vain(instance)
                by_service[instance.config.service_name] |= awaits
        for service, on_demand in by_service.items():
            self._registry.set_on_demand(service, on_demand=on_demand)

    def _waits_in_vain(self, instance: Instance) -> bool:
        """Whether an instance is not started, since what it needs was stopped or has failed."""
        if not instance.phase.is_waiting or instance.is_running:
            return False
        needed = find_unready_dependencies(instance, self.instances, self.dependencies)
        is_down = any(all(each.phase.is_final for each in of_plugin) for of_plugin in needed)
        return is_down or bool(self.explain_dependencies().explain_failure(instance.plugin))

    def _has_runs(self) -> bool:
        return self.tasks.is_running or any(each.is_running for each in self.instances)

    def _reconcile_replacement(self, instance: Instance, runs: trio.Nursery) -> None:
        if instance.phase is InstancePhase.REPLACE_QUEUED:
            if not self._can_replace(instance):
                return
            assert instance.replacement is not None
            if instance.config.replacement_order is ReplacementOrder.STOP_FIRST:
                self._restart_for_replacement(instance, instance.replacement.reason)
            else:
                self._emit(instance, events.Renewing, reason=instance.replacement.reason)
                instance.launch(self._start_run(instance, 1 - instance.slot, runs))
        elif instance.replacement_run is not None and instance.replacement_run.is_ready:
            instance.promote(_DRAIN_DELAY)

    def _can_replace(self, instance: Instance) -> bool:
        # A run that drains still has the address of the replacement.
        is_possible = instance.is_ready and not instance.draining_runs
        return instance.replacement is not None and is_possible and not self.starts_paused

    def _restart_for_replacement(self, instance: Instance, reason: str) -> None:
        self._emit(instance, events.Renewing, reason=f"{reason}; its process is stopped first")
        instance.restart_for_replacement()
        self._wake()

    def _socket_path(self, instance: Instance, slot: int) -> Path:
        directory, config = self._directory, instance.config
        return runtime_dir.plugin_socket_path(directory, config, instance.number, slot)

    def make_spec(self, instance: Instance, slot: int) -> RunSpec:
        """Make the spec of a run that an instance could have now at one of its two addresses."""
        return RunSpec(
            config=instance.config,
            number=instance.number,
            slot=slot,
            socket=self._socket_path(instance, slot),
            mesh_socket=self.mesh_socket,
            telemetry=self.config.telemetry,
        )

    def _start_run(self, instance: Instance, slot: int, runs: trio.Nursery) -> ProcessRun:
        run = self._make_run(instance, self.make_spec(instance, slot))
        runs.start_soon(self._run_process, instance, run)
        return run

    def _make_run(self, instance: Instance, spec: RunSpec) -> ProcessRun:
        if spec.config.listen_fds:
            held_socket = instance.held_sockets.get(spec.address)
            spec = attrs.evolve(spec, held_socket=held_socket)
        return ProcessRun(
            spec,
            registry=self._registry,
            effects=self._effects,
            line_buffer=instance.line_buffer,
            emit=partial(self._emit, instance),
            on_change=self._wake,
        )

    async def _run_process(self, instance: Instance, run: ProcessRun) -> None:
        await run.run()
        self._cleanups += 1
        try:
            await self._handle_end(instance, run)
        finally:
            self._cleanups -= 1

    async def _handle_end(self, instance: Instance, run: ProcessRun) -> None:
        is_unkillable = run.exit is not None and run.exit.is_unkillable
        if is_unkillable:
            # The restart policy depends on how many processes cannot be killed, this one included.
            await self._kill_orphans(instance, run.identity)
        self._exited_runs.append((instance, run))
        self._wake()
        if not is_unkillable:
            await self._kill_orphans(instance, run.identity)

    async def _kill_orphans(self, instance: Instance | Task, identity: RunIdentity | None) -> None:
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
            case restart.AwaitDemand(delay=delay, history=history):
                was_ready = run.ready_at is not None
                instance.await_demand(history, now + delay, was_ready=was_ready)
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

    def _emit(
        self, instance: Instance | Task, kind: type[events.LifecycleEvent], **values: Any
    ) -> None:
        self._subscribers.emit(kind(instance.plugin, instance.number, **values))


def _describe_unsteady(instance: Instance) -> str:
    """Return what is being done to an instance that cannot be handed over, as a participle."""
    if instance.phase.is_leaving or instance.draining_runs:
        return "being stopped"
    if instance.replacement_run is not None:
        return "being replaced"
    return "being started" if instance.is_starting else "ending"


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
