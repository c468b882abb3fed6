"""The supervisor of a mesh: the one task that decides which processes of plugins run.

That task owns the table of instances. Requests and the ends of runs wake it up; then it plans, and
starts and stops runs, as `reconciliation` says. No other task does.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from meshtrio.config import MeshConfig
from meshtrio.config.topology import Dependencies
from meshtrio.discovery.registry import Registry
from meshtrio.runtime_dir.paths import mesh_socket_path
from meshtrio.supervisor import events
from meshtrio.supervisor.attached_place import hold_place
from meshtrio.supervisor.attachment import Attachment
from meshtrio.supervisor.config_application import (
    add_declared_services,
    configure_effects,
    configure_instances,
    remove_undeclared_services,
)
from meshtrio.supervisor.effects import Effects, make_system_effects
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.instance_status import InstanceStatus, make_instance_statuses
from meshtrio.supervisor.instance_table import InstanceTable
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.reconciliation.demand_controller import DemandController
from meshtrio.supervisor.reconciliation.dependency_tracker import DependencyTracker
from meshtrio.supervisor.reconciliation.exit_handler import ExitHandler
from meshtrio.supervisor.reconciliation.reconciler import Reconciler
from meshtrio.supervisor.reconciliation.recycler import recycle_runs
from meshtrio.supervisor.reconciliation.run_factory import RunFactory
from meshtrio.supervisor.reconciliation.run_reaper import RunReaper
from meshtrio.supervisor.reconciliation.waiting import DependencyExplainer
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.saved_instance import (
    find_instance_obstacle,
    save_instance,
)
from meshtrio.supervisor.saved_state import SavedSupervisor, restore_services, save_services
from meshtrio.supervisor.shutdown_report import ShutdownReport
from meshtrio.supervisor.statistics import LifecycleCounters, MeshStatistics
from meshtrio.supervisor.tasks.runner import TaskRunner
from meshtrio.supervisor.tasks.task import Task, TaskStatus
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.errors import UsageError


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
        self._table = InstanceTable(config)
        self._wakeup = trio.Event()
        self._reaper = RunReaper(self._effects, emit=self._emit, on_exit=self._wake)
        self.tasks = TaskRunner(
            self._effects,
            self.mesh_socket,
            emit=self._emit,
            kill_orphans=self._reaper.kill_orphans,
            on_change=self._wake,
        )
        """The tasks, which the supervisor loop starts and stops."""
        self._dependencies = DependencyTracker(self._table, self.tasks)
        self._exit_handler = ExitHandler(
            self._table, config.topology(), self._effects.rng, emit=self._emit, fail=self._fail
        )
        self._factory = RunFactory(
            registry=registry,
            effects=self._effects,
            directory=directory,
            mesh_socket=self.mesh_socket,
            telemetry=config.telemetry,
            emit=self._emit,
            on_change=self._wake,
        )
        self._demand = DemandController(
            self._table, self._dependencies, registry, self._factory, self._wake
        )
        registry.on_demand = self._demand.handle_call
        self._reconciler = self._make_reconciler()
        self.config = MeshConfig()
        self.config_watchers: list[Callable[[MeshConfig], None]] = []
        """Called with each config once its services are in the registry, and before those that it
        no longer has are removed."""
        self.on_turn: Callable[[float], float] = lambda _: math.inf
        """Called in place in each turn of the supervisor loop, with the time; returns when the next
        turn has to be at the latest. May not raise."""
        self.configure(config)
        self._reconciled = trio.lowlevel.ParkingLot()
        if adopted is not None:
            self._adopt(adopted)
        self._demand.report()
        self.shutdown_started = trio.Event()
        """Set when the graceful shutdown of the mesh begins."""

    def _make_reconciler(self) -> Reconciler:
        return Reconciler(
            table=self._table,
            tasks=self.tasks,
            dependencies=self._dependencies,
            demand=self._demand,
            factory=self._factory,
            reaper=self._reaper,
            emit=self._emit,
            on_request=self._wake,
        )

    # -- upgrades ----------------------------------------------------------------------------

    def _adopt(self, saved: SavedSupervisor) -> None:
        """Take over the instances and their processes; `run` supervises these."""
        self._started_at = from_monotonic(saved.started_at)
        self.counters.adopt(saved.counters)
        restore_services(self._registry, saved.services)
        self.tasks.adopt(saved.tasks)
        plugins = {plugin.name: plugin for plugin in self.config.plugins}
        self._table.instances = [Instance(plugins[x.plugin], x.number) for x in saved.instances]
        for instance, saved_instance in zip(self.instances, saved.instances, strict=True):
            self._factory.adopt_instance(instance, saved_instance)
        self._exit_handler.adopt(saved.group_restarts)

    def find_obstacle(self) -> str:
        """Return why there can be no upgrade now, as a phrase after "while"; "" if there can."""
        if self.shutdown_started.is_set() or self._failed.is_set():
            return "the mesh stops"
        for instance in self.instances:
            if obstacle := find_instance_obstacle(instance):
                return f"{instance.name} is {obstacle}"
        if self._reaper.is_busy:
            return "the remains of a process are being killed"
        return self.tasks.find_obstacle() or self._effects.find_obstacle()

    def save(self) -> SavedSupervisor:
        """Return what an upgrade hands over, unless there is an obstacle.

        The upgrade has to follow at once, without a checkpoint.
        """
        return SavedSupervisor(
            config=self.config,
            started_at=to_monotonic(self._started_at),
            processes=self._effects.save(),
            instances=tuple(save_instance(each, self._effects) for each in self.instances),
            services=save_services(self._registry),
            group_restarts=self._exit_handler.save(),
            tasks=self.tasks.save(),
            counters=self.counters.save(),
        )

    def make_marker_limit(self) -> int:
        """Make the mark of a process that is to be killed if the mesh dies."""
        return self._effects.make_marker_limit()

    def pause_starts(self) -> None:
        """Start no process until `resume_starts`; stops go on."""
        self._reconciler.starts_paused = True

    def resume_starts(self) -> None:
        """Start processes again."""
        self._reconciler.starts_paused = False
        self._wake()

    # -- configuration -----------------------------------------------------------------------

    def configure(self, config: MeshConfig) -> None:
        """Use `config` from now on; `add` and `remove` change the set of instances."""
        before, self.config = self.config, config
        configure_effects(self._effects, config)
        self._topology = self._exit_handler.topology = config.topology()
        self._dependencies.configure(self._topology)
        self.tasks.configure(config.tasks)
        configure_instances(self.instances, config, self._registry, self._emit)
        add_declared_services(self._registry, before, config)
        for on_config in self.config_watchers:
            on_config(config)
        remove_undeclared_services(self._registry, before, config)

    def add(self, instances: Iterable[Instance]) -> None:
        """Add instances, which are started. Raises UsageError if the mesh is stopping."""
        self.check_not_stopping()
        self._table.add(instances, self.config)
        self._wake()

    def remove(self, instances: Iterable[Instance]) -> None:
        """Remove instances that have no process."""
        self._table.remove(instances)

    def subscribe(self, subscriber: events.Subscriber) -> None:
        """Call `subscriber` with each event from now on; what it raises is logged."""
        self._subscribers.add(subscriber)

    # -- views -------------------------------------------------------------------------------

    @property
    def instances(self) -> list[Instance]:
        """All instances, in the order of the config."""
        return self._table.instances

    def instances_of(self, plugins: Iterable[str]) -> list[Instance]:
        """Return the instances of some plugins, in the order of the config."""
        return self._table.select(plugins)

    def make_spec(self, instance: Instance, slot: int) -> RunSpec:
        """Make the spec of a run that an instance could have now at one of its two addresses."""
        return self._factory.make_spec(instance, slot)

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """Return the status of every instance, in the order of the config."""
        explain = self.explain_dependencies().explain
        return make_instance_statuses(self.instances, self._factory.find_socket, explain)

    def task_statuses(self) -> tuple[TaskStatus, ...]:
        """Return the status of every task, in the order of the config."""
        return self.tasks.statuses(self.explain_dependencies().explain_all)

    @property
    def dependencies(self) -> Dependencies:
        """The plugins that each plugin or task waits for to be ready."""
        return self._dependencies.dependencies

    def explain_dependencies(self) -> DependencyExplainer:
        """Return explanations of the dependencies that are not met."""
        return self._dependencies.explain()

    def statistics(self) -> MeshStatistics:
        """Return the numbers of the mesh, its groups and its plugins."""
        uptime = trio.current_time() - self._started_at
        return self.counters.summarize_mesh(
            self.config, self._topology, uptime, self._table.by_plugin()
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
        try:
            async with hold_place(
                instance, attachment, wait_until=self.wait_until, reaper=self._reaper
            ):
                yield attachment
        finally:
            self._wake()

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
                for instance in self.instances:
                    if instance.active_run is not None:  # It was adopted.
                        runs.start_soon(self._reaper.run, instance, instance.active_run)
                while self._has_runs() or not stopping():
                    self._wakeup = trio.Event()
                    wake_at = self._reconciler.reconcile(
                        runs, self.config.max_starting, is_stopping=stopping()
                    )
                    with trio.move_on_at(min(wake_at, self.on_turn(trio.current_time()))):
                        await self._wakeup.wait()
                    for instance, run in self._reaper.take_exited():
                        self._exit_handler.handle_exit(instance, run)
                    for instance in self.instances:
                        instance.close_unused_sockets()
                    self.tasks.handle_exits()
                    self._reconciled.unpark_all()
                self._demand.cancel_watches()
        self.on_turn(trio.current_time())
        self._reconciled.unpark_all()

    def _has_runs(self) -> bool:
        return self.tasks.is_running or any(each.is_running for each in self.instances)

    def _emit(
        self, instance: Instance | Task, kind: type[events.LifecycleEvent], **values: Any
    ) -> None:
        self._subscribers.emit(kind(instance.plugin, instance.number, **values))
