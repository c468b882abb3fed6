"""The nursery tree of a mesh: its warden, and the one task that decides what lives.

That task owns the table of instances. Whatever happens, the end of a life above all, is told to it
and makes it plan again; nobody else starts or stops a process.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs
import trio

from meshtrio.config import MeshConfig, PluginConfig, StaticServiceConfig
from meshtrio.discovery import static
from meshtrio.discovery.registry import Registry
from meshtrio.errors import MeshFailedError, UsageError
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects, RunContext
from meshtrio.supervisor.instance import Instance, InstanceStatus
from meshtrio.supervisor.policy.escalation import (
    EscalateToMesh,
    GroupRestartTimes,
    NoEscalation,
    escalate,
    plugins_restarted_with,
)
from meshtrio.supervisor.policy.plan import DesiredState, plan
from meshtrio.supervisor.policy.restart import (
    Exit,
    Finish,
    GiveUp,
    Restart,
    RestartHistory,
    decide,
)
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity
from meshtrio.supervisor.process_run import ProcessRun
from meshtrio.supervisor.shutdown_report import ShutdownReport, ShutdownReporter
from meshtrio.supervisor.statistics import LifecycleCounters, MeshStatistics
from meshtrio.supervisor.subscribers import Subscribers
from meshtrio.util.concurrency import open_collapsing_nursery, sleep_until_tick

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0
_DRAIN_DELAY = 0.1
"""Seconds from leaving the registry to SIGTERM, while others of the mesh go on."""
_MAX_UNKILLABLE = 3
"""Processes of one instance that could not be killed and still run, beyond which it is not started
again: each start would leave another."""
_SKIPPED_BY_GROUP_RESTART = frozenset({InstanceState.STOPPED, InstanceState.EXITED})
"""At rest because somebody stopped it, or it was done: a group's restart does not change that."""


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
        """`world` is what it is to use instead of real processes: a fake, in tests."""
        self.mesh_socket = runtime_dir.mesh_socket_path(directory)
        self._effects = effects or Effects.for_system(directory, config.cgroup)
        self._counters, self._shutdown_reporter = LifecycleCounters(), ShutdownReporter()
        self._failed = trio.Event()
        self._failure: BaseException | None = None
        self._subscribers = Subscribers(
            [self._counters.on_event, self._shutdown_reporter.on_event, *subscribers], self._fail
        )
        self._started_at = trio.current_time()
        self._run_context = RunContext(
            registry,
            self.mesh_socket,
            self._subscribers.emit,
            self._effects,
            self._telemetry_environment,
        )
        self._registry = registry
        self._service_tables: tuple[StaticServiceConfig, ...] = ()
        self._declared_services: set[str] = set()
        """Those that the config declares."""
        self._directory = directory
        self.instances = [
            Instance(plugin, number)
            for plugin in config.plugins
            for number in range(plugin.instances)
        ]
        self.configure(config)
        self._exited_runs: deque[tuple[Instance, ProcessRun]] = deque()
        self._batch_ids = itertools.count(1)
        self._recent_group_restarts: GroupRestartTimes = {}
        self._wakeup = trio.Event()
        self._reconciled = trio.lowlevel.ParkingLot()
        self._is_shutting_down = False

    def configure(self, config: MeshConfig) -> None:
        """Go by this config from now on; instances are added and removed one by one."""
        self.config = config
        self._set_guard_users()
        self._relations = config.topology()
        self._dependencies = self._relations.dependencies()
        by_name = {plugin.name: plugin for plugin in config.plugins}
        for child in self.instances:
            before = child.config.output.log_level
            child.apply_config(by_name.get(child.plugin, child.config))
            if child.config.output.log_level is not before:
                self._emit(child, events.LogLevelSet, level=child.config.output.log_level)
        services = {plugin.service for plugin in config.plugins}
        services |= {table.name for table in config.services}
        for service in sorted(services):
            self._registry.add_service(service)
        static.apply_service_tables(self._registry, self._service_tables, config.services)
        for service in self._declared_services - services:
            self._registry.remove_service(service)
        self._service_tables, self._declared_services = config.services, services

    def _set_guard_users(self) -> None:
        """Have the guard know whose processes plugins are."""
        try:
            self._effects.guard.set_users(runtime_dir.resolve_plugin_uids(self.config))
        except OSError as exc:
            _log.error(
                "cannot record the users of plugins in the runtime dir: %s; should this mesh and "
                "its warden be killed, the next mesh there leaves their processes alone",
                exc.strerror,
            )

    def add(self, instances: Iterable[Instance]) -> None:
        """Take new instances on, in the order of the config."""
        order = {plugin.name: place for place, plugin in enumerate(self.config.plugins)}
        self.instances += instances
        self.instances.sort(key=lambda child: (order[child.plugin], child.number))
        self._wake()

    def remove(self, instances: Iterable[Instance]) -> None:
        """Forget instances that rest."""
        gone = set(instances)
        self.instances = [child for child in self.instances if child not in gone]

    def find_unready_dependencies(self, instance: Instance) -> list[list[Instance]]:
        """What an instance that does not run waits for: the instances of each plugin that it comes
        after, directly or not, and of which none is ready."""
        found: list[list[Instance]] = []
        plugins = set() if instance.is_running else {instance.plugin}
        seen = set(plugins)
        while plugins:
            needed = self._dependencies.get(plugins.pop(), frozenset()) - seen
            seen |= needed
            for name in needed:
                instances = self._instances_of([name])
                if not any(instance.is_ready for instance in instances):
                    found.append(instances)
                    plugins.add(name)
        return found

    def subscribe(self, subscriber: events.Subscriber) -> None:
        """Call `subscriber` with each event from now on; what it raises is logged."""
        self._subscribers.add(subscriber)

    def _fail(self, failure: BaseException) -> None:
        """Have `run` stop everything and raise this."""
        self._failure = self._failure or failure
        self._failed.set()

    def statuses(self) -> tuple[InstanceStatus, ...]:
        """Every instance as it is now, in the order of the config."""
        return tuple(child.status(self._socket_path(child, child.slot)) for child in self.instances)

    def statistics(self) -> MeshStatistics:
        """The whole mesh in numbers, as it is now."""
        plugins = [plugin.name for plugin in self.config.plugins]
        children: defaultdict[str, list[Instance]] = defaultdict(list)
        for child in self.instances:
            children[child.plugin].append(child)
        return MeshStatistics(
            uptime=trio.current_time() - self._started_at,
            plugins=tuple(self._counters.summarize(name, [name], children) for name in plugins),
            groups=tuple(
                self._counters.summarize(
                    group.name, self._relations.plugins_in(group.name), children
                )
                for group in self.config.groups
            ),
            total=self._counters.summarize("mesh", plugins, children),
        )

    @property
    def shutdown_report(self) -> ShutdownReport:
        """How it came down, as far as it has."""
        return self._shutdown_reporter.report

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start every plugin and keep it until cancelled; no process is left after that.

        Plugins are stopped in the reverse of the order they are started in. The warden outlives
        them, so that a mesh killed while it stops leaves none either. Raises MeshFailedError, with
        everything stopped, when a plugin's failure was escalated to the mesh, and so the SystemExit
        or KeyboardInterrupt of a subscriber.
        """
        async with self._effects.run_guard(), open_collapsing_nursery() as nursery:
            nursery.start_soon(self._supervisor_loop)
            nursery.start_soon(self._check_loop)
            task_status.started()
            try:
                await self._failed.wait()
            finally:
                self.start_shutdown()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as seen after the keeper has acted; cancellable.

        Raises UsageError where the mesh stops before it is.
        """
        self._wake()
        await trio.lowlevel.checkpoint()
        while not condition():
            if self._is_shutting_down:
                raise UsageError("the mesh is stopping")
            await self._reconciled.park()

    def start_shutdown(self) -> None:
        """Stop everything; `run` returns when it is. Does not wait."""
        self._is_shutting_down = True
        self._shutdown_reporter.start()
        for child in self.instances:
            child.desired_state = DesiredState.STOPPED
        self._wake()

    def _telemetry_environment(
        self, plugin: PluginConfig, number: int, slot: int
    ) -> dict[str, str]:
        telemetry = self.config.telemetry
        told = telemetry.plugin_environment(plugin, number, slot)
        return told | telemetry.binary_log_environment(plugin, self._directory)

    def _wake(self) -> None:
        """Have the keeper look again."""
        self._wakeup.set()

    async def _check_loop(self) -> None:
        """Once a second: instances that are old or large are renewed, or killed for their size."""
        while True:
            await sleep_until_tick(_CHECK_INTERVAL)
            try:
                await self._check_instances()
            except Exception:
                _log.exception("cannot see which instances are to be renewed")

    async def _check_instances(self) -> None:
        watched = [child for child in self.instances if child.process is not None]
        for child in self.instances:
            child.unkillable = tuple(each for each in child.unkillable if each.is_running)
        if any(child.config.monitors_memory for child in watched):
            await self._check_memory(watched)
        for child in watched:
            for life in child.runs():
                life.check_socket()
            reason = child.find_replace_reason(self._effects.rng, self._effects.is_socket_removed)
            if reason and not child.replace_reason:
                child.replace_reason = reason
                self._wake()

    async def _check_memory(self, instances: Iterable[Instance]) -> None:
        try:
            resident = await self._effects.read_rss_by_group()
        except (OSError, RuntimeError) as exc:
            _log.warning("cannot see how much memory plugins use: %s", exc)
            return
        for child in instances:
            child.record_rss(resident)

    # -- the keeper --------------------------------------------------------------------------

    async def _supervisor_loop(self) -> None:
        """Plan and act until all is stopped. Shielded: cancellation comes here as `close`."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as lives:
                while not self._is_shutting_down or any(
                    child.is_running for child in self.instances
                ):
                    self._wakeup = trio.Event()
                    wake = self._reconcile(lives)
                    with trio.move_on_at(wake):
                        await self._wakeup.wait()
                    while self._exited_runs:
                        self._handle_exit(*self._exited_runs.popleft())
                    self._reconciled.unpark_all()
        self._reconciled.unpark_all()
        for child in self.instances:
            if child.idle_state in (InstanceState.PENDING, InstanceState.BACKOFF):
                child.idle_state = InstanceState.STOPPED

    def _reconcile(self, runs: trio.Nursery) -> float:
        now = trio.current_time()
        todo = plan(self.instances, self._dependencies, now, self.config.max_starting)
        for child in todo.stop:
            child.stop(0 if self._is_shutting_down else _DRAIN_DELAY)
        for child in todo.start:
            child.active_run, child.batch = self._start_run(child, child.slot, runs), 0
        for child in self.instances:
            if child.replace_reason and child.is_ready and child.replacement is None:
                self._emit(child, events.Renewing, reason=child.replace_reason)
                child.replacement = self._start_run(child, 1 - child.slot, runs)
            elif child.replacement is not None and child.replacement.is_ready:
                child.promote(_DRAIN_DELAY)
        return todo.wake_at

    def _socket_path(self, instance: Instance, slot: int) -> Path:
        return runtime_dir.plugin_socket_path(
            self._directory, instance.config, instance.number, slot
        )

    def _start_run(self, instance: Instance, slot: int, runs: trio.Nursery) -> ProcessRun:
        socket = self._socket_path(instance, slot)
        life = ProcessRun(
            instance.config,
            instance.number,
            slot,
            socket,
            self._run_context,
            instance.line_buffer,
            self._wake,
        )
        runs.start_soon(self._run_process, instance, life)
        return life

    async def _run_process(self, instance: Instance, run: ProcessRun) -> None:
        await run.run()
        left = run.exit is not None and run.exit.is_unkillable
        if left:
            # What follows depends on how many of its processes cannot be killed, this one included.
            await self._kill_orphans(instance, run.identity)
        self._exited_runs.append((instance, run))
        self._wake()
        if not left:
            await self._kill_orphans(instance, run.identity)

    async def _kill_orphans(self, instance: Instance, identity: RunIdentity | None) -> None:
        """Kill what a process has left behind, and report what cannot be killed."""
        if identity is None:
            return
        try:
            remains = await self._effects.kill_orphans(identity)
        except Exception:
            _log.exception(
                "cannot look for what %s/%d has left behind", instance.plugin, instance.number
            )
            return
        if remains.killed:
            self._emit(instance, events.Swept, count=remains.killed)
        instance.unkillable += remains.unkillable
        for each in remains.unkillable:
            self._emit(
                instance, events.LeftRunning, pid=each.pid, name=each.name, reason=each.reason
            )

    # -- ends --------------------------------------------------------------------------------

    def _handle_exit(self, instance: Instance, run: ProcessRun) -> None:
        """Take over that a life has ended, and decide what follows."""
        assert run.exit is not None
        was_successor = run is instance.replacement
        orphaned = instance.handle_exit(run)
        if was_successor:
            delay = instance.config.backoff.delay(instance.replace_failures, self._effects.rng)
            instance.next_replace_at = trio.current_time() + delay
        if instance.desired_state is DesiredState.RUNNING:
            if orphaned:
                instance.exit_reason = str(run.exit)
                self._apply_restart_policy(instance, run.exit, run.since_ready)
        elif not instance.is_running:
            instance.exit_reason = str(run.exit)
            instance.idle_state = InstanceState.STOPPED
            if instance.desired_state is DesiredState.RESTARTED:
                instance.desired_state, instance.idle_state = (
                    DesiredState.RUNNING,
                    InstanceState.PENDING,
                )

    def _apply_restart_policy(
        self, instance: Instance, process_exit: Exit, since_ready: float | None
    ) -> None:
        now = trio.current_time()
        if process_exit.is_unkillable and len(instance.unkillable) > _MAX_UNKILLABLE:
            text = f"{process_exit}, as do {len(instance.unkillable) - 1} others of its processes"
            process_exit = attrs.evolve(process_exit, reason=f"{text}; it is not started again")
            instance.desired_state, instance.idle_state, instance.exit_reason = (
                DesiredState.STOPPED,
                InstanceState.FAILED,
                str(process_exit),
            )
            self._emit(instance, events.GaveUp, exit=process_exit)
            return
        decision = decide(
            instance.config, instance.history, process_exit, since_ready, now, self._effects.rng
        )
        match decision:
            case Restart(delay=delay, history=history):
                instance.history, instance.start_at, instance.idle_state = (
                    history,
                    now + delay,
                    InstanceState.BACKOFF,
                )
                self._emit(instance, events.Restarting, delay=delay)
                others = plugins_restarted_with(self._relations, instance.plugin)
                if others:
                    self._restart_batch([instance, *self._instances_of(others)])
            case Finish(is_failure=failed):
                instance.desired_state, instance.idle_state = (
                    DesiredState.STOPPED,
                    InstanceState.FAILED if failed else InstanceState.EXITED,
                )
                self._emit(instance, events.GaveUp, exit=process_exit)
            case GiveUp(restarts=restarts):
                instance.desired_state, instance.idle_state = (
                    DesiredState.STOPPED,
                    InstanceState.FAILED,
                )
                self._emit(instance, events.GaveUp, exit=process_exit, restarts=restarts)
                self._escalate(instance, process_exit, decision, now)

    def _escalate(self, instance: Instance, exit: Exit, given_up: GiveUp, now: float) -> None:
        verdict = escalate(self._relations, instance.config, self._recent_group_restarts, now)
        if isinstance(verdict, NoEscalation):
            return
        if isinstance(verdict, EscalateToMesh):
            failure = MeshFailedError(
                instance.plugin,
                instance.number,
                given_up.restarts,
                given_up.period,
                verdict.failed_groups,
                str(exit),
                exit.stderr_tail,
            )
            self._fail(failure)
            return
        self._recent_group_restarts = verdict.restart_times
        self._emit(instance, events.GroupRestarting, group=verdict.group, plugins=verdict.plugins)
        members = self._instances_of(verdict.plugins)
        for member in members:
            # Afresh: what it had been through counts no more, but for the total.
            member.history = RestartHistory(restarts=member.history.restarts)
        instance.idle_state = InstanceState.BACKOFF
        self._restart_batch(members)

    def _instances_of(self, plugins: Iterable[str]) -> list[Instance]:
        wanted = frozenset(plugins)
        return [child for child in self.instances if child.plugin in wanted]

    def _restart_batch(self, instances: Iterable[Instance]) -> None:
        """Stop those that run, and start none before all have stopped."""
        batch = next(self._batch_ids)
        for child in instances:
            if (
                child.desired_state is DesiredState.STOPPED
                and child.idle_state in _SKIPPED_BY_GROUP_RESTART
            ):
                continue
            child.batch = batch
            child.desired_state = (
                DesiredState.RESTARTED if child.is_running else DesiredState.RUNNING
            )

    def _emit(
        self, instance: Instance, kind: type[events.LifecycleEvent], **values: object
    ) -> None:
        self._subscribers.emit(kind(instance.plugin, instance.number, **values))
